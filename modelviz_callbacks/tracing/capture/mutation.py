"""Which tensors a call could write to, and whether it did."""

from __future__ import annotations

from typing import Any

import torch

from modelviz_callbacks.tracing.capture.object_parts import PLAIN_TYPES
from modelviz_callbacks.tracing.capture.tape import TensorRecord, flat_records
from modelviz_callbacks.tracing.capture.torch_internals import version_of

# One version of a tensor, the tensor, and its number.
Version = tuple[TensorRecord, torch.Tensor, int]

_PLAIN = frozenset(PLAIN_TYPES)


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


def versions_in(args: list[Any], kwargs: dict[str, Any] | None) -> list[Version]:
    """The tensors among encoded arguments, each with a number that in-place writes raise."""
    found: list[Version] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if value.__class__ is TensorRecord:
            _add_version(value, found)
        elif value.__class__ not in _PLAIN:
            for record in flat_records(value):
                _add_version(record, found)
    return found


def _add_version(record: TensorRecord, found: list[Version]) -> None:
    tensor = record.ref()
    if tensor is None:
        return
    try:
        found.append((record, tensor, version_of(tensor)))
    except RuntimeError:
        return  # made in inference mode: keeps no version, and cannot be written to outside it
