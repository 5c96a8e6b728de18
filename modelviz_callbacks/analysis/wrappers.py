"""Wrappers at the top of a model: modules that hold nearly all of it, beside a small head.

Viewers that show closed boxes at first would show one box with everything in it (``model`` of
a language model, ``vit`` of a classifier): such a box is opened by leaving it out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from modelviz_callbacks.analysis.analysis import Analysis
from modelviz_callbacks.analysis.main_path import bookkeeping
from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.graph.values import Ref

# What holds this part of the main path's ops leaves nothing worth seeing beside it.
_NEARLY_ALL = 0.9
# More boxes and ops than these at the top cannot be looked at together.
_MOST_AT_TOP = 30
# Parts that all read one value from around them, or are all read there (caches, masks of every
# layer), stay in their box if they are more: their lines would run past each other.
_MOST_LINES = 3


def opened_wrappers(analysis: Analysis) -> frozenset[str]:
    """The modules and containers whose parts should stand at the top level in their place.

    Args:
        analysis: The analysis of a sound graph.

    Returns:
        Names of module calls, each but the first inside the one before.
    """
    return analysis.once(_opened)


def with_open_top(analysis: Analysis) -> ModelGraph:
    """A graph whose opened wrappers only group modules, for a viewer without boxes of groups.

    Args:
        analysis: The analysis of a sound graph.

    Returns:
        The same calls, wrappers marked as not called. The containers in them whose parts repeat,
        or have too many lines to what is around, are marked as called instead; where such a
        container is left and entered again, so that it could not be one box, the graph is the
        same as before.
    """
    graph, opened = analysis.graph, opened_wrappers(analysis)
    if not opened:
        return graph
    parts = analysis.once(_Parts)
    boxed = {
        call.name
        for call in graph.modules
        if call.parent in opened
        and call.name not in opened
        and not call.called
        and parts.stay_together(call.name)
    }
    if any(parts.is_interrupted(name) for name in boxed):
        return graph
    return replace(
        graph,
        modules=tuple(
            replace(call, called=call.name in boxed)
            if call.name in opened or call.name in boxed
            else call
            for call in graph.modules
        ),
    )


def _opened(analysis: Analysis) -> frozenset[str]:
    if not analysis.graph.modules:
        return frozenset()
    parts = analysis.once(_Parts)
    opened: list[str] = []
    passed: list[str] = []
    scope, at_top = "", len(parts.of(""))
    while inner := parts.holder_of_nearly_all(scope):
        passed.append(inner)
        scope = inner
        inside = parts.of(inner)
        if len(inside) == 1:
            continue
        at_top += len(inside) - 1
        calls = sum(isinstance(part, ModuleCall) for part in inside)
        if calls < 2 or at_top > _MOST_AT_TOP or parts.stay_together(inner):
            break
        opened = list(passed)
    return frozenset(opened)


class _Parts:
    """What each scope of a graph consists of: ops of its own, and calls and containers in it."""

    def __init__(self, analysis: Analysis) -> None:
        self._graph = graph = analysis.graph
        beside = bookkeeping(analysis)
        self._main: Counter[str] = Counter()
        self._busy: set[str] = set()
        self._own: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.is_call:
                self._own[node.scope].append(node)
                self._busy.update(graph.scopes_of(node.scope))
                if node.name not in beside:
                    self._main.update(["", *(s for s in graph.scopes_of(node.scope) if s)])

    def of(self, scope: str) -> Sequence[ModuleCall | Node]:
        """The parts of a scope in which something was computed."""
        calls = [c for c in self._graph.children[scope] if c.name in self._busy]
        return [*self._own.get(scope, ()), *calls]

    def holder_of_nearly_all(self, scope: str) -> str:
        """The module or container in a scope that holds nearly all of the model; ``""``: none.

        Nor is a module that calls itself a wrapper.
        """
        children = self._graph.children
        for call in children[scope]:
            if not call.is_function and self._main[call.name] >= _NEARLY_ALL * self._main[""] > 0:
                calls_itself = any(c.class_name == call.class_name for c in children[call.name])
                return "" if calls_itself else call.name
        return ""

    def stay_together(self, scope: str) -> bool:
        """Whether the parts of a scope are told better by a box around them than one by one."""
        return self._repeat(scope) or self._lines(scope) > _MOST_LINES

    def _repeat(self, scope: str) -> bool:
        """Whether the parts of a scope are the same layer again and again, with few variants."""
        parts = self.of(scope)
        classes = {part.class_name if isinstance(part, ModuleCall) else "" for part in parts}
        variants = {self._main[part.name] for part in parts}
        return len(classes) == 1 and 2 * len(variants) < len(parts)

    def _lines(self, scope: str) -> int:
        """The most parts of a scope that read one value from outside it, or are read there."""
        readers: dict[Ref, set[str]] = defaultdict(set)
        read: set[str] = set()
        place = {node.name: self._place(node, scope) for node in self._graph.nodes}
        for node in self._graph.nodes:
            here = place[node.name]
            for ref in node.inputs:
                there = place[ref.node]
                if here and not there and self._graph.by_name[ref.node].kind not in HELD_KINDS:
                    readers[ref].add(here)
                elif there and not here:
                    read.add(there)
        return max(len(read), *map(len, readers.values()), 0)

    def is_interrupted(self, scope: str) -> bool:
        """Whether something else was computed between the first and the last op of a scope."""
        inside = [bool(self._place(n, scope)) for n in self._graph.nodes if n.is_call]
        first, last = inside.index(True), len(inside) - inside[::-1].index(True)
        return not all(inside[first:last])

    def _place(self, node: Node, scope: str) -> str:
        """The part of a scope that a node is in; ``""``: it is not in that scope."""
        part = node.name
        for around in self._graph.scopes_of(node.scope):
            if around == scope:
                return part
            part = around
        return ""
