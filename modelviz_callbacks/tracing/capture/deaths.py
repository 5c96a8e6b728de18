"""When tensors died, as the recorder hears of it.

A weak reference calls back when its tensor is gone. The callback is the ``append`` of a list, which
takes no time worth speaking of, and holds nothing of the tensor; the same list gets the length of
the tape whenever a record is made. So what stands behind a number died after that entry of the
tape was under way, and before the next.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from modelviz_callbacks.tracing.capture.tape import TensorRecord


class Deaths:
    """Reads such a list, once somebody asks.

    Args:
        events: Lengths of the tape and dead weak references; what comes later is not looked at.
    """

    def __init__(self, events: list[Any]) -> None:
        self._events = events.copy()

    def of(self, record: TensorRecord) -> int | None:
        """Where on the tape the tensor of a record died.

        Args:
            record: Of the recording that the list is of; any version.

        Returns:
            The last entry that it was alive at; ``None``: it was when the recording ended.
        """
        return self._by_reference.get(id(record.ref))

    @cached_property
    def _by_reference(self) -> dict[int, int]:
        found, position = dict[int, int](), 0
        for event in self._events:  # which is kept: a number stands for one object while it lives
            if type(event) is int:
                position = event
            else:
                found[id(event)] = position
        return found
