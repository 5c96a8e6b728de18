"""Who wrote to the memory a tensor shows: writes through views, and reads after them.

Tensors that share a storage form one region. When a tensor is read after another tensor of
its region was written to, and the two have an element in common, the value read was made by
that write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from modelviz_callbacks.tracing.capture.tape import TensorRecord

_W = TypeVar("_W")

# How many partial solutions are tried before two views are taken to overlap.
_MAX_STEPS = 2000


@dataclass
class _Region(Generic[_W]):
    writes: list[tuple[TensorRecord, _W]] = field(default_factory=list)


class Aliasing(Generic[_W]):
    """Follows one tape in order and knows which writes a read depends on."""

    def __init__(self) -> None:
        self._regions: dict[TensorRecord, _Region[_W]] = {}
        self._by_storage: dict[int, _Region[_W]] = {}
        self._synced: dict[TensorRecord, int] = {}

    def add_source(self, record: TensorRecord) -> None:
        """A tensor that was there before; shares its region with whoever has its storage."""
        region = self._by_storage.get(record.storage) if record.storage else None
        self._join(record, region or _Region())

    def add_result(self, record: TensorRecord, arguments: list[TensorRecord]) -> None:
        """A tensor an op made: a view of one of its arguments, or fresh memory."""
        is_kept = record.previous in self._regions and not record.has_moved
        shared = record.previous if is_kept else None
        for argument in arguments:
            if shared is None and record.storage and argument.storage == record.storage:
                shared = argument if argument in self._regions else None
        self._join(record, self._regions[shared] if shared is not None else _Region())

    def add_view(self, record: TensorRecord, base: TensorRecord) -> None:
        """A tensor that shows another one's memory, be it on a storage of its own."""
        self._join(record, self._regions.get(base) or _Region())

    def add_write(self, record: TensorRecord, writer: _W) -> None:
        """``record`` is the new version of a tensor that ``writer`` wrote to."""
        region = self._regions[record]
        region.writes.append((record, writer))
        self._synced[record] = len(region.writes)

    def sync(self, record: TensorRecord) -> None:
        """Takes a tensor to show all that was written until now."""
        if record in self._regions:
            self._synced[record] = len(self._regions[record].writes)

    def pending(self, record: TensorRecord) -> Iterator[_W]:
        """The writers since this record was made or last read, that changed what it shows."""
        region = self._regions.get(record)
        if region is None:
            return
        start, self._synced[record] = self._synced[record], len(region.writes)
        for written, writer in region.writes[start:]:
            if overlap(written, record):
                yield writer

    def __contains__(self, record: TensorRecord) -> bool:
        return record in self._regions

    def _join(self, record: TensorRecord, region: _Region[_W]) -> None:
        self._regions[record] = region
        self._synced[record] = len(region.writes)
        if record.storage:
            self._by_storage[record.storage] = region


def overlap(first: TensorRecord, second: TensorRecord) -> bool:
    """Whether two strided tensors on one storage have an element in common.

    Exact for the views people make; true where finding out would take too long.
    """
    if first.stride is None or second.stride is None:
        return True
    if first.storage != second.storage:
        return True  # an array's, which begins where it does
    if first.shape is None or second.shape is None:
        return True
    if 0 in first.shape or 0 in second.shape:
        return False
    # An element in common: offset1 + sum(stride * i) == offset2 + sum(stride * j).
    terms: dict[int, int] = {}
    for shape, strides, sign in (
        (first.shape, first.stride, 1),
        (second.shape, second.stride, -1),
    ):
        for size, stride in zip(shape, strides, strict=True):
            if size > 1 and stride != 0:
                terms[sign * stride] = terms.get(sign * stride, 0) + size - 1
    ordered = sorted(terms.items(), key=lambda term: -abs(term[0]))
    return _reachable(second.offset - first.offset, ordered)


def _reachable(target: int, terms: list[tuple[int, int]]) -> bool:
    """Whether sum(stride * x) == target has a solution with 0 <= x <= count."""
    lows = [0] * (len(terms) + 1)
    highs = [0] * (len(terms) + 1)
    divisors = [0] * (len(terms) + 1)
    for index in range(len(terms) - 1, -1, -1):
        stride, count = terms[index]
        lows[index] = lows[index + 1] + min(0, stride * count)
        highs[index] = highs[index + 1] + max(0, stride * count)
        divisors[index] = math.gcd(divisors[index + 1], stride)
    steps = 0
    waiting = [(0, target)]
    while waiting:
        steps += 1
        if steps > _MAX_STEPS:
            return True
        index, left = waiting.pop()
        if not lows[index] <= left <= highs[index]:
            continue
        if index == len(terms):
            return True  # the bounds above leave only zero
        if left % divisors[index]:
            continue
        stride, count = terms[index]
        low, high = left - highs[index + 1], left - lows[index + 1]
        if stride < 0:
            low, high = high, low
        fewest, most = max(0, -(-low // stride)), min(count, high // stride)
        waiting += [(index + 1, left - stride * times) for times in range(fewest, most + 1)]
    return False
