"""In what two graphs differ: what was added, removed and changed, and what only follows.

Two runs of one architecture have no difference, whatever their weights, batch sizes, devices
and processes. What is only called or numbered differently is no difference either; it is kept
as ignored. With ``strict`` all of that counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.diff.end_differences import SUBJECTS, Change, ChangeSubject, Ends
from modelviz_callbacks.diff.ignored_differences import IgnoredDifference, ignored_differences
from modelviz_callbacks.diff.matching import Matching, match
from modelviz_callbacks.diff.op_differences import (
    OpDifference,
    OpDifferences,
    ValuePair,
    explained_by,
    takes_sizes,
)
from modelviz_callbacks.graph.functions import without_functions
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.view.layer_labels import LayerLabels

__all__ = ["Change", "GraphDiff", "diff"]


@dataclass(frozen=True)
class GraphDiff:
    """What `diff` found.

    Attributes:
        before: The first graph.
        after: The second.
        changes: The differences: of the model, of modules, ops, parameters, inputs, outputs, each
            in execution order.
        follows: What differs only because of those, for example sizes further on.
        ignored: What differs and does not count.
        matching: Which parts belong together.
    """

    before: ModelGraph
    after: ModelGraph
    changes: tuple[Change, ...]
    follows: tuple[Change, ...]
    ignored: tuple[IgnoredDifference, ...]
    matching: Matching

    @property
    def are_equal(self) -> bool:
        """Whether there is no difference that counts."""
        return not self.changes


def diff(
    before: ModelGraph | Analysis, after: ModelGraph | Analysis, *, strict: bool = False
) -> GraphDiff:
    """Compares two graphs.

    Functions are seen through: code that is cut into other ones is no other architecture.

    Args:
        before: A sound graph, or its analysis.
        after: Another.
        strict: Whether names, sizes of the data, devices, source lines and the version of torch
            count, too.

    Returns:
        The differences. Those of ``diff(after, before)`` are the same, turned round.
    """
    finder = _Finder(_of_modules(before), _of_modules(after))
    changes, follows = finder.found()
    ignored = ignored_differences(finder.matching)
    if strict:
        changes += [
            Change("changed", "model", *finder.names, "", "", (one.text,)) for one in ignored
        ]
        ignored = ()
    order = {subject: place for place, subject in enumerate(SUBJECTS)}
    changes.sort(key=lambda change: order[change.subject])
    return GraphDiff(*finder.graphs, tuple(changes), tuple(follows), ignored, finder.matching)


def _of_modules(graph: ModelGraph | Analysis) -> Analysis:
    analysis = Analysis.of(graph)
    plain = without_functions(analysis.graph)
    return analysis if plain is analysis.graph else Analysis(plain)


# Arguments that a layer's words tell as its sizes.
_SAID_AS_SIZES = (
    "bias",
    "embed_dim_to_check",
    "kernel_size",
    "normalized_shape",
    "output_size",
    "params",
    "shape",
    "size",
)


@dataclass
class _Found:
    """What differs in one pair of items."""

    differences: list[OpDifference]
    old: Item
    new: Item


class _Finder:
    def __init__(self, before: Analysis, after: Analysis) -> None:
        self.analyses = before, after
        self.graphs = before.graph, after.graph
        self.names = before.graph.name, after.graph.name
        self.matching = match(before, after)
        self.differences = OpDifferences(self.matching)
        self.ends = Ends(self.matching, self.differences)
        self.outlines = before.outline, after.outline
        self.labels = LayerLabels(before), LayerLabels(after)
        self.pairs: dict[str, _Found] = {}  # by the item's name in the first graph
        self._partners = {two: one for one, two in self.matching.calls.items()}
        self._order = [
            {node.name: number for number, node in enumerate(graph.nodes)} for graph in self.graphs
        ]

        self._before = self._places()

    def found(self) -> tuple[list[Change], list[Change]]:
        """The differences, and what only follows from them."""
        changes = [*self.ends.model(), *self.ends.inputs()]
        self._classes()
        for node in self.graphs[0].nodes:
            if node.is_call and node.name in self.matching.nodes:
                for difference in self.differences.of(node):
                    self._note(node, difference)
        placed = [(self._place(change), change) for change in self._alone()]
        follows = []
        causes = self._causes()
        for found in self.pairs.values():
            is_cause = any(
                not self._follows(found, difference, causes) for difference in found.differences
            )
            change = self._changed(found, causes)
            if is_cause:
                placed.append((self._place(change), change))
            else:
                follows.append(change)
        placed.sort(key=lambda pair: pair[0])
        changes += [change for _, change in placed]
        changes += self.ends.parameters()
        for counts, change in self.ends.outputs():
            (changes if counts else follows).append(change)
        return changes, follows

    # --- pairs

    def _note(self, node: Node, difference: OpDifference) -> None:
        self._found(self._owner(0, node)).differences.append(difference)

    def _found(self, item: Item) -> _Found:
        if item.name not in self.pairs:
            partner = self.matching.nodes.get(item.name) or self.matching.calls[item.name]
            self.pairs[item.name] = _Found([], item, _item(self.graphs[1], partner))
        return self.pairs[item.name]

    def _owner(self, side: int, node: Node) -> Item:
        """What an op's differences are said of: its module if that is told as one thing."""
        outline = self.outlines[side]
        scope = outline.scope_of(node)
        call = outline.graph.module_by_name.get(scope)
        if call is None or not self.analyses[side].is_leaf(call):
            return node
        other = (self.matching.calls, self._partners)[side].get(scope)
        if other is None:
            return node
        opposite = self.analyses[1 - side]
        return call if opposite.is_leaf(opposite.graph.module_by_name[other]) else node

    def _classes(self) -> None:
        """Modules in whose place another class stands now."""
        calls = [graph.module_by_name for graph in self.graphs]
        for name, other in self.matching.calls.items():
            one, two = calls[0][name], calls[1][other]
            if one.type_name != two.type_name:
                text = f"{one.type_name} became {two.type_name}"
                self._found(one).differences.append(OpDifference("op", "class", text))

    def _causes(self) -> set[ValuePair]:
        """The sizes that were changed, rather than following from others."""
        return {
            pair
            for found in self.pairs.values()
            for difference in found.differences
            if difference.kind == "shape" and not difference.follows
            for pair in difference.pairs
        }

    def _follows(self, found: _Found, difference: OpDifference, causes: set[ValuePair]) -> bool:
        # A tensor made from nothing (zeros, arange) has no input that could explain its sizes.
        made = isinstance(found.old, Node) and takes_sizes(found.old)
        return difference.follows or (made and explained_by(difference, causes))

    def _changed(self, found: _Found, causes: set[ValuePair]) -> Change:
        old, new = found.old, found.new
        whole = [
            isinstance(item, Node) or analysis.is_leaf(item)
            for item, analysis in zip((old, new), self.analyses, strict=True)
        ]
        was, now = (
            labels.label(item, whole=is_whole)
            for labels, item, is_whole in zip(self.labels, (old, new), whole, strict=True)
        )
        differences = [f for f in found.differences if not self._follows(found, f, causes)]
        details = _details(self._frozen_named(new, differences or found.differences), was, now)
        if all(difference.kind == "trainable" for difference in differences) and differences:
            now = was  # sizes that follow are not what happened here
        subject: ChangeSubject = "op" if isinstance(old, Node) else "module"
        names = self.labels[0].name(old), self.labels[1].name(new)
        return Change("changed", subject, *names, was, now, details, old.name, new.name)

    def _frozen_named(self, item: Item, differences: list[OpDifference]) -> list[OpDifference]:
        """The differences with the parameter's name where only some of the item's are frozen."""
        graph = self.graphs[1]
        held = {
            node.path
            for call in self.outlines[1].calls_in(item)
            for node in (graph.by_name[ref.node] for ref in call.inputs)
            if node.kind == "parameter"
        }
        if held <= {
            difference.name for difference in differences if difference.kind == "trainable"
        }:
            return differences
        return [
            replace(difference, text=f"{difference.name.rpartition('.')[2]} {difference.text}")
            if difference.kind == "trainable"
            else difference
            for difference in differences
        ]

    # --- what stands alone

    def _alone(self) -> Iterator[Change]:
        """What was removed and added, unless it is said of the module around it."""
        both = (self.matching.removed, "removed"), (self.matching.added, "added")
        for side, (items, happened) in enumerate(both):
            for item in items:
                if isinstance(item, Node):
                    owner = self._owner(side, item)
                    if owner is not item:
                        name = self._partners[owner.name] if side else owner.name
                        found = self._found(self.graphs[0].module_by_name[name])
                        text = f"{item.op} {happened}"
                        found.differences.append(OpDifference("op", item.label, text))
                        continue
                yield self._lone_change(side, item)

    def _lone_change(self, side: int, item: Item) -> Change:
        labels, analysis = self.labels[side], self.analyses[side]
        whole = isinstance(item, Node) or analysis.is_leaf(item)
        text, name = labels.label(item, whole=whole), labels.name(item)
        subject: ChangeSubject = "op" if isinstance(item, Node) else "module"
        if side == 0:
            return Change("removed", subject, name, "", text, "", old_item=item.name)
        return Change("added", subject, "", name, "", text, item=item.name)

    def _place(self, change: Change) -> tuple[float, str]:
        """Where in the second graph a change belongs; what was removed, after what was before."""
        if change.item:
            return self._first(1, change.item), change.name
        return self._before[self._first(0, change.old_item)] + 0.5, change.old_name

    def _places(self) -> list[int]:
        """For each node of the first graph, where what was before it is in the second."""
        here = {
            name: self._order[1][other]
            for name, other in self.matching.nodes.items()
            if other in self._order[1]
        }
        for name in self.matching.replaced:
            place = self._first(1, self.matching.calls[name])
            nodes = self.outlines[0].calls_in(_item(self.graphs[0], name))
            here |= dict.fromkeys((node.name for node in nodes), place)
        places, last = [], -1
        for node in self.graphs[0].nodes:
            places.append(last)
            last = max(last, here.get(node.name, -1))
        return places

    def _first(self, side: int, name: str) -> int:
        """The number of an item's first op."""
        nodes = self.outlines[side].calls_in(_item(self.graphs[side], name))
        return min((self._order[side][node.name] for node in nodes), default=0)


def _item(graph: ModelGraph, name: str) -> Item:
    call: ModuleCall | None = graph.module_by_name.get(name)
    return graph.by_name[name] if call is None else call


def _details(differences: list[OpDifference], was: str, now: str) -> tuple[str, ...]:
    """What the words do not say already."""
    if was != now:
        said = f"{was} {now}"
        differences = [difference for difference in differences if not _is_said(difference, said)]
    return tuple(dict.fromkeys(difference.text for difference in differences))


def _is_said(difference: OpDifference, words: str) -> bool:
    if difference.kind == "shape" or (difference.kind == "op" and " became " in difference.text):
        return True
    return difference.kind in ("literal", "wiring") and (
        difference.name in _SAID_AS_SIZES or difference.name.replace("_", " ") in words
    )
