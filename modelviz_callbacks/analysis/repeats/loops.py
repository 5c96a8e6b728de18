"""Steps of one loop, which may read ever longer lists and make ever larger tensors.

Steps are of one loop if each does the same calls from the same lines of source with the same
parameters, or with those of the next layer in a container (the experts of a mixture, each on as
many tokens as there are for it), and each reads what the step before it made, or what all steps
before it made: ``cache = torch.cat([cache, key], 1)``, attention over all states so far. Or none
reads anything of another one: see `modelviz_callbacks.analysis.repeats.side_by_side`.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from functools import partial
from itertools import pairwise

from modelviz_callbacks.analysis.fingerprint import Fingerprinter, Key, Subgraph
from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.analysis.repeats.side_by_side import (
    are_side_by_side,
    is_a_choice,
    of_one_loop,
    told_side_by_side,
)
from modelviz_callbacks.analysis.repeats.starts import starts_late
from modelviz_callbacks.analysis.repeats.variation import (
    Variation,
    step_variation,
    varying_literals,
)
from modelviz_callbacks.analysis.repeats.wiring import (
    Fold,
    Run,
    names_in,
    own_parameters,
    read_elsewhere,
    wiring,
)
from modelviz_callbacks.graph.model import ModuleCall

# Fewer steps than this say nothing about how a loop goes on.
_FEWEST = 3

# The last wire of a step that reads nothing of those before it.
_APART: Key = ("apart",)

# How many places where an item comes again are tried as the beginning of the next step, and how
# many lengths of a step are tried in one scope.
_TRIES, _MOST_PERIODS = 3, 40


class LoopFinder:
    """Finds the loops of one scope.

    Args:
        fingerprinter: Of the kind ``step``.
        scope: ``""`` or a module call that ran.
    """

    def __init__(self, fingerprinter: Fingerprinter, scope: str) -> None:
        self.fingerprinter = fingerprinter
        self.outline = fingerprinter.outline
        self.scope = scope
        self.items = self.outline.items[scope]
        self._keys = [fingerprinter.alone(item) for item in self.items]
        self._next: dict[int, int] = {}
        after: dict[str, int] = {}
        for at in range(len(self._keys) - 1, -1, -1):
            if self._keys[at] in after:
                self._next[at] = after[self._keys[at]]
            after[self._keys[at]] = at
        self._equal: dict[int, list[int]] = {}

    def longer(self, fold: Fold | None, start: int) -> Fold | None:
        """The loop that starts at an item, if it is more of the scope than a fold that does.

        Args:
            fold: What was found there otherwise.
            start: The item's place.
        """
        covered = fold.times * len(fold.copies[0]) if fold is not None else 0
        period = 0
        for _ in range(_TRIES):
            period = self._next.get(start + period, start) - start
            if period <= 0:
                break
            times = self._times(start, period)
            if starts_late(self.items, partial(self._times, period=period), start, period):
                continue
            if times >= _FEWEST and times * period > covered + period:
                found = self._proven(Run(self.scope, start, period), times)
                if found is not None and found.times * period > covered + period:
                    return found
        return fold

    def _times(self, start: int, period: int) -> int:
        """How many steps there are that look alike."""
        if period not in self._equal:
            if len(self._equal) >= _MOST_PERIODS:
                return 0
            keys = self._keys
            lengths = [0] * (len(keys) + 1)
            for at in range(len(keys) - period - 1, -1, -1):
                lengths[at] = lengths[at + 1] + 1 if keys[at] == keys[at + period] else 0
            self._equal[period] = lengths
        return self._equal[period][start] // period + 1

    def _proven(self, run: Run, times: int) -> Fold | None:
        copies = [self.items[run.start : run.start + run.period]]
        sourced = (isinstance(item, ModuleCall) or item.source is not None for item in copies[0])
        if not all(sourced) and not any(map(self._holds, copies[0])):
            return None
        first = self.fingerprinter.run(copies[0])
        wired: list[Key] | None = None
        subgraphs = [first]
        inside = set(names_in(self.outline, copies[0]))
        for number in range(1, times):
            at = run.start + number * run.period
            copy = self.items[at : at + run.period]
            subgraph = self.fingerprinter.run(copy)
            before = Run(run.scope, at - run.period, run.period)
            wires = self._wires((first, subgraph), before, number, inside)
            if wires is None or (wired is not None and wires != wired):
                break
            wired = wires
            copies.append(copy)
            inside |= names_in(self.outline, copy)
            subgraphs.append(subgraph)
            if number == 1 and not self._may_go_on(subgraphs, copies, wires[-1] == _APART):
                break
        in_parallel = wired is not None and wired[-1] == _APART
        if len(copies) < _FEWEST or not self._is_closed(copies, inside, in_parallel):
            return None
        return self._fold(copies, subgraphs, in_parallel)

    def _fold(
        self,
        copies: Sequence[Sequence[Item]],
        subgraphs: Sequence[Subgraph],
        in_parallel: bool,
    ) -> Fold | None:
        """The fold of steps that hang together, if what differs between them can be told."""
        held = subgraphs[0].held
        is_shared = bool(held) and subgraphs[1].held == held
        nodes = [[node for i in copy for node in self.outline.calls_in(i)] for copy in copies]
        varying = varying_literals(nodes)
        if not is_shared and len({tuple(text for _, text in column) for column in varying}) > 1:
            return None  # without weights that tell that it is a loop one thing may differ
        variation = step_variation(nodes, varying)
        if in_parallel and not held and is_a_choice(variation):
            return None
        if held and not is_shared:
            sizes = {tuple(node.outputs for node in step) for step in nodes}
            is_told = not varying or (variation is not None and bool(variation.names))
            if len(sizes) == 1 or not is_told or not self._take_turns(subgraphs, copies):
                return None
            variation = replace(variation or Variation((), ()), grows=True)
        names = tuple(tuple(item.name for item in copy) for copy in copies)
        return Fold(self.scope, names, is_shared, variation, in_parallel)

    def _holds(self, item: Item) -> bool:
        """Whether an item reads a parameter or a buffer."""
        if isinstance(item, ModuleCall):
            return bool(self.fingerprinter.body(item.name).held)
        kinds = (self.outline.graph.by_name[ref.node].kind for ref in item.inputs)
        return any(kind in ("parameter", "buffer") for kind in kinds)

    def _wires(
        self, compared: tuple[Subgraph, Subgraph], before: Run, number: int, inside: Set[str]
    ) -> list[Key] | None:
        """Where a step's inputs come from; ``None`` if it is no further step of the first.

        ``inside`` are the nodes of all steps before it, ``number`` of them.
        """
        first, subgraph = compared
        if subgraph.digest != first.digest:
            return None
        if subgraph.held != first.held and subgraph.gathered:
            return None  # blocks with weights of their own that read all before them: dense ones
        outside = [ref for ref in subgraph.gathered if ref.node not in inside]
        if not set(outside) <= set(first.gathered):
            return None
        wires = wiring(self.outline, first, subgraph, before, number)
        is_chain = len(outside) < len(subgraph.gathered)
        if wires is None:
            return None
        is_chain = is_chain or any(wire[0] == "chain" for wire in wires)
        return wires if is_chain else [*wires, _APART]

    def _may_go_on(
        self, subgraphs: Sequence[Subgraph], copies: Sequence[Sequence[Item]], is_apart: bool
    ) -> bool:
        """Whether the first two steps let expect a loop."""
        if is_apart and not are_side_by_side(self.outline, self.scope, copies):
            return False
        is_shared = subgraphs[0].held == subgraphs[1].held
        return is_shared or of_one_loop(self.outline, self.scope, copies)

    def _take_turns(self, subgraphs: Sequence[Subgraph], copies: Sequence[Sequence[Item]]) -> bool:
        """Whether steps take one layer of a list after the other, and only the next one reads them.

        What is read step by step is a dense network; what is the same in each is found without.
        """
        if own_parameters(subgraphs) < len(subgraphs):
            return False
        pairs = pairwise(copies)
        is_left_alone = not any(
            read_elsewhere(self.outline, one, names_in(self.outline, other)) for one, other in pairs
        )
        return is_left_alone and of_one_loop(self.outline, self.scope, copies)

    def _is_closed(
        self, copies: Sequence[Sequence[Item]], inside: Set[str], in_parallel: bool
    ) -> bool:
        """Whether every step but the last gives the same to what comes after the loop.

        Who reads of a step is another matter where the last steps are left out.
        """
        if in_parallel:
            return told_side_by_side(self.outline, self.scope, copies)
        given = [read_elsewhere(self.outline, copy, inside) for copy in copies]
        return all(one == given[0] for one in given[:-1]) and given[0] <= given[-1]
