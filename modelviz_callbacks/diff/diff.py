"""In what two graphs differ: what was added, removed and changed, and what only follows.

Two runs of one architecture have no difference, whatever their weights, batch sizes, devices
and processes. What is only called or numbered differently is no difference either; it is kept
as a remark. With ``strict`` all of that counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.diff.end_differences import SUBJECTS, Change, Ends, Subject
from modelviz_callbacks.diff.ignored_differences import Remark, remarks
from modelviz_callbacks.diff.matching import Matching, is_leaf, match
from modelviz_callbacks.diff.op_differences import Facet, Facets, Pair, explained_by, takes_sizes
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.view.layer_labels import LayerWords

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
        remarks: What differs and does not count.
        matching: Which parts belong together.
    """

    before: ModelGraph
    after: ModelGraph
    changes: tuple[Change, ...]
    follows: tuple[Change, ...]
    remarks: tuple[Remark, ...]
    matching: Matching

    @property
    def are_equal(self) -> bool:
        """Whether there is no difference that counts."""
        return not self.changes


def diff(before: ModelGraph, after: ModelGraph, *, strict: bool = False) -> GraphDiff:
    """Compares two graphs.

    Args:
        before: A sound graph.
        after: Another.
        strict: Whether names, sizes of the data, devices, source lines and the version of torch
            count, too.

    Returns:
        The differences. Those of ``diff(after, before)`` are the same, turned round.
    """
    finder = _Finder(before, after)
    changes, follows = finder.found()
    notes = remarks(finder.matching)
    if strict:
        changes += [
            Change("changed", "model", before.name, after.name, "", "", (remark.text,))
            for remark in notes
        ]
        notes = ()
    order = {subject: place for place, subject in enumerate(SUBJECTS)}
    changes.sort(key=lambda change: order[change.subject])
    return GraphDiff(before, after, tuple(changes), tuple(follows), notes, finder.matching)


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

    facets: list[Facet]
    old: Item
    new: Item


class _Finder:
    def __init__(self, before: ModelGraph, after: ModelGraph) -> None:
        self.graphs = before, after
        self.matching = match(before, after)
        self.facets = Facets(self.matching)
        self.ends = Ends(self.matching, self.facets)
        self.outlines = self.matching.before, self.matching.after
        self.words = LayerWords(self.outlines[0]), LayerWords(self.outlines[1])
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
                for facet in self.facets.of(node):
                    self._note(node, facet)
        placed = [(self._place(change), change) for change in self._alone()]
        follows = []
        causes = self._causes()
        for found in self.pairs.values():
            is_cause = any(not self._follows(found, facet, causes) for facet in found.facets)
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

    def _note(self, node: Node, facet: Facet) -> None:
        self._found(self._owner(0, node)).facets.append(facet)

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
        if call is None or not is_leaf(outline, call):
            return node
        other = (self.matching.calls, self._partners)[side].get(scope)
        if other is None:
            return node
        opposite = self.outlines[1 - side]
        return call if is_leaf(opposite, opposite.graph.module_by_name[other]) else node

    def _classes(self) -> None:
        """Modules in whose place another class stands now."""
        calls = [graph.module_by_name for graph in self.graphs]
        for name, other in self.matching.calls.items():
            one, two = calls[0][name], calls[1][other]
            if one.type_name != two.type_name:
                text = f"{one.type_name} became {two.type_name}"
                self._found(one).facets.append(Facet("op", "class", text))

    def _causes(self) -> set[Pair]:
        """The sizes that were changed, rather than following from others."""
        return {
            pair
            for found in self.pairs.values()
            for facet in found.facets
            if facet.kind == "shape" and not facet.follows
            for pair in facet.pairs
        }

    def _follows(self, found: _Found, facet: Facet, causes: set[Pair]) -> bool:
        # A tensor made from nothing (zeros, arange) has no input that could explain its sizes.
        made = isinstance(found.old, Node) and takes_sizes(found.old)
        return facet.follows or (made and explained_by(facet, causes))

    def _changed(self, found: _Found, causes: set[Pair]) -> Change:
        old, new = found.old, found.new
        told = [
            isinstance(item, Node) or is_leaf(outline, item)
            for item, outline in zip((old, new), self.outlines, strict=True)
        ]
        was, now = (
            words.words(item, told=is_told)
            for words, item, is_told in zip(self.words, (old, new), told, strict=True)
        )
        facets = [f for f in found.facets if not self._follows(found, f, causes)]
        details = _details(self._frozen_named(new, facets or found.facets), was, now)
        if all(facet.kind == "trainable" for facet in facets) and facets:
            now = was  # sizes that follow are not what happened here
        subject: Subject = "op" if isinstance(old, Node) else "module"
        names = self.words[0].name(old), self.words[1].name(new)
        return Change("changed", subject, *names, was, now, details, old.name, new.name)

    def _frozen_named(self, item: Item, facets: list[Facet]) -> list[Facet]:
        """The facets with the parameter's name where only some of the item's are frozen now."""
        graph = self.graphs[1]
        held = {
            node.path
            for call in self.outlines[1].calls_in(item)
            for node in (graph.by_name[ref.node] for ref in call.inputs)
            if node.kind == "parameter"
        }
        if held <= {facet.name for facet in facets if facet.kind == "trainable"}:
            return facets
        return [
            replace(facet, text=f"{facet.name.rpartition('.')[2]} {facet.text}")
            if facet.kind == "trainable"
            else facet
            for facet in facets
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
                        found.facets.append(Facet("op", item.label, text))
                        continue
                yield self._lone_change(side, item)

    def _lone_change(self, side: int, item: Item) -> Change:
        words, outline = self.words[side], self.outlines[side]
        told = isinstance(item, Node) or is_leaf(outline, item)
        text, name = words.words(item, told=told), words.name(item)
        subject: Subject = "op" if isinstance(item, Node) else "module"
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


def _details(facets: list[Facet], was: str, now: str) -> tuple[str, ...]:
    """What the words do not say already."""
    if was != now:
        said = f"{was} {now}"
        facets = [facet for facet in facets if not _is_said(facet, said)]
    return tuple(dict.fromkeys(facet.text for facet in facets))


def _is_said(facet: Facet, words: str) -> bool:
    if facet.kind == "shape" or (facet.kind == "op" and " became " in facet.text):
        return True
    return facet.kind in ("literal", "wiring") and (
        facet.name in _SAID_AS_SIZES or facet.name.replace("_", " ") in words
    )
