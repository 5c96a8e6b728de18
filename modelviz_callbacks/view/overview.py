"""A graph as few boxes: what pictures and diagrams draw.

Modules are boxes, or groups of boxes where they are opened; repeats are drawn once. How many
modules are opened is chosen so that the whole stays readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.analysis.steps import Steps
from modelviz_callbacks.analysis.weights import Weights
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall
from modelviz_callbacks.graph.values import (
    Ref,
)
from modelviz_callbacks.view.box import Box, Group
from modelviz_callbacks.view.box_builder import MOST_BOXES, BoxBuilder, Drawn

# With a depth asked for: more than this nobody can look at, nor Graphviz lay out.
_MOST_AT_A_DEPTH = 1500


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor, or several, going from one box to another."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Overview:
    """What to draw: boxes in execution order, groups before those within them, edges."""

    graph: ModelGraph
    boxes: tuple[Box, ...]
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]
    weights: Weights


def overview(
    graph: ModelGraph | Analysis, *, scope: str = "", depth: int | None = None
) -> Overview:
    """What to draw of a graph, or of the inside of one of its module calls.

    Args:
        graph: A sound graph, or its analysis, which computes each overview once.
        scope: A module call that ran; ``""`` for the whole graph.
        depth: How many levels of modules to open from the scope on, 1 showing only the outermost
            boxes; ``None``: as many as stay readable (`MOST_BOXES`).

    Returns:
        Boxes, groups and edges; the tensors that enter and leave the scope are boxes, too. No
        box is without a title, no edge leads from a box to itself.
    """
    return Analysis.of(graph).once(_overview, scope, depth)


def _overview(analysis: Analysis, scope: str, depth: int | None) -> Overview:
    opened = _Chooser(analysis, scope).opened(depth)
    drawn = BoxBuilder(analysis, opened, scope).drawn()
    edges = tuple(dict.fromkeys(edges_of(analysis.steps(sizes=True), scope, drawn)))
    call = analysis.graph.module_by_name.get(scope)
    weights = analysis.weights.of(call) if call else analysis.weights.total
    return Overview(analysis.graph, tuple(drawn.boxes), tuple(drawn.groups), edges, weights)


class _Chooser:
    """Chooses which modules and patterns are opened."""

    def __init__(self, analysis: Analysis, scope: str) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.steps = analysis.steps(sizes=True)
        self.scope = scope

    def opened(self, depth: int | None) -> frozenset[str]:
        most = MOST_BOXES if depth is None else _MOST_AT_A_DEPTH
        opened: frozenset[str] = frozenset()
        refused: set[str] = set()
        level = 1
        while depth is None or level < depth:
            closed = self._closed(opened, refused)
            if not closed:
                break
            for kind in dict.fromkeys(closed.values()):
                alike = [name for name in closed if closed[name] == kind]
                for some in (alike, self._one_of_each(alike), alike[:1]):
                    if self._fits(opened.union(some), most):
                        opened = opened.union(some)
                        break
                refused.update(set(alike) - opened)
            level += 1
        return opened

    def _fits(self, opened: frozenset[str], most: int) -> bool:
        drawn = BoxBuilder(self.analysis, opened, self.scope).drawn()
        return len(drawn.boxes) + len(drawn.groups) <= most

    def _one_of_each(self, names: Sequence[str]) -> list[str]:
        """The first of those module calls whose steps read alike, whatever their sizes."""
        found: dict[tuple[str, ...], str] = {}
        for name in names:
            steps = self.steps.of(name) if name in self.graph.module_by_name else ()
            items = (item for step in steps for item in step.items)
            kinds = (i.type_name if isinstance(i, ModuleCall) else i.op for i in items)
            found.setdefault(tuple(kinds), name)
        return list(found.values())

    def _closed(self, opened: frozenset[str], refused: set[str]) -> dict[str, str]:
        """What could be opened next, with its class: those alike are opened together."""
        drawn = BoxBuilder(self.analysis, opened, self.scope).drawn()
        found = {}
        for name, step in drawn.steps.items():
            call = step.call
            if name in refused or name in opened:
                continue
            if step.inner:
                found[name] = "pattern"
            elif call is not None and not self.analysis.is_leaf(call):
                found[name] = call.class_name
        return found


def edges_of(steps: Steps, scope: str, drawn: Drawn) -> Iterator[Edge]:
    """The edges between what was drawn of a scope; the same one may come twice."""
    call = steps.graph.module_by_name.get(scope)
    for node in steps.outline.calls_in(call) if call else steps.graph.ops:
        if node.name in steps.stand_in:
            continue
        target = _box(steps, scope, node.name, drawn)
        for ref in node.inputs:
            source = _source(steps, scope, ref, drawn)
            if source and target and source != target:
                yield Edge(source, target)
    for ref, target in drawn.exits:
        source = _source(steps, scope, ref, drawn)
        if source:
            yield Edge(source, target)


def _source(steps: Steps, scope: str, ref: Ref, drawn: Drawn) -> str | None:
    """The box that a tensor comes from, if it is drawn."""
    if ref in drawn.entries:
        return drawn.entries[ref]
    name = ref.node
    while name in steps.stand_in:
        name = steps.stand_in[name]
    return _box(steps, scope, name, drawn)


def _box(steps: Steps, scope: str, node: str, drawn: Drawn) -> str | None:
    """The box that a node is drawn in, if it is drawn."""
    if node in drawn.box_of_item:
        return drawn.box_of_item[node]
    if steps.graph.by_name[node].kind in HELD_KINDS | {"input"}:
        return None
    path = steps.outline.path_below(node, scope) or ()
    return next((drawn.box_of_item[name] for name in path if name in drawn.box_of_item), None)
