"""A copy of the model in eval mode, for what would otherwise have to be done to the model."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.writers.onnx.copied_functions import Functions

# Buffers up to this size in all are copied, larger ones shared: the copy may write to them.
_MOST_BYTES = 2**30

_TABLES = ("_parameters", "_buffers", "_modules")


def eval_copy(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode that shares its parameters' memory.

    Args:
        module: Any module; nothing of it is changed. Tensors that its hooks or its forward left
            in attributes (the weight of a pruned or spectrally normalised layer) are shared, too.

    Returns:
        The copy. What cannot be copied (locks, Python's generators, open files) is shared.
    """
    memo: dict[int, Any] = {id(parameter): _alias(parameter) for parameter in module.parameters()}
    size = sum(buffer.nbytes for buffer in module.buffers())
    for buffer in module.buffers():
        plain = type(buffer) is torch.Tensor and size <= _MOST_BYTES
        memo[id(buffer)] = buffer.detach().clone() if plain else buffer
    for submodule in module.modules():
        for value in vars(submodule).values():
            if isinstance(value, torch.Generator):  # else the model's own would be moved on
                memo[id(value)] = value.clone_state()
        for tensor in _tensors_in(vars(submodule), 0):
            if tensor.grad_fn is not None:
                memo.setdefault(id(tensor), tensor.detach())
    copies = dict(memo)
    try:
        made: nn.Module = copy.deepcopy(module, copies)
    except Exception:
        anew: dict[int, nn.Module] = {}
        made = _copied(module, memo, anew)
        copies = {**memo, **anew}
    Functions(copies).point_to_copies(made)
    _stop_observing(made)
    return made.eval()


@contextlib.contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Gives a module's buffers back as they were.

    Args:
        module: Copies of it may run meanwhile. Code in them that still leads to the module itself
            (by a global name) writes to its running statistics.
    """
    buffers = [one for one in module.buffers() if type(one) is torch.Tensor]
    if sum(buffer.nbytes for buffer in buffers) > _MOST_BYTES:
        buffers = []
    before = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in zip(buffers, before, strict=True):
                if buffer.shape == values.shape and not torch.equal(buffer, values):
                    buffer.copy_(values)


def _stop_observing(module: nn.Module) -> None:
    """Lets layers of quantisation-aware training keep the scales that they have."""
    quantization = sys.modules.get("torch.ao.quantization")
    kind: Any = getattr(quantization, "FakeQuantizeBase", ())
    for layer in module.modules():
        if isinstance(layer, kind):
            layer.disable_observer()
            if not bool(layer.fake_quant_enabled.any()):
                layer.forward = _same


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _alias(parameter: torch.Tensor) -> torch.Tensor:
    """Another parameter with the same memory: what is assigned to the copy's stays the copy's."""
    if type(parameter) is not nn.Parameter:
        return parameter
    made = nn.Parameter(parameter.detach(), parameter.requires_grad)
    vars(made).update(vars(parameter))
    return made


def _tensors_in(value: Any, depth: int) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth < 6 and not isinstance(value, nn.Module):
        children: Any
        if isinstance(value, dict):
            children = value.values()
        elif isinstance(value, (list, tuple, set)):
            children = value
        else:
            children = getattr(value, "__dict__", {}).values()
        for child in list(children):
            if not isinstance(child, (str, bytes, int, float, type, type(None))):
                yield from _tensors_in(child, depth + 1)


def _copied(module: nn.Module, memo: dict[int, Any], made: dict[int, nn.Module]) -> nn.Module:
    """The modules and the state anew; what else they hold is shared."""
    if id(module) in made:
        return made[id(module)]
    new = made[id(module)] = module.__class__.__new__(module.__class__)
    vars(new).update(
        {
            name: copy.copy(value) if type(value) in (dict, list, set) or "hooks" in name else value
            for name, value in vars(module).items()
        }
    )
    for table in _TABLES:
        for name, value in vars(new).get(table, {}).items():
            if isinstance(value, nn.Module):
                vars(new)[table][name] = _copied(value, memo, made)
            elif value is not None:
                vars(new)[table][name] = memo.get(id(value), value)
    for name, value in vars(new).items():
        if isinstance(value, torch.Generator):
            vars(new)[name] = memo.get(id(value), value)
        elif isinstance(value, nn.Module):  # kept out of sight of the module's own tables
            vars(new)[name] = _copied(value, memo, made)
    return new
