"""A graph in the order in which it ran: what each module call did, step by step.

A container that never runs itself (``ModuleList``, ``ModuleDict``) is seen through: its
children belong to the module whose forward called them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TypeAlias

from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.graph.values import (
    Ref,
)

# One step of a scope: a module call, or an op of its own forward.
Item: TypeAlias = ModuleCall | Node

HELD_KINDS = frozenset({"parameter", "buffer", "constant"})


class Outline:
    """The items of every scope of a graph, in execution order.

    Args:
        graph: A sound graph (see ``modelviz_callbacks.graph.validate``).

    Attributes:
        graph: The same.
        items: The steps of each module call, and of the model's own forward (``""``).
        position: The place of each item, by its name, among those of its scope.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self._running: dict[str, str] = {"": ""}
        self._depth: dict[str, int] = {"": 0}
        for call in graph.modules:
            parent = self._running[call.parent]
            self._running[call.name] = call.name if call.called else parent
            if call.called:
                self._depth[call.name] = self._depth[parent] + 1
        self._order = {node.name: number for number, node in enumerate(graph.nodes)}
        self.items = self._sorted_items()
        self.position = {
            item.name: place for items in self.items.values() for place, item in enumerate(items)
        }

    def scope_of(self, item: Item) -> str:
        """The module call whose forward did this step; ``""`` for the model's own."""
        return self._running[item.parent if isinstance(item, ModuleCall) else item.scope]

    def path_below(self, name: str, scope: str) -> tuple[str, ...] | None:
        """The items through which a node is reached from a scope.

        Args:
            name: A node.
            scope: ``""`` or a module call that runs.

        Returns:
            Names from the scope's own item down to the node itself; ``None`` if the node
            is not below the scope.
        """
        found = [name]
        here = self._running[self.graph.by_name[name].scope]
        goal = self._depth[scope]
        while self._depth[here] > goal:
            found.append(here)
            here = self._running[self.graph.module_by_name[here].parent]
        return tuple(reversed(found)) if here == scope else None

    def calls_in(self, item: Item) -> Iterator[Node]:
        """The op and opaque nodes of an item, in execution order."""
        if isinstance(item, Node):
            yield item
        else:
            for step in self.items[item.name]:
                yield from self.calls_in(step)

    def externals(self, item: Item) -> tuple[Ref, ...]:
        """The tensors an item reads from outside itself, each once, in order of first use.

        Parameters, buffers and constants are not among them.
        """
        return self._externals[item.name]

    @cached_property
    def _externals(self) -> Mapping[str, tuple[Ref, ...]]:
        found: dict[str, tuple[Ref, ...]] = {}
        by_name = self.graph.by_name
        for scope in reversed(self.items):
            reads: dict[Ref, None] = {}
            for item in self.items[scope]:
                if isinstance(item, Node):
                    held = [ref for ref in item.inputs if by_name[ref.node].kind not in HELD_KINDS]
                    found[item.name] = tuple(dict.fromkeys(held))
                reads.update(dict.fromkeys(found[item.name]))
            call = self.graph.module_by_name.get(scope)
            if call is not None and not self.items[scope]:
                reads.update(dict.fromkeys(port.ref for port in call.inputs))
            found[scope] = tuple(ref for ref in reads if self.path_below(ref.node, scope) is None)
        return found

    def _sorted_items(self) -> dict[str, tuple[Item, ...]]:
        first, last = self._spans()
        keyed: dict[str, list[tuple[int, int, int, Item]]] = {
            scope: [] for scope in ("", *(call.name for call in self.graph.modules if call.called))
        }
        for node in self.graph.nodes:
            if node.is_call:
                number = self._order[node.name]
                keyed[self._running[node.scope]].append((number, 0, 0, node))
        before: dict[str, int] = {}
        for number, call in enumerate(self.graph.modules):
            if not call.called:
                continue
            scope = self._running[call.parent]
            if call.name in first:
                keyed[scope].append((first[call.name], 0, number, call))
                before[scope] = last[call.name]
                continue
            # It computed nothing (Identity): it came after its input and the call before it.
            made = [self._order[port.ref.node] for port in call.inputs]
            before[scope] = max(before.get(scope, -1), *made, -1)
            keyed[scope].append((before[scope], 1, number, call))
        return {
            scope: tuple(entry[3] for entry in sorted(entries, key=lambda entry: entry[:3]))
            for scope, entries in keyed.items()
        }

    def _spans(self) -> tuple[dict[str, int], dict[str, int]]:
        """The first and the last op of each module call, by their numbers."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for node in self.graph.nodes:
            if not node.is_call:
                continue
            number = self._order[node.name]
            scope = self._running[node.scope]
            while scope:
                first.setdefault(scope, number)
                last[scope] = number
                scope = self._running[self.graph.module_by_name[scope].parent]
        return first, last
