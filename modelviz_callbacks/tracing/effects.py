"""Which tensors a call could write to, and whether it did."""

from __future__ import annotations

from typing import Any

import torch


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in an argument, also in lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return []


def unique(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each object once."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def version_of(tensor: torch.Tensor) -> int:
    """A number that grows with every in-place write."""
    # Tensors made in inference mode keep no version, and cannot be written to outside it.
    return 0 if tensor.is_inference() else tensor._version
