"""Layers and losses that the exporter's table lacks, in terms of functions that it has.

See `modelviz_callbacks.writers.onnx.replacements`.
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
