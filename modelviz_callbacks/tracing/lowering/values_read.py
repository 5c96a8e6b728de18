"""What Python or numpy took out of a forward and put back: right for the recorded inputs only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.recording import Recording, argument_records
from modelviz_callbacks.tracing.capture.tape import OpEntry, TensorRecord, flat_records
from modelviz_callbacks.tracing.lowering.to_graph import node_names


class ValuesRead:
    """Which inputs Python looked at, by what op, and what they were.

    A test of a condition (``if x.sum() > 0``) is left out: a replay follows the recorded path.
    """

    def __init__(self, recording: Recording, tensors: Sequence[torch.Tensor]) -> None:
        """Reads the tape, and those of the inputs that it leads to.

        Args:
            recording: A whole one.
            tensors: Its inputs, in the order of `Recording.input_records`, as they were before
                the forward. One that it has written to is not compared.
        """
        inputs = [record for _, record in recording.input_records()]
        behind = {record: frozenset([place]) for place, record in enumerate(inputs)}
        written: set[int] = set()
        readers: dict[int, OpEntry] = {}
        for entry in recording.tape:
            if not isinstance(entry, OpEntry):
                continue
            places = frozenset[int]().union(*(_of(r, behind) for r in argument_records(entry)))
            if classify(entry.func) is CallKind.READ:
                if not entry.plumbing and getattr(entry.func, "__name__", "") != "__bool__":
                    for place in places:
                        readers.setdefault(place, entry)
                continue
            for record in (*flat_records(entry.result), *entry.writes):
                behind[record] = places | _of(record, behind)
                if record.first in inputs:
                    written.add(inputs.index(record.first))
        names = node_names(recording) if readers else {}
        self._readers = {place: names.get(id(entry), "an op") for place, entry in readers.items()}
        self._digests = {
            place: _digest(tensors[place])
            for place in readers
            if place not in written and place < len(tensors)
        }

    def changed(self, tensors: Sequence[torch.Tensor]) -> str:
        """The op through which Python saw an input that is another one now; ``""``: none."""
        for place, digest in self._digests.items():
            if digest and digest != _digest(tensors[place]):
                return self._readers[place]
        return ""


def _of(record: TensorRecord, behind: dict[TensorRecord, frozenset[int]]) -> frozenset[int]:
    found: frozenset[int] = frozenset()
    waiting, seen = [record], set[TensorRecord]()
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        if here in behind:
            found |= behind[here]
            continue
        origin = here.origin
        if here.previous is not None:
            waiting.append(here.previous)
        if origin is not None:
            waiting += origin.sources
            waiting += [origin.alias_of] if origin.alias_of is not None else []
    return found


def _digest(tensor: torch.Tensor) -> bytes:
    """A number for the values; empty for a tensor that has none to be read."""
    try:
        with torch.no_grad():
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            return hashlib.blake2b(plain.numpy().tobytes()).digest()
    except (RuntimeError, TypeError, NotImplementedError):
        return b""
