"""What Python or numpy took out of a forward and put back: right for the recorded inputs only."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.recording import (
    Recording,
    argument_records,
    named_inputs,
    paths_of_arguments,
)
from modelviz_callbacks.tracing.capture.shared_memory import elements_of
from modelviz_callbacks.tracing.capture.tape import OpEntry, TensorRecord, flat_records
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function
from modelviz_callbacks.tracing.lowering.to_graph import node_names

# What is larger is not looked at.
_MOST_BYTES = 256 * 2**20


class ValuesBefore:
    """What goes into a model, before the forward, which may write to it.

    Attributes:
        digests: A number for each input, in the order of `Recording.input_records`.
    """

    def __init__(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Looks at the values.

        Args:
            signature: Of the code that will be recorded.
            args: What it will be given.
            kwargs: Likewise, by name.
        """
        named = named_inputs(signature, args, kwargs, lambda tensor: tensor)
        tensors = {id(tensor): tensor for _, tensor in paths_of_arguments(named)}
        self.digests = [_digest(tensor) for tensor in tensors.values()]


class ValuesRead:
    """Which inputs Python looked at, by what op, and what they were.

    A test of a condition (``if x.sum() > 0``) is left out: without one that reads it again, a
    program follows the recorded path.
    """

    def __init__(self, recording: Recording, before: ValuesBefore) -> None:
        """Reads the tape.

        Args:
            recording: A whole one.
            before: Of its inputs.
        """
        inputs = [record for _, record in recording.input_records()]
        behind = {record: frozenset([place]) for place, record in enumerate(inputs)}
        readers: dict[tuple[int, bool], OpEntry] = {}
        memory = _Memory(behind)
        for entry in recording.tape:
            if not isinstance(entry, OpEntry):
                continue
            given = argument_records(entry)
            places = frozenset[int]().union(*(memory.places_of(record) for record in given))
            if entry.gives_number or classify(entry.func) is CallKind.READ:
                if not entry.plumbing and type(entry.result) is not bool:
                    is_one = entry.gives_number
                    for place in places:
                        readers.setdefault((place, is_one), entry)
                continue
            memory.add(entry, given, places)
        names = node_names(recording) if readers else {}
        self._readers = {place: names.get(id(entry), "an op") for place, entry in readers.items()}
        self._digests = dict(enumerate(before.digests))

    def changed(self, tensors: Sequence[torch.Tensor], but_single: bool = False) -> str:
        """The op through which Python saw an input that is another one now; ``""``: none.

        Args:
            tensors: The inputs now.
            but_single: Whether single numbers are left out: the program reads them again.
        """
        for (place, is_one), reader in self._readers.items():
            digest = self._digests.get(place, b"")
            if digest and not (but_single and is_one) and digest != _digest(tensors[place]):
                return reader
        return ""


def reads_draws(recording: Recording) -> bool:
    """Whether Python or numpy looked at random numbers, or at what was made of them.

    Args:
        recording: Its numbers are all from ``torch.rand`` and ``torch.randn``.
    """
    memory = _Memory({})
    for entry in recording.tape:
        if not isinstance(entry, OpEntry):
            continue
        given = argument_records(entry)
        places = frozenset[int]().union(*(memory.places_of(record) for record in given))
        if entry.func in (torch.rand, torch.randn):
            places = frozenset([0])
        if places and (entry.gives_number or classify(entry.func) is CallKind.READ):
            return True
        memory.add(entry, given, places)
    return False


class _Memory:
    """Which inputs are behind what the tensors of a tape show."""

    def __init__(self, behind: dict[TensorRecord, frozenset[int]]) -> None:
        self._behind = behind
        self._written: dict[int, frozenset[int]] = {}  # by storage, what was written to it
        self._homes: dict[int, int] = {}  # of storages that show another one's memory

    def add(self, entry: OpEntry, given: list[TensorRecord], places: frozenset[int]) -> None:
        """Takes note of an op, given what its arguments come from."""
        storages = {record.storage for record in given}
        for record in flat_records(entry.result):
            if record.storage not in storages:  # new memory, maybe where other was before
                self._written.pop(record.storage, None)
                self._homes.pop(record.storage, None)
            self._behind[record] = places
        for record in entry.writes:
            self._behind[record] = places | self.places_of(record)
            home = self._home(record)
            self._written[home] = self._written.get(home, frozenset()) | places

    def places_of(self, record: TensorRecord) -> frozenset[int]:
        """The inputs behind a tensor, and behind what was written to its memory."""
        found: frozenset[int] = frozenset()
        waiting, seen = [record], set[TensorRecord]()
        while waiting:
            here = waiting.pop()
            if here in seen:
                continue
            seen.add(here)
            origin = here.origin
            if origin is not None and origin.alias_of is not None:
                waiting.append(origin.alias_of)
                if here.storage != origin.alias_of.storage:
                    self._homes[here.storage] = self._home(origin.alias_of)
            found |= self._written.get(self._home(here), frozenset())
            if here in self._behind:
                found |= self._behind[here]
                continue
            if here.previous is not None:
                waiting.append(here.previous)
            if origin is not None:
                waiting += origin.sources
        return found

    def _home(self, record: TensorRecord) -> int:
        return self._homes.get(record.storage, record.storage) if record.storage else -id(record)


def _digest(tensor: torch.Tensor) -> bytes:
    """A number for the values; empty for a tensor that has none to be read."""
    try:
        with torch.no_grad(), no_torch_function():
            if tensor.numel() * tensor.element_size() > _MOST_BYTES:
                return b""
            return hashlib.blake2b(elements_of(tensor)).digest()
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return b""
