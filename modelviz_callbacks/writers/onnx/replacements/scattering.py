"""Writes by index, in the ways in which torch has them and ONNX's ``ScatterElements`` has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_MODES = {"add": "sum", "multiply": "prod"}


def scatter(
    tensor: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> torch.Tensor:
    """What is written may be a number, and may be added to or multiplied with what is there."""
    given = value if src is None else src
    if not isinstance(given, torch.Tensor):
        if reduce is None:
            return tensor.scatter(dim, index, given)
        given = torch.full(index.shape, given, dtype=tensor.dtype)
    if reduce is None:
        return tensor.scatter(dim, index, _as_far_as(index, given))
    return scatter_reduce(tensor, dim, index, given, _MODES[reduce])


def scatter_add(
    tensor: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor
) -> torch.Tensor:
    """What is added may be larger than the index."""
    return tensor.scatter_add(dim, index, _as_far_as(index, src))


def scatter_reduce(
    tensor: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    src: torch.Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> torch.Tensor:
    """ONNX has no mean of what comes together: the table writes the last of it instead."""
    src = _as_far_as(index, src)
    if reduce != "mean":
        return tensor.scatter_reduce(dim, index, src, reduce, include_self=include_self)
    there = torch.ones_like(tensor)
    if not include_self:
        tensor, there = tensor.scatter(dim, index, 0), there.scatter(dim, index, 0)
    total = tensor.scatter_add(dim, index, src)
    count = there.scatter_add(dim, index, torch.ones_like(src))
    if not include_self:
        count = count.clamp(min=1)  # where nothing is written the tensor stays
    return total / count if total.is_floating_point() else total.div(count, rounding_mode="floor")


def in_place(func: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same, written to the tensor."""

    def written(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return tensor.copy_(func(tensor, *args, **options))

    return written


def _as_far_as(index: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
    """The part of what is written that an index tells of: torch takes more than that."""
    for dim, size in enumerate(index.shape):
        if src.shape[dim] != size:
            src = src.narrow(dim, 0, size)
    return src
