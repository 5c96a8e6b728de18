"""What kernels of torch's allocate for themselves while they run, where that follows a rule.

A loss that is reduced is made of all elements first. oneDNN, which convolves on x86 processors,
works on blocks of channels: it copies input and weight into them, and the result out of them. What
else kernels work in (a product in half precision, cuDNN's workspaces) depends on the machine.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch

# How many tensors as large as the first argument there are before the reduction.
_WHOLE_FIRST = {
    "aten::mse_loss": 2,
    "aten::smooth_l1_loss": 2,
    "aten::huber_loss": 1,
    "aten::soft_margin_loss": 1,
    "aten::binary_cross_entropy": 1,
    "aten::binary_cross_entropy_with_logits": 2,
    "aten::logsumexp": 1,
}

# An image of so few channels is read as it is; what is smaller than this oneDNN is not asked for.
_FEW_CHANNELS = 3
_SMALL = 20_480


def buffer_bytes(name: str, args: Any, result: Any) -> int:
    """Bytes that a small op needs beside what it is given and gives.

    Args:
        name: Of its schema, ``aten::convolution``.
        args: What it was given, tensors without data.
        result: What it gave.
    """
    if name == "aten::convolution":
        source, weight, *_, transposed, _, groups = args
        return _of_convolution(source, weight, result, transposed, groups)
    whole = _WHOLE_FIRST.get(name)
    if whole is None or result.numel() >= args[0].numel():
        return 0
    return whole * _bytes(args[0])


def _of_convolution(source: Any, weight: Any, result: Any, transposed: bool, groups: int) -> int:
    block = _block()
    if not block or source.dtype is not torch.float32 or not source.is_contiguous():
        return 0
    if source.device.type != "cpu":
        return 0
    if source.shape[0] == 1 and groups == 1 and source.numel() <= _SMALL:
        return 0
    before, after = source.shape[1], result.shape[1]
    # Of groups each has its own channels, which are rarely fewer than a block.
    widen, widened = (1.0, 1.0) if groups > 1 else (_padded(before, block), _padded(after, block))
    if before <= _FEW_CHANNELS and not transposed:
        widen = 0.0
    given = _bytes(source) * widen + _bytes(weight) * max(widen, 1.0) * widened
    made = _bytes(result) * widened
    made_twice = made if transposed else 0.0
    return int(max(given + made_twice + made - _bytes(result), made))


def _padded(channels: int, block: int) -> float:
    """By how much channels grow that are filled up to whole blocks."""
    return math.ceil(channels / block) * block / channels


@cache
def _block() -> int:
    """How many channels oneDNN takes at once on this processor; 0: it is not asked."""
    known = {"AVX2": 8, "AVX512": 16}
    is_there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return known.get(torch.backends.cpu.get_cpu_capability(), 0) if is_there else 0


def _bytes(tensor: Any) -> int:
    return int(tensor.numel()) * int(tensor.element_size())
