"""Which module calls and ops of two graphs belong together, and which have no partner.

Scopes are paired from the outside in; see ``modelviz_callbacks.diff.alignment``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import HELD_KINDS, Item
from modelviz_callbacks.diff.alignment import ItemFeatures, aligned, likeness
from modelviz_callbacks.graph.model import ModuleCall, Node
from modelviz_callbacks.view.formatting import module_label, shape_text

# Modules of two classes that are at least so alike are compared inside, too.
_IN_COMMON = 3.0


@dataclass
class Matching:
    """The pairs of two graphs.

    Attributes:
        before: The first graph.
        after: The second.
        calls: Names of paired module calls, from the first graph's to the second's.
        nodes: Likewise of ops and inputs.
        replaced: Names of the paired module calls in ``calls`` that have another class and
            nothing in common inside: their ops are not paired.
        removed: Items of the first graph without a partner, those inside of them left out.
        added: Likewise of the second.
    """

    before: Analysis
    after: Analysis
    calls: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    removed: list[Item] = field(default_factory=list)
    added: list[Item] = field(default_factory=list)


def match(before: Analysis, after: Analysis) -> Matching:
    """Pairs what two graphs are made of.

    Args:
        before: The analysis of a sound graph.
        after: That of another.

    Returns:
        The pairs; those of ``match(after, before)`` are the same, turned round.
    """
    matching = Matching(before, after)
    _match_inputs(matching)
    sides = _Side(matching.before), _Side(matching.after)
    waiting = [("", "")]
    while waiting:
        waiting += _match_scope(matching, sides, *waiting.pop())
    return matching


def _match_inputs(matching: Matching) -> None:
    """By their names in the signature, then in order."""
    inputs = [list(side.graph.of_kind("input")) for side in (matching.before, matching.after)]
    named = [{node.path: node for node in nodes} for nodes in inputs]
    rest: list[list[Node]] = []
    for nodes, others in zip(inputs, reversed(named), strict=True):
        rest.append([node for node in nodes if node.path not in others])
    for path, node in named[0].items():
        if path in named[1]:
            matching.nodes[node.name] = named[1][path].name
    pairs = min(map(len, rest))
    matching.nodes |= {
        one.name: other.name for one, other in zip(rest[0][:pairs], rest[1][:pairs], strict=True)
    }


def _match_scope(
    matching: Matching, sides: tuple[_Side, _Side], scope: str, other: str
) -> Iterator[tuple[str, str]]:
    """Pairs the items of one pair of scopes; gives the pairs of module calls to go into."""
    ours, theirs = sides[0].outline.items[scope], sides[1].outline.items[other]
    if sides[0].body(scope) == sides[1].body(other):
        pairs = [(place, place) for place in range(len(ours))]  # nothing differs but names
    else:
        pairs = aligned([*map(sides[0].features, ours)], [*map(sides[1].features, theirs)])
    mine, yours = {i for i, _ in pairs}, {j for _, j in pairs}
    matching.removed += [item for place, item in enumerate(ours) if place not in mine]
    matching.added += [item for place, item in enumerate(theirs) if place not in yours]
    for i, j in pairs:
        one, two = ours[i], theirs[j]
        if isinstance(one, Node):
            matching.nodes[one.name] = two.name
            continue
        matching.calls[one.name] = two.name
        if isinstance(two, ModuleCall) and _have_much_in_common(sides, one, two):
            yield one.name, two.name
        else:
            matching.replaced.add(one.name)


def _have_much_in_common(sides: tuple[_Side, _Side], one: ModuleCall, two: ModuleCall) -> bool:
    if one.type_name == two.type_name:
        return True
    return likeness(sides[0].features(one), sides[1].features(two)) >= _IN_COMMON


class _Side:
    """One of the two graphs, with what its items are compared by."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.outline = analysis.outline
        self.graph = analysis.graph
        self._contents: dict[str, Counter[str]] = {}

    def body(self, scope: str) -> str:
        """Equal for scopes that do the same."""
        return self.analysis.architecture.body(scope).digest

    def features(self, item: Item) -> ItemFeatures:
        """What is compared of an item."""
        content = self._content(item)
        scope = self.outline.scope_of(item)
        if isinstance(item, Node):
            exact = self.analysis.architecture.run((item,)).digest
            sources = sum(not self._is_held(ref.node) for ref in item.inputs)
            return ItemFeatures(exact, f"o {item.op}", item.label, content, True, sources)
        exact = self.analysis.architecture.body(item.name).digest
        label = module_label(self.graph, item, scope)
        leaf = self.analysis.is_leaf(item)
        sources = len(self.outline.externals(item))
        return ItemFeatures(exact, f"m {item.type_name}", label, content, leaf, sources)

    def _is_held(self, name: str) -> bool:
        return self.graph.by_name[name].kind in HELD_KINDS

    def _content(self, item: Item) -> Counter[str]:
        if item.name not in self._contents:
            self._contents[item.name] = Counter(self._words(item))
        return self._contents[item.name]

    def _words(self, item: Item) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        if isinstance(item, Node):
            found[item.op] += 1
            for ref in item.inputs:
                if self._is_held(ref.node):
                    found[shape_text(self.graph.spec(ref))] += 1
            return found
        found[item.type_name] += 1
        for inner in self.outline.items[item.name]:
            found += self._content(inner)
        return found
