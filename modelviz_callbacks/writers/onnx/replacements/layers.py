"""Layers and losses that the exporter's table lacks, in terms of functions that it has.

See `modelviz_callbacks.writers.onnx.replacements.table`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional


def gaussian_nll_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    var: torch.Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> torch.Tensor:
    """Without the look whether a variance is negative."""
    spread = torch.full((), var) if isinstance(var, float) else var
    if spread.dim() and spread.shape != input.shape and spread.shape[-1:] != (1,):
        spread = spread.unsqueeze(-1)
    spread = spread.clamp(min=eps)
    loss: torch.Tensor = 0.5 * (spread.log() + (input - target) ** 2 / spread)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduced(loss, reduction)


def _reduced(loss: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def embedding_bag(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    *positional: Any,
    mode: str = "mean",
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    **others: Any,
) -> torch.Tensor:
    """Every entry against every bag."""
    if positional or any(others.get(name) is not None for name in ("max_norm", "padding_idx")):
        raise NotImplementedError("embedding_bag with max_norm or padding_idx")
    found = functional.embedding(input, weight)
    if per_sample_weights is not None:
        found = found * per_sample_weights.unsqueeze(-1)
    if offsets is None:
        if mode == "max":
            return found.amax(1)
        return found.sum(1) if mode == "sum" else found.mean(1)
    starts = offsets[:-1] if include_last_offset else offsets
    places = torch.arange(input.shape[0])
    bag_of = (places[:, None] >= starts[None, :]).sum(1) - 1
    inside = bag_of[None, :] == torch.arange(starts.shape[0])[:, None]
    if mode == "max":
        table = torch.where(inside.unsqueeze(-1), found, torch.finfo(found.dtype).min)
        best = table.amax(1)
        return torch.where(inside.any(1, keepdim=True), best, torch.zeros_like(best))
    summed = inside.to(found.dtype) @ found
    if mode == "sum":
        return summed
    return summed / inside.sum(1, keepdim=True).clamp(min=1)


def fractional_max_pool(
    input: torch.Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: torch.Tensor | None = None,
) -> torch.Tensor:
    """What ``fractional_max_pool2d`` and ``3d`` give: a window for each output, along each axis."""
    count = 2 if input.dim() < 5 and not _is_triple(kernel_size, output_size, output_ratio) else 3
    if return_indices or input.dim() != count + 2:
        raise NotImplementedError("fractional pooling with indices, or without a batch")
    sizes, kernels = input.shape[2:], _each(kernel_size, count)
    if output_size is None:
        shares = _each(output_ratio, count)
        output_size = [int(size * share) for size, share in zip(sizes, shares, strict=True)]
    wanted = _each(output_size, count)
    if _random_samples is None:
        _random_samples = torch.rand(*input.shape[:2], count, dtype=input.dtype)
    for axis in range(count):
        # Of the random numbers, the last is that of the first axis in two dimensions.
        draw = _random_samples[:, :, axis if count == 3 else 1 - axis]
        starts = _window_starts(draw, sizes[axis], kernels[axis], wanted[axis])
        places = (starts[..., None] + torch.arange(kernels[axis])).flatten(2)
        moved = input.movedim(2 + axis, 2)
        index = places.reshape(*places.shape, *[1] * (count - 1)).expand(
            -1, -1, -1, *moved.shape[3:]
        )
        found = moved.gather(2, index)
        windows = found.reshape(*found.shape[:2], wanted[axis], kernels[axis], *found.shape[3:])
        input = windows.amax(3).movedim(2, 2 + axis)
    return input


def _is_triple(*values: Any) -> bool:
    return any(isinstance(value, (tuple, list)) and len(value) == 3 for value in values)


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value] * count


def _window_starts(draw: torch.Tensor, size: int, kernel: int, wanted: int) -> torch.Tensor:
    if wanted == 1:
        return torch.full((*draw.shape, 1), size - kernel)
    alpha = (size - kernel) / (wanted - 1)
    steps = torch.arange(wanted - 1)
    found = ((steps + draw[..., None]) * alpha).to(torch.int64) - (draw[..., None] * alpha).to(
        torch.int64
    )
    return torch.cat([found, torch.full((*draw.shape, 1), size - kernel)], -1)


def adaptive_avg_pool3d(input: torch.Tensor, output_size: Any) -> torch.Tensor:
    """One matrix of shares for each dimension."""
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 3
    for dim, size in zip((-3, -2, -1), wanted, strict=True):
        before = input.shape[dim]
        after = before if size is None else size
        shares = [[0.0] * after for _ in range(before)]
        for index in range(after):
            start, end = index * before // after, -(-(index + 1) * before // after)
            for place in range(start, end):
                shares[place][index] = 1 / (end - start)
        input = (input.movedim(dim, -1) @ torch.tensor(shares)).movedim(-1, dim)
    return input
