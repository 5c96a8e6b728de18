"""Whose storages somebody asked for: the tensor may be gone while its storage is in use."""

from __future__ import annotations

import weakref

import torch

from modelviz_callbacks.tracing.capture.tape import TensorRecord


class KnownStorages:
    """The storages that were asked for, by identity; none of them is held."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._known: dict[int, tuple[weakref.ref[torch.UntypedStorage], TensorRecord]] = {}

    def note(self, storage: torch.UntypedStorage, record: TensorRecord) -> None:
        """Remembers which tensor lies on a storage."""
        self._known[id(storage)] = weakref.ref(storage), record

    def record_of(self, storage: torch.UntypedStorage) -> TensorRecord | None:
        """The tensor that a storage was asked of; ``None``: nobody saw that."""
        ref, record = self._known.get(id(storage), (None, None))
        return record if ref is not None and ref() is storage else None
