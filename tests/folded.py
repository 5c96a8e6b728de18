"""A graph with its repeats taken out, and the way back.

Of each fold only the first copy is kept; the others are kept as what it takes to make them
from the first one: what is renamed, what they read from outside, and whatever does not follow
from that. `unfold` gives the graph back, equal in every field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Generic, TypeVar

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.repeats.search import Fold
from modelviz_callbacks.graph.model import (
    ModelGraph,
    ModuleCall,
    Node,
    Port,
)
from modelviz_callbacks.graph.values import (
    Argument,
    Items,
    Ref,
    SliceValue,
    Value,
)

_T = TypeVar("_T", Node, ModuleCall)


@dataclass(frozen=True, slots=True)
class Difference(Generic[_T]):
    """The nodes or module calls of a copy.

    Attributes:
        places: Where they stand in the whole graph, as (first, how many) runs.
        others: Those that do not follow from the first copy, by their number among them.
    """

    places: tuple[tuple[int, int], ...]
    others: tuple[tuple[int, _T], ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """What makes a further copy from the first one.

    Attributes:
        items: The names of its items.
        paths: Qualified names of its items' modules, for those of the first copy.
        tensors: What it reads from outside, for what the first copy reads there.
        nodes: Its nodes.
        modules: Its module calls.
    """

    items: tuple[str, ...]
    paths: tuple[tuple[str, str], ...]
    tensors: tuple[tuple[Ref, Ref], ...]
    nodes: Difference[Node]
    modules: Difference[ModuleCall]


@dataclass(frozen=True, slots=True)
class FoldedGraph:
    """A graph and its repeats.

    Attributes:
        rest: The graph without any further copies; its edges may end where one was.
        folds: The folds, outer ones first.
        copies: For each fold its further copies.
    """

    rest: ModelGraph
    folds: tuple[Fold, ...]
    copies: tuple[tuple[Copy, ...], ...]


def fold(graph: ModelGraph, *, sizes: bool = False) -> FoldedGraph:
    """Takes the further copies of every fold out of a graph.

    Args:
        graph: A sound graph.
        sizes: As for `Analysis.folds`.

    Returns:
        What `unfold` makes the same graph from.
    """
    folds = Analysis(graph).folds(sizes=sizes)
    index = _Index()
    for place, call in enumerate(graph.modules):
        index.add_call(place, call)
    for place, node in enumerate(graph.nodes):
        index.add_node(place, node)
    gone_nodes: set[str] = set()
    gone_modules: set[str] = set()
    copies = []
    for found in folds:
        made = []
        for items in found.copies[1:]:
            made.append(_difference(graph, index, found.copies[0], items))
            gone_nodes.update(node.name for _, node in index.nodes_of(items))
            gone_modules.update(call.name for _, call in index.calls_of(items))
        copies.append(tuple(made))
    rest = replace(
        graph,
        nodes=tuple(node for node in graph.nodes if node.name not in gone_nodes),
        modules=tuple(call for call in graph.modules if call.name not in gone_modules),
    )
    return FoldedGraph(rest, folds, tuple(copies))


def unfold(folded: FoldedGraph) -> ModelGraph:
    """The graph that `fold` was given.

    Args:
        folded: What it returned.

    Returns:
        A graph equal to the original in every field.
    """
    every = tuple(chain.from_iterable(folded.copies))
    calls = _slots(folded.rest.modules, (copy.modules.places for copy in every))
    nodes = _slots(folded.rest.nodes, (copy.nodes.places for copy in every))
    index = _Index()
    for place, call in calls.items():
        index.add_call(place, call)
    for place, node in nodes.items():
        index.add_node(place, node)
    # Inner folds first: they complete the first copies of the outer ones.
    for found, copies in zip(reversed(folded.folds), reversed(folded.copies), strict=True):
        first = found.copies[0]
        first_calls = [call for _, call in index.calls_of(first)]
        first_nodes = [node for _, node in index.nodes_of(first)]
        for copy in copies:
            rename = _Rename(first, copy.items, dict(copy.paths), dict(copy.tensors))
            for place, call in _filled(copy.modules, first_calls, rename.call):
                calls[place] = call
                index.add_call(place, call)
            for place, node in _filled(copy.nodes, first_nodes, rename.node):
                nodes[place] = node
                index.add_node(place, node)
    return replace(
        folded.rest,
        nodes=tuple(nodes[place] for place in range(len(nodes))),
        modules=tuple(calls[place] for place in range(len(calls))),
    )


class _Index:
    """Finds what lies below items, in graph order."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[int, ModuleCall]] = {}
        self._nodes: dict[str, tuple[int, Node]] = {}
        self._calls_in: dict[str, list[str]] = {}
        self._nodes_in: dict[str, list[str]] = {}

    def add_call(self, place: int, call: ModuleCall) -> None:
        self._calls[call.name] = (place, call)
        self._calls_in.setdefault(call.parent, []).append(call.name)

    def add_node(self, place: int, node: Node) -> None:
        self._nodes[node.name] = (place, node)
        self._nodes_in.setdefault(node.scope, []).append(node.name)

    def calls_of(self, items: Iterable[str]) -> list[tuple[int, ModuleCall]]:
        """The module calls among items and below them, with their places."""
        return sorted((self._calls[name] for name in self._scopes(items)), key=_place)

    def nodes_of(self, items: Iterable[str]) -> list[tuple[int, Node]]:
        """The nodes among items and below them, with their places."""
        names = [name for name in items if name in self._nodes]
        for scope in self._scopes(items):
            names += self._nodes_in.get(scope, ())
        return sorted((self._nodes[name] for name in names), key=_place)

    def _scopes(self, items: Iterable[str]) -> list[str]:
        found = [name for name in items if name in self._calls]
        for name in found:
            found += self._calls_in.get(name, ())
        return found


def _place(entry: tuple[int, Node] | tuple[int, ModuleCall]) -> int:
    return entry[0]


class _Rename:
    """Makes from a thing of the first copy that of another one."""

    def __init__(
        self,
        first: tuple[str, ...],
        items: tuple[str, ...],
        paths: Mapping[str, str],
        tensors: Mapping[Ref, Ref],
    ) -> None:
        self._names = dict(zip(first, items, strict=True))
        self._paths = paths
        self._tensors = tensors

    def node(self, node: Node) -> Node:
        return replace(
            node,
            name=_prefixed(node.name, "/", self._names),
            scope=_prefixed(node.scope, "/", self._names),
            path=_prefixed(node.path, ".", self._paths),
            aliases=tuple(_prefixed(alias, ".", self._paths) for alias in node.aliases),
            arguments=tuple(
                Argument(argument.name, self._value(argument.value)) for argument in node.arguments
            ),
        )

    def call(self, call: ModuleCall) -> ModuleCall:
        return replace(
            call,
            name=_prefixed(call.name, "/", self._names),
            parent=_prefixed(call.parent, "/", self._names),
            path=None if call.path is None else _prefixed(call.path, ".", self._paths),
            inputs=tuple(Port(port.path, self._ref(port.ref)) for port in call.inputs),
            outputs=tuple(Port(port.path, self._ref(port.ref)) for port in call.outputs),
        )

    def _ref(self, ref: Ref) -> Ref:
        found = self._tensors.get(ref)
        return found or Ref(_prefixed(ref.node, "/", self._names), ref.index)

    def _value(self, value: Value) -> Value:
        if isinstance(value, Ref):
            return self._ref(value)
        if isinstance(value, tuple):
            return tuple(self._value(item) for item in value)
        if isinstance(value, SliceValue):
            return SliceValue(
                self._value(value.start), self._value(value.stop), self._value(value.step)
            )
        if isinstance(value, Items):
            return Items(tuple((key, self._value(item)) for key, item in value.items))
        return value


def _prefixed(name: str, separator: str, renamed: Mapping[str, str]) -> str:
    """The name with the longest of its own beginnings that is renamed, renamed."""
    end = len(name)
    while end > 0:
        if name[:end] in renamed:
            return renamed[name[:end]] + name[end:]
        end = name.rfind(separator, 0, end)
    return name


def _difference(
    graph: ModelGraph, index: _Index, first: tuple[str, ...], items: tuple[str, ...]
) -> Copy:
    of_first, here = index.nodes_of(first), index.nodes_of(items)
    calls_of_first, calls_here = index.calls_of(first), index.calls_of(items)
    paths = {}
    for mine, other in zip(first, items, strict=True):
        pair = graph.module_by_name.get(mine), graph.module_by_name.get(other)
        if pair[0] and pair[1] and pair[0].path and pair[1].path:
            paths[pair[0].path] = pair[1].path
    inside = {node.name for _, node in of_first}
    tensors: dict[Ref, Ref] = {}
    for (_, mine_node), (_, other_node) in zip(of_first, here, strict=False):
        for ref, other_ref in zip(mine_node.inputs, other_node.inputs, strict=False):
            if ref.node not in inside:
                tensors.setdefault(ref, other_ref)
    rename = _Rename(first, items, paths, tensors)
    return Copy(
        items,
        tuple(paths.items()),
        tuple(tensors.items()),
        _others(here, [rename.node(node) for _, node in of_first]),
        _others(calls_here, [rename.call(call) for _, call in calls_of_first]),
    )


def _others(here: list[tuple[int, _T]], expected: list[_T]) -> Difference[_T]:
    others = tuple(
        (number, thing)
        for number, (_, thing) in enumerate(here)
        if number >= len(expected) or expected[number] != thing
    )
    return Difference(tuple(_runs(place for place, _ in here)), others)


def _runs(places: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Rising numbers as (first, how many) runs."""
    first, count = 0, 0
    for place in places:
        if count and place == first + count:
            count += 1
        else:
            if count:
                yield first, count
            first, count = place, 1
    if count:
        yield first, count


def _slots(kept: tuple[_T, ...], gone: Iterable[tuple[tuple[int, int], ...]]) -> dict[int, _T]:
    """What was kept, by its place in the whole graph."""
    empty = {place for places in gone for run in places for place in range(run[0], sum(run))}
    places = (place for place in range(len(kept) + len(empty)) if place not in empty)
    return dict(zip(places, kept, strict=True))


def _filled(
    difference: Difference[_T], first: list[_T], renamed: Callable[[_T], _T]
) -> Iterator[tuple[int, _T]]:
    """The things of a copy with their places."""
    others = dict(difference.others)
    places = (place for run in difference.places for place in range(run[0], sum(run)))
    for number, place in enumerate(places):
        yield place, others[number] if number in others else renamed(first[number])
