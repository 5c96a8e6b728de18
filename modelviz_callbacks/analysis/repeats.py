"""Repeats: consecutive steps of a scope that are the same, wired one into the next.

Steps fold only if it is proven on the graph that they are equal: the same keys (see
``modelviz_callbacks.analysis.fingerprint``), each copy fed by the copy before it where the second
is fed by the first, everything else they read the same for all, their parameters either all
shared or all their own, and no tensor from inside a copy, the last one apart, read by
anything but the next copy, the outputs of the graph, and what reads the same tensor of every copy
of a loop over the same weights (a list that is stacked in the end).

Copies that differ in one thing fold, too, if each differs from the one before it: see
`modelviz_callbacks.analysis.repeat_variation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelviz_callbacks.analysis.fingerprint import Fingerprinter, Key, Subgraph, place_in
from modelviz_callbacks.analysis.outline import Item, Outline
from modelviz_callbacks.analysis.repeat_variation import Variation, Variations
from modelviz_callbacks.graph.model import ModuleCall
from modelviz_callbacks.graph.values import Ref

# The longest pattern that is looked for, in items.
_LONGEST_PERIOD = 32


@dataclass(frozen=True, slots=True)
class Fold:
    """Copies of one pattern.

    Attributes:
        scope: The scope whose items they are.
        copies: The names of the items of each copy, in execution order; all equally long.
        shared: Whether the copies use the same parameters, buffers and constants.
        variation: The one thing that differs; ``None``: nothing does.
    """

    scope: str
    copies: tuple[tuple[str, ...], ...]
    shared: bool = False
    variation: Variation | None = None

    @property
    def times(self) -> int:
        """How many copies there are; at least 2."""
        return len(self.copies)


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive items of a scope: from ``start`` on, ``period`` of them."""

    scope: str
    start: int
    period: int


def find_folds(
    exact: Fingerprinter, any_arguments: Fingerprinter, any_sizes: Fingerprinter | None = None
) -> tuple[Fold, ...]:
    """The repeats of a graph; `Analysis.folds` asks once.

    Args:
        exact: The graph's keys, of exact shapes and arguments.
        any_arguments: Its keys that leave literal arguments out.
        any_sizes: Its keys that leave sizes of tensors out, too; given, copies may also differ in
            one size (channels, features). What is said of the first of them, shapes and numbers
            of parameters, does not hold for the others then.

    Returns:
        The folds of outer scopes before those within them. Folds within a copy are given for
        the first copy only; folds of one scope do not overlap.
    """
    return tuple(_Finder(exact, any_arguments, any_sizes).below(""))


class _Finder:
    def __init__(
        self, exact: Fingerprinter, any_arguments: Fingerprinter, any_sizes: Fingerprinter | None
    ) -> None:
        self.outline = exact.outline
        self.exact = exact
        self.variations = {any_arguments: Variations(self.outline, sizes=False)}
        if any_sizes is not None:
            self.variations[any_sizes] = Variations(self.outline, sizes=True)

    def below(self, scope: str) -> Iterator[Fold]:
        items = self.outline.items[scope]
        repeated: set[str] = set()
        for fold in self._in_scope(scope, items):
            yield fold
            repeated.update(name for copy in fold.copies[1:] for name in copy)
        for item in items:
            if isinstance(item, ModuleCall) and item.name not in repeated:
                yield from self.below(item.name)

    def _in_scope(self, scope: str, items: tuple[Item, ...]) -> Iterator[Fold]:
        tables = [
            (fingerprinter, _Repeats([fingerprinter.alone(item) for item in items]))
            for fingerprinter in (self.exact, *self.variations)
        ]
        start = 0
        while start < len(items):
            tries = (
                self._proven(fingerprinter, items, _Run(scope, start, period), times)
                for fingerprinter, repeats in tables
                for period, times in repeats.candidates(start)
                if not _starts_late(items, repeats, start, period)
            )
            fold = next((fold for fold in tries if fold is not None), None)
            if fold is None:
                start += 1
            else:
                yield fold
                start += fold.times * len(fold.copies[0])

    def _proven(
        self, fingerprinter: Fingerprinter, items: Sequence[Item], run: _Run, times: int
    ) -> Fold | None:
        """The fold of as many copies as are really the same, if that is enough of them."""
        period = run.period
        variations = self.variations.get(fingerprinter)
        if variations is not None:
            times = variations.reach(items[run.start : run.start + period * times], period, times)
            if not times:
                return None
        starts = range(run.start, run.start + period * times, period)
        copies = [items[at : at + period] for at in starts]
        subgraphs = [fingerprinter.run(copies[0])]
        wiring: list[Key] | None = None
        collected: frozenset[Key] = frozenset()
        for copy, at in zip(copies[1:], starts, strict=False):
            subgraph = fingerprinter.run(copy)
            wires = _wiring(self.outline, subgraphs[0], subgraph, _Run(run.scope, at, period))
            if subgraph.digest != subgraphs[0].digest or wires is None:
                break
            if wiring is None:
                wiring = wires
            if wires != wiring or not any(wire[0] == "chain" for wire in wires):
                break
            elsewhere = _read_elsewhere(self.outline, copies[len(subgraphs) - 1], copy)
            collected = elsewhere if len(subgraphs) == 1 else collected
            if elsewhere != collected or not self._collects(
                collected, subgraphs[0], subgraph, copy
            ):
                break
            subgraphs.append(subgraph)
        subgraphs = subgraphs[: _own_parameters(subgraphs)]
        one_call = period == 1 and isinstance(items[run.start], ModuleCall)
        if len(subgraphs) < (2 if one_call and fingerprinter is self.exact else 3):
            return None
        kept = copies[: len(subgraphs)]
        variation = variations.of(kept) if variations is not None else None
        if variations is not None and variation is None:
            return None
        names = tuple(tuple(item.name for item in copy) for copy in kept)
        shared = bool(subgraphs[0].held) and subgraphs[1].held == subgraphs[0].held
        return Fold(run.scope, names, shared, variation)

    def _collects(
        self, collected: frozenset[Key], first: Subgraph, subgraph: Subgraph, copy: Sequence[Item]
    ) -> bool:
        """Whether a copy gives what the first one gives to those that collect from every copy."""
        if not collected:
            return True
        # Blocks with weights of their own that are read one by one are a dense network.
        is_loop = subgraph.held == first.held
        return is_loop and collected <= _read_elsewhere(self.outline, copy, ())


class _Repeats:
    """How often patterns of keys follow themselves, for every start and period."""

    def __init__(self, keys: Sequence[str]) -> None:
        longest = min(_LONGEST_PERIOD, len(keys) // 2)
        self._equal = [self._run_lengths(keys, period) for period in range(1, longest + 1)]

    @staticmethod
    def _run_lengths(keys: Sequence[str], period: int) -> list[int]:
        """For each start, how many keys in a row equal the key one period later."""
        lengths = [0] * (len(keys) + 1)
        for at in range(len(keys) - period - 1, -1, -1):
            lengths[at] = lengths[at + 1] + 1 if keys[at] == keys[at + period] else 0
        return lengths

    def times(self, start: int, period: int) -> int:
        """How many copies of the pattern there are from ``start`` on."""
        return self._equal[period - 1][start] // period + 1

    def candidates(self, start: int) -> list[tuple[int, int]]:
        """Periods with how often they repeat, those that cover most first, then short ones."""
        periods = range(1, len(self._equal) + 1)
        found = [(period, self.times(start, period)) for period in periods]
        found = [(period, times) for period, times in found if times > 1]
        return sorted(found, key=lambda pair: (-pair[0] * pair[1], pair[0]))


def _starts_late(items: Sequence[Item], repeats: _Repeats, start: int, period: int) -> bool:
    """Whether as many repeats, begun a bit later, would begin with a module call."""
    if isinstance(items[start], ModuleCall):
        return False
    for shift in range(1, period):
        if isinstance(items[start + shift], ModuleCall):
            return repeats.times(start + shift, period) >= repeats.times(start, period)
    return False


def _wiring(
    outline: Outline, first: Subgraph, subgraph: Subgraph, before: _Run
) -> list[Key] | None:
    """Where a copy's inputs and parameters come from, in terms of the copy before it.

    Returns:
        For each input the place in the copy before it, or that it is what the first copy
        reads too; for each parameter whether it is the first copy's. ``None`` if some input
        is neither.
    """
    found: list[Key] = []
    if len(subgraph.externals) != len(first.externals) or len(subgraph.held) != len(first.held):
        return None
    for ref, of_first in zip(subgraph.externals, first.externals, strict=True):
        place = place_in(outline, ref, before.scope, before.start, before.period)
        if place is not None:
            found.append(("chain", place, ref.index))
        elif ref == of_first:
            found.append(("same",))
        else:
            return None
    pairs = zip(subgraph.held, first.held, strict=True)
    return found + [("held", name == of_first) for name, of_first in pairs]


def _own_parameters(subgraphs: Sequence[Subgraph]) -> int:
    """How many of the copies, from the first on, have no parameter of another one by chance."""
    shared = set(subgraphs[0].held) & set(subgraphs[1].held) if len(subgraphs) > 1 else set()
    seen: set[str] = set()
    for number, subgraph in enumerate(subgraphs):
        own = set(subgraph.held) - shared
        if own & seen:
            return number
        seen |= own
    return len(subgraphs)


def _read_elsewhere(
    outline: Outline, copy: Sequence[Item], following: Sequence[Item]
) -> frozenset[Key]:
    """Which tensors of a copy are read elsewhere, and by what.

    Args:
        outline: The graph's.
        copy: Its items.
        following: The items of the next copy, which may read whatever it likes.

    Returns:
        The place of each tensor among those made in the copy, and its reader's name; outputs of
        the graph are left out.
    """
    readers = {node.name for item in (*copy, *following) for node in outline.calls_in(item)}
    consumers = outline.graph.consumers
    found = set()
    made = (node for item in copy for node in outline.calls_in(item))
    for place, node in enumerate(made):
        for index in range(len(node.outputs)):
            for reader in consumers.get(Ref(node.name, index), ()):
                if reader.kind != "output" and reader.name not in readers:
                    found.add((place, index, reader.name))
    return frozenset(found)
