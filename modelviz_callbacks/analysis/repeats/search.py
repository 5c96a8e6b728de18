"""Repeats: consecutive steps of a scope that are the same, wired one into the next or side by side.

Steps fold only if it is proven on the graph that they are equal: the same keys (see
``modelviz_callbacks.analysis.fingerprint``), each copy fed by the copy before it where the second
is fed by the first, everything else they read the same for all, their parameters either all
shared or all their own, and no tensor from inside a copy, the last one apart, read by
anything but the next copy, the outputs of the graph, and what reads the same tensor of every copy
of a loop over the same weights (a list that is stacked in the end). Copies that do not feed each
other fold if they were written as one: see `modelviz_callbacks.analysis.repeats.side_by_side`.

Copies that differ in one thing fold, too, if each differs from the one before it: see
`modelviz_callbacks.analysis.repeats.variation`. Steps of one loop fold whatever grows from one to
the next: they are from the same lines of source and use the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from modelviz_callbacks.analysis.fingerprint import (
    Fingerprinter,
    Key,
    Subgraph,
    place_in,
)
from modelviz_callbacks.analysis.outline import HELD_KINDS, Item
from modelviz_callbacks.analysis.repeats.loops import LoopFinder
from modelviz_callbacks.analysis.repeats.side_by_side import (
    are_side_by_side,
    is_a_choice,
    told_side_by_side,
)
from modelviz_callbacks.analysis.repeats.starts import starts_late
from modelviz_callbacks.analysis.repeats.variation import (
    Variation,
    Variations,
    free_sizes,
)
from modelviz_callbacks.analysis.repeats.wiring import (
    Fold,
    Run,
    names_in,
    own_parameters,
    read_elsewhere,
    wiring,
)
from modelviz_callbacks.graph.model import ModuleCall, Node
from modelviz_callbacks.graph.values import Ref

# The longest pattern that is looked for, in items.
_LONGEST_PERIOD = 32

# Further back than any item of the same scope.
_OUTSIDE = 2**62


def find_folds(
    exact: Fingerprinter,
    any_arguments: Fingerprinter,
    any_sizes: Fingerprinter | None = None,
    loop_steps: Fingerprinter | None = None,
) -> tuple[Fold, ...]:
    """The repeats of a graph; `Analysis.folds` asks once.

    Args:
        exact: The graph's keys, of exact shapes and arguments.
        any_arguments: Its keys that leave literal arguments out.
        any_sizes: Its keys that leave sizes of tensors out, too; given, copies may also differ in
            one size (channels, features). What is said of the first of them, shapes and numbers
            of parameters, does not hold for the others then.
        loop_steps: Its keys of steps of loops; given, lists and sizes may grow from one to the
            next.

    Returns:
        The folds of outer scopes before those within them. Folds within a copy are given for
        the first copy only; folds of one scope do not overlap.
    """
    return tuple(_Finder(exact, any_arguments, any_sizes, loop_steps).below(""))


class _Finder:
    def __init__(
        self,
        exact: Fingerprinter,
        any_arguments: Fingerprinter,
        any_sizes: Fingerprinter | None,
        loop_steps: Fingerprinter | None,
    ) -> None:
        self.outline = exact.outline
        self.exact = exact
        self.variations = {any_arguments: Variations(self.outline, sizes=False)}
        if any_sizes is not None:
            self.variations[any_sizes] = Variations(self.outline, sizes=True)
        self.loop_steps = loop_steps
        self._reaches: dict[str, tuple[tuple[int, Ref | None], ...]] = {}

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
        loops = LoopFinder(self.loop_steps, scope) if self.loop_steps is not None else None
        start = 0
        while start < len(items):
            tries = (
                self._proven(fingerprinter, items, Run(scope, start, period), times)
                for fingerprinter, repeats in tables
                for period, times in repeats.candidates(start)
                if not starts_late(items, partial(repeats.times, period=period), start, period)
            )
            fold = next((fold for fold in tries if fold is not None), None)
            if loops is not None:
                fold = loops.longer(fold, start)
            if fold is None:
                start += 1
            else:
                yield fold
                start += fold.times * len(fold.copies[0])

    def _proven(
        self, fingerprinter: Fingerprinter, items: Sequence[Item], run: Run, times: int
    ) -> Fold | None:
        """The fold of as many copies as are really the same, if that is enough of them."""
        period = run.period
        if not self._may_be_alike(items, run):
            return None
        variations = self.variations.get(fingerprinter)
        only_apart = False
        if variations is not None:
            reach = variations.reach(items[run.start : run.start + period * times], period, times)
            only_apart = not reach  # side by side sizes may be what they like
            if only_apart and not (variations.sizes and self._may_be_apart(items, run)):
                return None
            times = reach or times
        starts = range(run.start, run.start + period * times, period)
        copies = [items[at : at + period] for at in starts]
        subgraphs = self._alike(fingerprinter, copies, run, only_apart)
        subgraphs = subgraphs[: own_parameters(subgraphs)]
        kept = copies[: len(subgraphs)]
        in_parallel = len(kept) > 1 and not self._is_chain(kept[1], run)
        one_call = period == 1 and isinstance(items[run.start], ModuleCall)
        if len(kept) < (2 if one_call and fingerprinter is self.exact else 3):
            return None
        if in_parallel and not told_side_by_side(self.outline, run.scope, kept):
            return None
        variation = self._variation(variations, kept, only_apart)
        if variations is not None and variation is None:
            return None
        if in_parallel and not subgraphs[0].held and is_a_choice(variation):
            return None
        names = tuple(tuple(item.name for item in copy) for copy in kept)
        shared = bool(subgraphs[0].held) and subgraphs[1].held == subgraphs[0].held
        return Fold(run.scope, names, shared, variation, in_parallel)

    def _variation(
        self, variations: Variations | None, copies: Sequence[Sequence[Item]], only_apart: bool
    ) -> Variation | None:
        """What differs between copies; of those whose sizes are what they like one thing more."""
        if variations is None:
            return None
        if not only_apart:
            return variations.of(copies)
        nodes = [[node for item in copy for node in self.outline.calls_in(item)] for copy in copies]
        return free_sizes(self.outline, nodes)

    def _alike(
        self,
        fingerprinter: Fingerprinter,
        copies: Sequence[Sequence[Item]],
        run: Run,
        only_apart: bool,
    ) -> list[Subgraph]:
        """The copies that are the same and wired the same, from the first on.

        With ``only_apart`` those of which none reads of another one.
        """
        subgraphs = [fingerprinter.run(copies[0])]
        wired: list[Key] = []
        collected: frozenset[Key] = frozenset()
        for number, copy in enumerate(copies[1:], 1):
            subgraph = fingerprinter.run(copy)
            before = Run(run.scope, run.start + (number - 1) * run.period, run.period)
            wires = wiring(self.outline, subgraphs[0], subgraph, before, number)
            if subgraph.digest != subgraphs[0].digest or wires is None:
                break
            wired = wired or wires
            if wires != wired:
                break
            is_chain = any(wire[0] == "chain" for wire in wires)
            if is_chain and only_apart:
                break
            if is_chain:
                following = names_in(self.outline, copy)
                elsewhere = read_elsewhere(self.outline, copies[number - 1], following)
                collected = elsewhere if number == 1 else collected
                if elsewhere != collected or not self._collects(
                    collected, subgraphs[0], subgraph, copy
                ):
                    break
            elif number == 1 and not are_side_by_side(self.outline, run.scope, copies[:2]):
                break
            subgraphs.append(subgraph)
        return subgraphs

    def _is_chain(self, second: Sequence[Item], run: Run) -> bool:
        """Whether the second copy reads of the first one."""
        made = (
            place_in(self.outline, ref, run.scope, run.start, run.period)
            for item in second
            for ref in self.outline.externals(item)
        )
        return any(place is not None for place in made)

    def _may_be_alike(self, items: Sequence[Item], run: Run) -> bool:
        """Whether the second copy reads of itself, and of the first one, what that one lets expect.

        Cheap beside the keys and the wiring, which hold it too: in a graph of many thousand ops
        without a repeat nearly all patterns that look like one end here.
        """
        for place in range(run.period):
            at = run.start + place
            first, second = self._reach(items[at]), self._reach(items[at + run.period])
            if len(first) != len(second):
                return False
            for (back_of_one, ref_of_one), (back, ref) in zip(first, second, strict=True):
                is_own = place - run.period < back <= place
                if is_own or place - run.period < back_of_one <= place:
                    fits = back == back_of_one
                else:  # of the copy before it, or of what that one reads too
                    is_same = ref is None or (ref_of_one and ref.node == ref_of_one.node)
                    fits = place < back <= place + run.period or bool(is_same)
                if not fits:
                    return False
        return True

    def _may_be_apart(self, items: Sequence[Item], run: Run) -> bool:
        """Whether the second copy reads nothing of the first one; cheap, too."""
        return not any(
            place < back <= place + run.period
            for place in range(run.period)
            for back, _ in self._reach(items[run.start + run.period + place])
        )

    def _reach(self, item: Item) -> tuple[tuple[int, Ref | None], ...]:
        """Each tensor that an item reads, and how many items before it was made.

        Far more than there are items if it was made outside of the scope; no tensor where it is
        a parameter, buffer or constant.
        """
        found = self._reaches.get(item.name)
        if found is None:
            graph, scope = self.outline.graph, self.outline.scope_of(item)
            at, length = self.outline.position[item.name], len(self.outline.items[scope])
            read = item.inputs if isinstance(item, Node) else self.exact.body(item.name).externals
            made = [place_in(self.outline, ref, scope, 0, length) for ref in read]
            backs = [_OUTSIDE if place is None else at - place[0] for place in made]
            held = [graph.by_name[ref.node].kind in HELD_KINDS for ref in read]
            refs = [None if is_held else ref for is_held, ref in zip(held, read, strict=True)]
            found = self._reaches[item.name] = tuple(zip(backs, refs, strict=True))
        return found

    def _collects(
        self, collected: frozenset[Key], first: Subgraph, subgraph: Subgraph, copy: Sequence[Item]
    ) -> bool:
        """Whether a copy gives what the first one gives to those that collect from every copy."""
        if not collected:
            return True
        # Blocks with weights of their own that are read one by one are a dense network.
        is_loop = subgraph.held == first.held
        return is_loop and collected <= read_elsewhere(self.outline, copy, frozenset())


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
        # Asked of every item: most have none.
        found = [
            (period, lengths[start] // period + 1)
            for period, lengths in enumerate(self._equal, 1)
            if lengths[start] >= period
        ]
        return sorted(found, key=lambda pair: (-pair[0] * pair[1], pair[0]))
