"""A graph as few boxes: what pictures and diagrams draw.

Modules are boxes, or groups of boxes where they are opened; repeats are drawn once. How many
modules are opened is chosen so that the whole stays readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.analysis.steps import Steps
from modelviz_callbacks.analysis.weights import Weights
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.graph.values import (
    Ref,
)
from modelviz_callbacks.view.box import Box, Group
from modelviz_callbacks.view.box_builder import MOST_BOXES, BoxBuilder, Drawn
from modelviz_callbacks.view.formatting import shortened
from modelviz_callbacks.view.opening import merge_frames, opened
from modelviz_callbacks.view.simplified import simplified


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor, or several, going from one box to another."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Overview:
    """What to draw: boxes in execution order, groups before those within them, edges.

    Attributes:
        graph: The graph that it is of, all of it.
        boxes: In execution order.
        groups: Each before those within it.
        edges: Along each a value flows.
        weights: The parameters of all of it.
        carried: What a step of a loop hands to the next one: edges back to boxes of the same
            loop, or from one to itself.
    """

    graph: ModelGraph
    boxes: tuple[Box, ...]
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]
    weights: Weights
    carried: tuple[Edge, ...] = ()


def overview(
    graph: ModelGraph | Analysis,
    *,
    scope: str = "",
    depth: int | None = None,
    most: int = MOST_BOXES,
) -> Overview:
    """What to draw of a graph, or of the inside of one of its module calls.

    Args:
        graph: A sound graph, or its analysis, which computes each overview once.
        scope: A module call that ran; ``""`` for the whole graph.
        depth: How many levels of modules to open from the scope on, 1 showing only the outermost
            boxes; ``None``: what tells most of the architecture.
        most: How many boxes and groups there may be where no depth is asked for.

    Returns:
        Boxes, groups and edges; the tensors that enter and leave the scope are boxes, too. No
        box is without a title, no edge leads from a box to itself.
    """
    return Analysis.of(graph).once(_overview, scope, depth, most)


def _overview(exact: Analysis, scope: str, depth: int | None, most: int) -> Overview:
    analysis = simplified(exact)
    open_ones, in_parts = opened(analysis, scope, depth, most), depth is None
    drawn = BoxBuilder(analysis, open_ones, scope, most=most, in_parts=in_parts).drawn()
    steps = analysis.steps(sizes=True)
    edges = tuple(dict.fromkeys(edges_of(steps, scope, drawn)))
    carried = tuple(dict.fromkeys(carried_edges(steps, scope, drawn)))
    edges = with_joined_labels(drawn, edges)
    merge_frames(drawn)
    call = analysis.graph.module_by_name.get(scope)
    weights = analysis.weights.of(call) if call else analysis.weights.total
    return Overview(exact.graph, tuple(drawn.boxes), tuple(drawn.groups), edges, weights, carried)


def with_joined_labels(drawn: Drawn, edges: Sequence[Edge]) -> tuple[Edge, ...]:
    """Makes one label of those with the same readers: ``cos, sin``.

    Args:
        drawn: Loses the boxes of labels that nothing reads, or that are part of another now.
        edges: Between its boxes.

    Returns:
        The edges between the boxes that are left.
    """
    labels = [box for box in drawn.boxes if box.kind == "label"]
    readers: dict[str, set[str]] = {box.name: set() for box in labels}
    for edge in edges:
        if edge.source in readers:
            readers[edge.source].add(edge.target)
    alike: dict[frozenset[str], list[Box]] = {}
    for box in labels:
        alike.setdefault(frozenset(readers[box.name]), []).append(box)
    kept: dict[str, Box] = {}
    for read, boxes in alike.items():
        if read:
            words = shortened(list(dict.fromkeys(box.title for box in boxes)), 3)
            kept[boxes[0].name] = replace(boxes[0], title=words)
    drawn.boxes = [kept.get(b.name, b) for b in drawn.boxes if b.kind != "label" or b.name in kept]
    return tuple(edge for edge in edges if edge.source not in readers or edge.source in kept)


def edges_of(steps: Steps, scope: str, drawn: Drawn) -> Iterator[Edge]:
    """The edges between what was drawn of a scope; the same one may come twice.

    Along an edge a value flows; where only a shape is asked for there is none.
    """
    call = steps.graph.module_by_name.get(scope)
    for node in steps.outline.calls_in(call) if call else steps.graph.ops:
        if node.name in steps.stand_in:
            continue
        target = box_of(steps, scope, node.name, drawn)
        for ref in node.inputs:
            if ref.shape_only:
                continue
            source = _source(steps, scope, ref, drawn)
            if source and target and source != target:
                yield Edge(source, target)
    for ref, target in drawn.exits:
        source = _source(steps, scope, ref, drawn)
        if source:
            yield Edge(source, target)


def carried_edges(steps: Steps, scope: str, drawn: Drawn) -> Iterator[Edge]:
    """The edges from a step of a loop to the next one; the same one may come twice."""
    for step in drawn.steps.values():
        for ref, reader in steps.carried(step):
            while reader in steps.stand_in:
                reader = steps.stand_in[reader]
            source, target = _source(steps, scope, ref, drawn), box_of(steps, scope, reader, drawn)
            if source and target:
                yield Edge(source, target)


def _source(steps: Steps, scope: str, ref: Ref, drawn: Drawn) -> str | None:
    """The box that a tensor comes from, if it is drawn."""
    if ref in drawn.entries:
        return drawn.entries[ref]
    name = ref.node
    while name in steps.stand_in:
        name = steps.stand_in[name]
    return box_of(steps, scope, name, drawn)


def box_of(steps: Steps, scope: str, node: str, drawn: Drawn) -> str | None:
    """The box that a node is drawn in, if it is drawn.

    Args:
        steps: Of the graph.
        scope: The module call whose inside is drawn; ``""``: the whole graph.
        node: The node's name.
        drawn: What is drawn.
    """
    if node in drawn.box_of_item:
        return drawn.box_of_item[node]
    if steps.graph.by_name[node].kind in HELD_KINDS | {"input"}:
        return None
    path = steps.outline.path_below(node, scope) or ()
    return next((drawn.box_of_item[name] for name in path if name in drawn.box_of_item), None)
