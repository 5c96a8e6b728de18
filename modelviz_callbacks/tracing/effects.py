"""Which tensors a call could write to, and whether it did."""

from __future__ import annotations

from typing import Any

import torch


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in an argument, also in lists, tuples and dictionaries."""
    found: list[torch.Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            if item is not None:
                _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)


def unique(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each object once."""
    if len(tensors) <= 1:
        return tensors
    return list({id(tensor): tensor for tensor in tensors}.values())


def versions_in(value: Any) -> list[tuple[torch.Tensor, int]]:
    """The tensors in an argument, each with a number that grows with every in-place write."""
    # Tensors made in inference mode keep no version, and cannot be written to outside it.
    return [(each, each._version) for each in tensors_in(value) if not each.is_inference()]
