"""Which sizes a forward has read that are others where its values are others."""

from __future__ import annotations

from typing import Any

import torch

from modelviz_callbacks.graph.op_facts import OpFact
from modelviz_callbacks.tracing.capture.recording import Recording, argument_records
from modelviz_callbacks.tracing.capture.tape import OpEntry, TensorRecord, flat_records
from modelviz_callbacks.tracing.op_facts import facts_of, torch_name

# Chosen by a mask, elements are as many as it is true for.
_MASKS = (torch.bool, torch.uint8)


class ToldSizes:
    """Follows the tape from ops whose results are as large as values say."""

    def __init__(self, recording: Recording) -> None:
        """Nothing was followed yet.

        Args:
            recording: Says which sizes Python has asked for.
        """
        self._places: dict[TensorRecord, set[int | None]] = {}
        for record, func, more in recording.sizes_told:
            self._places.setdefault(record, set()).add(_place(func, more))
        self._by_values: set[TensorRecord] = set()

    def after(self, entry: OpEntry) -> list[tuple[TensorRecord, tuple[int, ...], tuple[int, ...]]]:
        """What was asked of an op's results that hangs on values.

        Args:
            entry: The next op of the tape.

        Returns:
            Each of these results, with the dimensions that were asked for, and what was told.
        """
        given = argument_records(entry)
        if self._by_values.isdisjoint(given) and not _is_sized_by_values(entry, given):
            return []
        made = list(flat_records(entry.result))
        self._by_values.update(made, entry.writes)
        found = [(record, self._asked(record), record.sizes or ()) for record in made]
        return [
            (record, places, tuple(sizes[place] for place in places))
            for record, places, sizes in found
            if places
        ]

    def _asked(self, record: TensorRecord) -> tuple[int, ...]:
        places, sizes = self._places.get(record, set()), record.sizes
        if sizes is None:
            return ()
        if None in places:
            return tuple(range(len(sizes)))
        return tuple(sorted(place for place in places if place is not None))


def _place(func: Any, more: tuple[Any, ...]) -> int | None:
    """The dimension that a function was asked for; ``None``: for all."""
    if func is torch.Tensor.__len__:
        return 0
    return more[0] if more and type(more[0]) is int else None


def _is_sized_by_values(entry: OpEntry, given: list[TensorRecord]) -> bool:
    name = torch_name(entry.func)
    if not name:
        return bool(given)  # somebody's own, which may do anything
    if name == "where":
        return len(given) == 1
    if name == "__getitem__":
        return any(record.dtype in _MASKS for record in given[1:])
    return OpFact.SIZED_BY_VALUES in facts_of(entry.func)
