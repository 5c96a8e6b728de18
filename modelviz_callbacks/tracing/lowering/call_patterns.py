"""What calls have in common that differ in sizes only, as those of an unrolled loop that grows.

Two calls are of one pattern if their numbers differ and nothing else: which of them are equal,
zero, one or negative, and in which order the dimensions lie in memory, stays. Where several of a
pattern came out the same, so will the next; a size in bytes is one of a tensor, which grows as
one number.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

# So many calls of a pattern, on sizes of their own, must have come out the same.
_SAMPLES = 4


class Outcome(NamedTuple):
    """What a call came out as.

    Attributes:
        kind: What does not depend on its numbers.
        sizes: What does, each the size of a tensor.
    """

    kind: tuple[Any, ...]
    sizes: tuple[int, ...]


class CallPatterns:
    """What calls of the same pattern came out as."""

    def __init__(self) -> None:
        """Knows none."""
        self._found: dict[Hashable, list[tuple[tuple[int, ...], Outcome]]] = {}
        self._odd: set[Hashable] = set()

    def find(self, pattern: Hashable, numbers: tuple[int, ...]) -> Outcome | None:
        """What a call comes out as; ``None`` where that has to be seen.

        Args:
            pattern: The call's.
            numbers: Those that it leaves open.
        """
        samples = self._found.get(pattern, [])
        if pattern in self._odd or len(samples) < _SAMPLES:
            return None
        kind = samples[0][1].kind
        if not samples[0][1].sizes:
            return Outcome(kind, ())
        columns = list(zip(*(values for values, _ in samples), strict=True))
        grows = [place for place, column in enumerate(columns) if len(set(column)) > 1]
        others = [n for n, column in zip(numbers, columns, strict=True) if len(set(column)) == 1]
        same = [column[0] for column in columns if len(set(column)) == 1]
        if len(grows) != 1 or others != same:
            return None
        (place,) = grows
        sizes = [
            _continued(columns[place], column, numbers[place])
            for column in zip(*(outcome.sizes for _, outcome in samples), strict=True)
        ]
        known = tuple([size for size in sizes if size is not None])
        return Outcome(kind, known) if len(known) == len(sizes) else None

    def learn(self, pattern: Hashable, numbers: tuple[int, ...], outcome: Outcome | None) -> None:
        """Takes in what one came out as.

        Args:
            pattern: The call's.
            numbers: Those that it leaves open.
            outcome: ``None``: of it nothing can be said for other numbers.
        """
        samples = self._found.setdefault(pattern, [])
        if outcome is None or (samples and samples[0][1].kind != outcome.kind):
            self._odd.add(pattern)  # from now on each is looked at
        elif len(samples) < _SAMPLES:
            samples.append((numbers, outcome))


def _continued(numbers: Sequence[int], sizes: Sequence[int], number: int) -> int | None:
    """The size at a number, where sizes grow evenly; ``None`` where they do not."""
    first, other = 0, next(n for n, value in enumerate(numbers) if value != numbers[0])
    slope = Fraction(sizes[other] - sizes[first], numbers[other] - numbers[first])
    start = sizes[first] - slope * numbers[first]
    if any(start + slope * n != size for n, size in zip(numbers, sizes, strict=True)):
        return None
    found = start + slope * number
    return int(found) if found.denominator == 1 else None


class Pattern:
    """Leaves the numbers of one call open."""

    def __init__(self) -> None:
        """Has seen no number."""
        self._known: dict[int, int] = {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Those that were left open, in the order in which they turned up."""
        return tuple(self._known)

    def number(self, value: int) -> Hashable:
        """What stands for a number: itself below two, else which of the call's it is."""
        if value < 2:
            return value
        return "size", self._known.setdefault(value, len(self._known))

    def tensor(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> Hashable:
        """What stands for a tensor's sizes, and for how it lies in memory."""
        order = sorted(range(len(shape)), key=lambda d: (-stride[d], d))
        step, is_dense = 1, True
        for dimension in reversed(order):
            is_dense = is_dense and (shape[dimension] == 1 or stride[dimension] == step)
            step *= shape[dimension]
        lies = tuple(order) if is_dense else ("strided", *map(self.number, stride))
        return tuple(map(self.number, shape)), lies

    def of(self, key: Any) -> Hashable:
        """What stands for arguments, as `call_key` has them."""
        if type(key) is not tuple:
            return key  # type: ignore[no-any-return]
        if len(key) == 2 and key[0] is int:
            return int, self.number(key[1])
        return tuple([self.of(item) for item in key])
