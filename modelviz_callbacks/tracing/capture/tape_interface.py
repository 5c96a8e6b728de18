"""What those that explain tensors need of the recorder that they work for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from modelviz_callbacks.tracing.capture.tape import RawEntry, TensorRecord


class TapeOwner(Protocol):
    """Has a tape, and knows the present version of every tensor on it.

    Attributes:
        tape: What was recorded so far.
        note: Takes down when tensors die, see ``deaths``.
        losses: What ``backward`` was called on.
    """

    tape: list[RawEntry]
    losses: list[TensorRecord]
    note: Callable[[Any], None]

    def record(self, tensor: torch.Tensor) -> TensorRecord:
        """The present version of a tensor, known or not."""

    def known(self, tensor: torch.Tensor) -> TensorRecord | None:
        """The present version of a tensor that was seen before."""

    def living(self) -> Iterator[torch.Tensor]:
        """The tensors that are known and still there, the latest first."""

    def is_state(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the model."""

    def append_derived(self, func: Any, args: tuple[Any, ...], record: TensorRecord) -> None:
        """Appends an op that nothing called, to say how a tensor came about.

        Args:
            func: The op.
            args: Its arguments, tensors replaced by records.
            record: Its result.
        """
