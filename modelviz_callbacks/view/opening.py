"""Which modules of a graph are open at first: those in which the architecture happens.

Torch's own layers and those of well-known libraries are closed. Of what is alike, whatever its
sizes, the first one is open. A frame around nothing but another frame is no frame of its own.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeVar

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.steps import Step
from modelviz_callbacks.graph.model import Node
from modelviz_callbacks.view.box import Box, Group
from modelviz_callbacks.view.box_builder import MOST_BOXES, BoxBuilder, Drawn
from modelviz_callbacks.view.label_facts import joined

# With a depth asked for: more than this nobody can look at, nor a program lay out.
_MOST_AT_A_DEPTH = 1500

# Classes of libraries that people know by their names: their inside is documented there.
_WELL_KNOWN = (
    "timm.layers.*",
    "timm.models._*",
    "torch_geometric.nn.*",
    "torchaudio.transforms.*",
    "torchvision.ops.*",
    "transformers.activations.*",
    "transformers.pytorch_utils.*",
    "transformers.loss.*",
)


def opened(
    analysis: Analysis, scope: str = "", depth: int | None = None, most: int = MOST_BOXES
) -> frozenset[str]:
    """The module calls and patterns to open.

    Args:
        analysis: The analysis of the graph that is drawn.
        scope: The module call to draw the inside of; ``""``: the whole graph.
        depth: How many levels to open, all that is in them; ``None``: what tells most.
        most: How many boxes and groups there may be where no depth is asked for.

    Returns:
        Names as in ``Drawn.steps``.
    """
    chooser = _Chooser(analysis, scope, most, depth is None)
    return chooser.telling() if depth is None else chooser.levels(depth)


class _Chooser:
    def __init__(self, analysis: Analysis, scope: str, most: int, in_parts: bool) -> None:
        self.most = most
        self.in_parts = in_parts
        self.analysis = analysis
        self.steps = analysis.steps(sizes=True)
        self.scope = scope
        self._classes: dict[str, frozenset[str]] = {}

    def levels(self, depth: int) -> frozenset[str]:
        """Everything down to a level; where that is too much, some of each level."""
        opened: frozenset[str] = frozenset()
        refused: set[str] = set()
        for _ in range(1, depth):
            closed = self._closed(opened, refused)
            for kind in dict.fromkeys(kind for kind, _ in closed.values()):
                alike = [name for name in closed if closed[name][0] == kind]
                for some in (alike, alike[:1]):
                    if self._fits(opened.union(some), _MOST_AT_A_DEPTH):
                        opened = opened.union(some)
                        break
                refused.update(set(alike) - opened)
            if not closed:
                break
        return opened

    def telling(self) -> frozenset[str]:
        """One of each kind, the outer ones first, as long as the whole stays readable."""
        opened: frozenset[str] = frozenset()
        refused: set[str] = set()
        told: dict[str, list[tuple[str, frozenset[str]]]] = {}
        while closed := self._closed(opened, refused):
            # A class that is not open yet tells more than another way of one that is.
            fresh = {name: of for name, of in closed.items() if of[0] not in told}
            for name, (kind, parts) in (fresh or closed).items():
                is_told = any(
                    parts <= others and other not in self._around(name)
                    for other, others in told.get(kind, ())
                )
                is_late = bool(fresh) and kind in told
                if is_late and not is_told:
                    continue
                if (
                    is_told
                    or self._is_well_known(name)
                    or self._is_arithmetic(name)
                    or not self._fits(opened | {name}, self.most)
                ):
                    refused.add(name)
                else:
                    opened |= {name}
                    told.setdefault(kind, []).append((name, parts))
        return opened

    def _fits(self, opened: frozenset[str], most: int) -> bool:
        drawn = self._drawn(opened)
        return len(drawn.boxes) + len(drawn.groups) <= most

    def _drawn(self, opened: frozenset[str]) -> Drawn:
        builder = BoxBuilder(
            self.analysis, opened, self.scope, most=self.most, in_parts=self.in_parts
        )
        return builder.drawn()

    def _closed(
        self, opened: frozenset[str], refused: set[str]
    ) -> dict[str, tuple[str, frozenset[str]]]:
        """What could be opened next, with its class and those of what is in it."""
        drawn = self._drawn(opened)
        found = {}
        for name, step in drawn.steps.items():
            if name in refused or name in opened:
                continue
            call = step.call
            if step.inner or (call is not None and not self.analysis.is_leaf(call)):
                found[name] = self._kind(step), self._parts(step)
        return found

    def _around(self, name: str) -> set[str]:
        """The calls that a call is in: to be of their class is not to be like them."""
        call = self.analysis.graph.module_by_name.get(name)
        return set(self.analysis.graph.scopes_of(call.parent)) if call is not None else set()

    def _is_well_known(self, name: str) -> bool:
        call = self.analysis.graph.module_by_name.get(name)
        if call is None or name == self.scope:
            return False
        if call.is_function and self.analysis.weights.of(call).count:
            return False  # it only calls what is the author's
        return any(fnmatchcase(call.class_name, pattern) for pattern in _WELL_KNOWN)

    def _is_arithmetic(self, name: str) -> bool:
        """Whether it is a function that calls no module with parameters: its name says it."""
        call = self.analysis.graph.module_by_name.get(name)
        if call is None or not call.is_function or name == self.scope:
            return False
        return not self.analysis.weights.of(call).count

    def _kind(self, step: Step) -> str:
        """The class of a module call, the ops of a pattern."""
        if step.call is not None:
            return step.call.class_name
        if step.inner:
            return f"pattern({','.join(map(self._kind, step.inner))})"
        return ",".join(item.op for item in step.items if isinstance(item, Node))

    def _parts(self, step: Step) -> frozenset[str]:
        """The classes of the modules with parameters in a step: without others it is not new."""
        if step.call is None:
            return frozenset().union(*map(self._parts, step.inner))
        name = step.call.name
        if name not in self._classes:
            steps = self.steps.of(name)
            calls = [inner.call for inner in steps if inner.call is not None]
            own = {c.class_name for c in calls if self.analysis.weights.of(c).count}
            self._classes[name] = frozenset(own).union(*map(self._parts, steps))
        return self._classes[name]


def merge_frames(drawn: Drawn) -> None:
    """Makes one frame of a frame and the only thing in it.

    Args:
        drawn: Loses the groups around a single group or box, which gets both their names.
    """
    inside: dict[str, list[Box | Group]] = {}
    things: list[Box | Group] = [*drawn.groups, *drawn.boxes]
    for thing in things:
        if not (isinstance(thing, Box) and thing.kind == "label"):
            inside.setdefault(thing.group, []).append(thing)
    gone: dict[str, Group] = {}
    for group in drawn.groups:
        within = inside.get(group.name, [])
        if len(within) == 1 and group.times == 1 and _can_stand_for(within[0]):
            gone[group.name] = group
    drawn.groups = [_moved_out(g, gone, drawn) for g in drawn.groups if g.name not in gone]
    drawn.boxes = [_moved_out(box, gone, drawn) for box in drawn.boxes]


def _can_stand_for(thing: Box | Group) -> bool:
    return isinstance(thing, Group) or thing.kind == "module"


_Thing = TypeVar("_Thing", Box, Group)


def _moved_out(thing: _Thing, gone: dict[str, Group], drawn: Drawn) -> _Thing:
    """A box or group out of the frames that are gone, with their names before its own."""
    while thing.group in gone:
        around = gone[thing.group]
        if isinstance(thing, Box) and thing.kind != "module":
            thing = replace(thing, group=around.group)
            continue
        if (
            isinstance(thing, Box)
            and _is_function(thing, drawn)
            and not _is_function(around, drawn)
        ):
            # What a module does in one function it does itself.
            thing = replace(
                thing,
                title=around.title,
                label=around.label,
                details=joined([around.details, thing.details, thing.title]),
                weights=around.weights,
                group=around.group,
            )
            continue
        label = ".".join(part for part in (around.label, thing.label) if part)
        title = f"{around.title} › {thing.title}"
        thing = replace(thing, title=title, label=label, group=around.group)
    return thing


def _is_function(thing: Box | Group, drawn: Drawn) -> bool:
    call = drawn.steps[thing.name].call
    return call is not None and call.is_function
