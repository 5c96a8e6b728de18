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

from modelviz_callbacks.graph.folding import Fold, find_folds
from modelviz_callbacks.graph.model import (
    Argument,
    Items,
    ModelGraph,
    ModuleCall,
    Node,
    Port,
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


def fold(graph: ModelGraph) -> FoldedGraph:
    """Takes the further copies of every fold out of a graph.

    Args:
        graph: A sound graph.

    Returns:
        What `unfold` makes the same graph from.
    """
    folds = find_folds(graph)
    nodes = _nodes_below(graph.modules, graph.nodes)
    modules = _calls_below(graph.modules)
    gone_nodes: set[str] = set()
    gone_modules: set[str] = set()
    copies = []
    for found in folds:
        made = []
        for items in found.copies[1:]:
            made.append(_difference(graph, nodes, modules, found.copies[0], items))
            gone_nodes.update(node.name for _, node in nodes.of(items))
            gone_modules.update(call.name for _, call in modules.of(items))
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
    calls = _restored(folded.rest.modules, (copy.modules.places for copy in every))
    nodes = _restored(folded.rest.nodes, (copy.nodes.places for copy in every))
    for found, copies in zip(reversed(folded.folds), reversed(folded.copies), strict=True):
        known = [call for call in calls if call is not None]
        first = found.copies[0]
        first_calls = [call for _, call in _Below(known, known, lambda call: call.parent).of(first)]
        present = [node for node in nodes if node is not None]
        first_nodes = [
            node for _, node in _Below(known, present, lambda node: node.scope).of(first)
        ]
        for copy in copies:
            rename = _Rename(first, copy.items, dict(copy.paths), dict(copy.tensors))
            _fill(nodes, copy.nodes, first_nodes, rename.node)
            _fill(calls, copy.modules, first_calls, rename.call)
    return replace(
        folded.rest,
        nodes=tuple(node for node in nodes if node is not None),
        modules=tuple(call for call in calls if call is not None),
    )


class _Below(Generic[_T]):
    """Finds what lies below items, in graph order."""

    def __init__(
        self, calls: Iterable[ModuleCall], things: Iterable[_T], scope: Callable[[_T], str]
    ) -> None:
        self._children: dict[str, list[str]] = {}
        for call in calls:
            self._children.setdefault(call.parent, []).append(call.name)
        self._named: dict[str, tuple[int, _T]] = {}
        self._inside: dict[str, list[tuple[int, _T]]] = {}
        for place, thing in enumerate(things):
            self._named[thing.name] = (place, thing)
            self._inside.setdefault(scope(thing), []).append((place, thing))

    def of(self, items: Iterable[str]) -> list[tuple[int, _T]]:
        """The things below items, and the items themselves where they are such things."""
        found: dict[int, _T] = {}
        stack = list(items)
        found.update(self._named[name] for name in stack if name in self._named)
        while stack:
            name = stack.pop()
            found.update(self._inside.get(name, ()))
            stack.extend(self._children.get(name, ()))
        return sorted(found.items())


def _nodes_below(calls: Iterable[ModuleCall], nodes: Iterable[Node]) -> _Below[Node]:
    return _Below(calls, nodes, lambda node: node.scope)


def _calls_below(calls: Iterable[ModuleCall]) -> _Below[ModuleCall]:
    return _Below(calls, calls, lambda call: call.parent)


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
    graph: ModelGraph,
    nodes: _Below[Node],
    modules: _Below[ModuleCall],
    first: tuple[str, ...],
    items: tuple[str, ...],
) -> Copy:
    of_first, here = nodes.of(first), nodes.of(items)
    calls_of_first, calls_here = modules.of(first), modules.of(items)
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


def _restored(kept: tuple[_T, ...], gone: Iterable[tuple[tuple[int, int], ...]]) -> list[_T | None]:
    """A slot for everything in the whole graph, those filled that were kept."""
    empty = {place for places in gone for run in places for place in range(run[0], sum(run))}
    rest = iter(kept)
    return [None if place in empty else next(rest) for place in range(len(kept) + len(empty))]


def _fill(
    slots: list[_T | None],
    difference: Difference[_T],
    first: list[_T],
    renamed: Callable[[_T], _T],
) -> None:
    others = dict(difference.others)
    places = (place for run in difference.places for place in range(run[0], sum(run)))
    for number, place in enumerate(places):
        slots[place] = others[number] if number in others else renamed(first[number])
