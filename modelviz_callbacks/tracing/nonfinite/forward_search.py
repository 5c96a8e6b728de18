"""Finds the op that made the first number that is not finite, by replaying a program.

From the loss the numbers that are not finite are followed back to where they come up: ops that made
them of finite ones, inputs and weights that held them. A mask's ``-inf`` is nothing of that kind,
unless it reaches the loss. Each is a suspect only. It is certain if the loss is finite once it is
mended, with all others mended too, and is not if it alone is left as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.random_state import RandomState, random_devices
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import TensorRecord
from modelviz_callbacks.tracing.lowering.to_program import FACTS, Program
from modelviz_callbacks.tracing.nonfinite.found import Kind, Nonfinite, TensorRange
from modelviz_callbacks.tracing.nonfinite.watched_replay import (
    Event,
    Masks,
    WatchedReplay,
    place_in,
)

# How often what is found is mended, so that what lies behind it is found; and how many of all that
# is found are tried alone.
_MOST_ROUNDS = 6
_MOST_TRIED = 12
# What takes the place of a number that is not finite: the logarithm of one of them is finite, and
# so is a sum of many of the other.
_FILLS = (1.0, 0.0)

_NOT_MENDED = "the loss was not finite either with everything mended that was found"
_NOT_ALONE = "the loss is not finite only together with others"
_HIDDEN = "something behind it is not finite by itself, so that its own part cannot be told"
_NO_LOSS = "no output is a loss, and infinite numbers were written into what is one on purpose"
_NOT_SEEN = "not all that it was given could be looked at"

_ORDER: dict[Kind, int] = {"data": 0, "op": 1, "parameter": 2, "buffer": 3, "constant": 4}


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        first: The first that made or held such numbers; ``None``: the loss is finite.
        outputs: What the program gave, unmended.
    """

    first: Nonfinite | None
    outputs: tuple[torch.Tensor, ...]


class NonfiniteSearch:
    """One search, in one program, on one batch."""

    def __init__(
        self,
        program: Program,
        recording: Recording,
        tensors: Sequence[torch.Tensor],
        random_state: RandomState,
    ) -> None:
        """Nothing runs yet.

        Args:
            program: A recorded stretch.
            recording: Of what.
            tensors: The program's inputs; none is written to.
            random_state: Of the moment before the code ran that was recorded.
        """
        model = recording.model
        self._program = program
        self._tensors = tensors
        self._random_state = random_state
        self._parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        generators = [*_generators_of(program)]
        self._random_now = RandomState.now(random_devices(model), generators)
        self._places = {node: place for place, node in enumerate(program.module.graph.nodes)}
        self._losses, self._has_loss = losses_among(recording.output_records())

    def find(self) -> Found:
        """Searches.

        Returns:
            What was found. Torch's random state is as it was.

        Raises:
            ReplayError: The program cannot be run on this batch.
        """
        with self._random_now.kept():
            first = self._run()
            bad = self._bad_ends(first)
            if not bad:
                return Found(None, first.outputs)
            return Found(self._of(_suspects(bad)), first.outputs)

    def _bad_ends(self, replay: WatchedReplay) -> list[Event]:
        return [
            event for place in self._losses for seen, event in [replay.ends[place]] if seen.is_bad
        ]

    def _of(self, suspects: dict[fx.Node, Event]) -> Nonfinite:
        """What is to be told of the first of the suspects that is certain, or else possible."""
        for fill in _FILLS:
            try:
                found = self._all_behind(suspects, fill)
            except ReplayError:  # with other numbers an op may fail that did not
                found = None
            if found is None:
                continue
            tried = sorted(suspects.values(), key=self._order)[:_MOST_TRIED]
            hidden: Event | None = None
            for event in tried:
                if not self._is_bad_alone(event, found, fill):
                    continue
                if self._is_bad_beside(event, found, fill):
                    return self._told(event, {**suspects, **found}, self._doubt(event))
                hidden = hidden or event
            return self._told(hidden or tried[0], found, _HIDDEN if hidden else _NOT_ALONE)
        first = min(suspects.values(), key=self._order)
        return self._told(first, suspects, _NOT_MENDED)

    def _is_bad_alone(self, event: Event, found: dict[fx.Node, Event], fill: float) -> bool:
        """Whether the loss is not finite with all mended but one, as far as they are the first."""
        mended = {node: None for node in found if node is not event.node}
        try:
            return bool(self._bad_ends(self._run(mended, fill)))
        except ReplayError:
            return False

    def _is_bad_beside(self, event: Event, found: dict[fx.Node, Event], fill: float) -> bool:
        """Likewise with all mended that the others make by themselves, whatever they are given."""
        own = (event.node.target, event.node.meta.get("stack_trace"))
        masks: dict[fx.Node, Masks | None] = {
            node: other.own
            for node, other in found.items()
            # The same line in a later turn of a loop fails for the same reason.
            if node is not event.node and (node.target, node.meta.get("stack_trace")) != own
        }
        same = {node: None for node in found if node is not event.node and node not in masks}
        try:
            return bool(self._bad_ends(self._run({**masks, **same}, fill)))
        except ReplayError:  # a mask of another shape: elements were chosen by what is mended
            return False

    def _all_behind(
        self, suspects: dict[fx.Node, Event], fill: float
    ) -> dict[fx.Node, Event] | None:
        """The suspects with those that come up once they are mended; ``None``: no end of them."""
        found = dict(suspects)
        for _ in range(_MOST_ROUNDS):
            replay = self._run(dict.fromkeys(found), fill)
            found = {node: replay.events[node] for node in found}  # as they are with all mended
            bad = self._bad_ends(replay)
            if not bad:
                return found
            more = {node: event for node, event in _suspects(bad).items() if node not in found}
            if not more:
                return None
            found |= more
        return None

    def _order(self, event: Event) -> tuple[int, int]:
        return _ORDER[self._kind(event.node)], self._places[event.node]

    def _kind(self, node: fx.Node) -> Kind:
        if node.op == "placeholder":
            return "data"
        if node.op != "get_attr":
            return "op"
        name = self._program.state.get(str(node.target), "")
        if name in self._parameters:
            return "parameter"
        return "buffer" if name in self._buffers else "constant"

    def _doubt(self, event: Event) -> str:
        if event.unknown:
            return _NOT_SEEN
        if event.is_meant and not self._has_loss:
            return _NO_LOSS
        return ""

    def _told(self, event: Event, found: dict[fx.Node, Event], doubt: str) -> Nonfinite:
        """All that is known of a suspect, with the ranges of its inputs in a run unmended."""
        node = event.node
        replay = self._run(told=[node])
        seen = replay.events[node]
        facts = node.meta.get("custom", {}).get(FACTS, {})
        return Nonfinite(
            self._kind(node),
            replay.name_of(node),
            seen.made or TensorRange(replay.name_of(node), "", ()),
            op=facts.get("op", ""),
            module=facts.get("module", ""),
            source=facts.get("source", ""),
            function=place_in(node),
            inputs=seen.inputs,
            is_certain=not doubt,
            why_possible=doubt,
            others=tuple(
                replay.name_of(other.node)
                for other in sorted(found.values(), key=self._order)
                if other is not event
            ),
        )

    def _run(
        self,
        mended: Mapping[fx.Node, Masks | None] = MappingProxyType({}),
        fill: float = 1.0,
        told: Sequence[fx.Node] = (),
    ) -> WatchedReplay:
        replay = WatchedReplay(self._program, mended, fill, told)
        self._random_now.restore()  # of generators of the author's own; their state then is lost
        self._random_state.restore()
        try:
            replay.run_on(self._tensors)
        except ReplayError:
            raise
        except Exception as error:
            raise ReplayError(
                f"The recorded ops cannot be run on this batch ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). Its shapes "
                "may differ from those of the batch that was recorded."
            ) from error
        return replay


def _generators_of(program: Program) -> Iterator[torch.Generator]:
    """The generators that a program draws from besides torch's own."""
    for node in program.module.graph.find_nodes(op="get_attr"):
        value: Any = program.module
        for name in str(node.target).split("."):
            value = getattr(value, name, None)
        if isinstance(value, torch.Generator):
            yield value


def losses_among(outputs: Sequence[tuple[str, TensorRecord]]) -> tuple[list[int], bool]:
    """Which outputs must be finite: what is called a loss, else single numbers, else all.

    Args:
        outputs: What was recorded of them, with their paths.

    Returns:
        Their places, and whether they are losses.
    """
    floats = [
        (place, path, record)
        for place, (path, record) in enumerate(outputs)
        if record.dtype.is_floating_point or record.dtype.is_complex
    ]
    named = [place for place, path, _ in floats if "loss" in re.split(r"\W+", path.lower())]
    scalars = [place for place, _, record in floats if record.shape in ((), (1,))]
    chosen = named or scalars
    return (chosen, True) if chosen else ([place for place, _, _ in floats], False)


def _suspects(ends: Sequence[Event]) -> dict[fx.Node, Event]:
    """Where the numbers come up that are not finite in what some events gave."""
    found: dict[fx.Node, Event] = {}
    waiting, known = [*ends], set[fx.Node]()
    while waiting:
        event = waiting.pop()
        if event.node in known:
            continue
        known.add(event.node)
        bad = [one for one in event.bad if one is not event]
        spread = [one for one in bad if not one.is_meant]
        if event.gave.nan and any(one.gave.nan for one in spread):
            spread = [one for one in spread if one.gave.nan]  # NaN is handed on before all else
        if event.is_meant:
            spread = bad
        waiting += [*spread, *event.unknown]
        if event.gave.is_bad and (not spread or (event.is_first and not event.is_meant)):
            found[event.node] = event
    return found
