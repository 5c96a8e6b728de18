"""A graph as few boxes, opened as far as one of its nodes."""

from __future__ import annotations

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.view.box_builder import BoxBuilder, Drawn
from modelviz_callbacks.view.overview import Overview, box_of, edges_of

# A body within a body within a module: no way is longer.
_MOST_LEVELS = 64


def way_to_node(analysis: Analysis, name: str) -> tuple[Overview, str]:
    """What to draw to show where a node is: all that is beside the way to it, closed.

    Args:
        analysis: The analysis of the graph.
        name: The node's.

    Returns:
        Boxes, groups and edges, and the name of the box that the node is, or is in: of steps that
        repeat it is in the first one's. ``""``: it is not drawn.
    """
    steps, opened = analysis.steps(), frozenset[str]()
    drawn = BoxBuilder(analysis, opened, sizes=False).drawn()
    box: str | None = None
    for _ in range(_MOST_LEVELS):
        box = box_of(steps, "", name, drawn)
        if box is None:
            first = _in_first_step(analysis, name, drawn)
            if first == name:
                break
            name = first
            continue
        if box == name or box in opened or box not in drawn.steps:
            break
        opened |= {box}
        drawn = BoxBuilder(analysis, opened, sizes=False).drawn()
    known = {one.name for one in drawn.boxes} | {one.name for one in drawn.groups}
    edges = tuple(dict.fromkeys(edges_of(steps, "", drawn)))
    boxes, groups = tuple(drawn.boxes), tuple(drawn.groups)
    found = Overview(analysis.graph, boxes, groups, edges, analysis.weights.total)
    return found, box or (name if name in known else "")


def _in_first_step(analysis: Analysis, name: str, drawn: Drawn) -> str:
    """The same node in the first of some steps that repeat, which is the one that is drawn."""
    for step in drawn.steps.values():
        if step.fold is None:
            continue
        first, *later = step.fold.copies
        for copy in later:
            for item, same in zip(copy, first, strict=False):
                inner = name.removeprefix(item)
                is_within = inner != name and inner[:1] in ("", "/")
                if is_within and same + inner in analysis.graph.by_name:
                    return same + inner
    return name
