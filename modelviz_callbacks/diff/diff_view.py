"""The difference of two graphs as few boxes: both in one, opened where something differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.analysis.steps import Step
from modelviz_callbacks.diff.diff import Change, GraphDiff
from modelviz_callbacks.diff.merged_graph import MergedGraph, merge
from modelviz_callbacks.graph.model import Node
from modelviz_callbacks.view.box import Box
from modelviz_callbacks.view.box_builder import BoxBuilder, Drawn
from modelviz_callbacks.view.formatting import label_range
from modelviz_callbacks.view.layer_labels import LayerLabels
from modelviz_callbacks.view.overview import Overview, edges_of

# More boxes nobody can look at; what differs further inside is in a closed box then.
_MOST_BOXES = 120

Outcome = Literal["same", "added", "removed", "changed", "inside"]


@dataclass(frozen=True)
class DiffView:
    """What to draw of a difference.

    Attributes:
        overview: The boxes, groups and edges.
        outcomes: What happened to each box and group, by their names; ``inside``: something in it
            differs.
    """

    overview: Overview
    outcomes: Mapping[str, Outcome]


def diff_view(found: GraphDiff) -> DiffView:
    """What to draw of a difference.

    Args:
        found: The difference.

    Returns:
        Boxes of both graphs, those of modules opened in which something differs.
    """
    joined = merge(found)
    analysis = Analysis(joined.graph)
    known = _Outcomes(found, joined)
    drawn = BoxBuilder(analysis, frozenset(), sizes=False).drawn()
    opened: frozenset[str] = frozenset()
    while True:
        more = {
            name
            for name, step in drawn.steps.items()
            if name not in opened and known.has_inside(step)
        }
        wider = BoxBuilder(analysis, opened | more, sizes=False).drawn()
        if not more or len(wider.boxes) + len(wider.groups) > _MOST_BOXES:
            break
        opened, drawn = opened | more, wider
    edges = tuple(dict.fromkeys(edges_of(analysis.steps(), "", drawn)))
    outcomes = known.outcomes(drawn)
    boxes = tuple(
        known.described(box, outcomes[box.name], drawn.steps.get(box.name)) for box in drawn.boxes
    )
    groups = tuple(drawn.groups)
    return DiffView(Overview(joined.graph, boxes, groups, edges, analysis.weights.total), outcomes)


class _Outcomes:
    """Knows what happened to boxes, and what to say of it."""

    def __init__(self, found: GraphDiff, joined: MergedGraph) -> None:
        self.joined = joined
        self.status = joined.status
        self.changes = {change.item: change for change in found.changes if change.item}
        # The scopes with something different inside, outermost ones included.
        graph = joined.graph
        self.scopes: set[str] = set()
        for name in self.status:
            call = graph.module_by_name.get(name)
            around = call.parent if call else graph.by_name[name].scope
            self.scopes.update(graph.scopes_of(around))
        self.before = found.before
        self.labels = LayerLabels(found.matching.before)

    def has_inside(self, step: Step) -> bool:
        """Whether something differs in a step that is not the step itself."""
        if step.inner:
            return any(self._differs(item) for item in step.items)
        return any(
            item.name in self.scopes and self.status.get(item.name) in (None, "changed")
            for item in step.items
        )

    def _differs(self, item: Item) -> bool:
        return item.name in self.status or item.name in self.scopes

    def outcomes(self, drawn: Drawn) -> dict[str, Outcome]:
        """What happened to each box and group."""
        found: dict[str, Outcome] = {}
        for box in drawn.boxes:
            step = drawn.steps.get(box.name)
            items = [item.name for item in step.items] if step else [box.name]
            found[box.name] = self._outcome(items, box)
        for group in drawn.groups:
            step = drawn.steps[group.name]
            own = None if step.inner else self.status.get(step.name)
            found[group.name] = own or "same"
        return found

    def _outcome(self, items: list[str], box: Box) -> Outcome:
        for item in items:
            if item in self.status:
                return self.status[item]
        if box.kind == "held" and box.name in self.joined.old_names:
            return "removed"
        return "inside" if any(item in self.scopes for item in items) else "same"

    def described(self, box: Box, outcome: Outcome, step: Step | None) -> Box:
        """The box with what happened to it in words."""
        items = [item.name for item in step.items] if step else [box.name]
        changes = [self.changes[name] for name in items if name in self.changes]
        if outcome == "changed" and changes:
            return _changed(box, changes)
        if outcome == "removed" and box.name in self.joined.old_names:
            return self._removed(box, step)
        if outcome == "inside":
            return replace(box, details=f"{box.details}, differs inside".lstrip(", "))
        return box

    def _removed(self, box: Box, step: Step | None) -> Box:
        if box.kind in ("input", "output", "held"):
            return replace(box, details="removed")
        copies = step.fold.copies if step and step.fold else ((box.name,),)
        items = [self._old(copy[0]) for copy in (copies[0], copies[-1])]
        if isinstance(items[0], Node):
            return replace(box, label=items[0].scope.replace("/", "."))
        label = label_range([self.labels.name(item) for item in items])
        return replace(box, label=label, weights=self.labels.weights.of(items[0]))

    def _old(self, name: str) -> Item:
        old = self.joined.old_names[name]
        call = self.before.module_by_name.get(old)
        return self.before.by_name[old] if call is None else call


def _changed(box: Box, changes: Sequence[Change]) -> Box:
    # Layout ops are drawn without a word about them, unless something happened to them.
    kind = "op" if box.kind == "quiet" else box.kind
    change = changes[0]
    details = ", ".join(text for change in changes for text in change.details)
    if change.was == change.now:
        return replace(box, kind=kind, details=details)
    title = change.now if change.subject == "module" and change.now else box.title
    return replace(box, kind=kind, title=title, details=f"was {change.was}")
