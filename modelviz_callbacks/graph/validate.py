"""The rules every model graph keeps, checked once before anything is written from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from modelviz_callbacks.errors import GraphError
from modelviz_callbacks.graph.model import NODE_KINDS, ModelGraph, Node
from modelviz_callbacks.graph.values import (
    Ref,
)

_OUTPUT_NUMBER = re.compile(r":\d+$")


def problems(graph: ModelGraph) -> Iterator[str]:
    """Every broken rule, as a sentence; nothing for a sound graph."""
    for rule in _RULES:
        yield from rule(graph)


def check(graph: ModelGraph) -> None:
    """Makes sure that a graph keeps its rules.

    Args:
        graph: Any graph.

    Raises:
        GraphError: It breaks some; the message names the first ten.
    """
    found = list(problems(graph))
    if found:
        shown = "\n  ".join(found[:10])
        more = f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
        raise GraphError(
            f"The graph {graph.name!r} breaks {len(found)} rule(s):\n  {shown}{more}\n"
            "It cannot be written. If it came from a capture, please report the model."
        )


def _names(graph: ModelGraph) -> Iterator[str]:
    seen: set[str] = set()
    for name in [call.name for call in graph.modules] + [node.name for node in graph.nodes]:
        if name in seen:
            yield f"two things are called {name!r}"
        seen.add(name)
        if not name or any(not part for part in name.split("/")):
            yield f"the name {name!r} has an empty part"
        if _OUTPUT_NUMBER.search(name):
            yield f"the name {name!r} ends like an output number"
        if name.startswith("^"):
            yield f"the name {name!r} starts like a control edge"


def _scopes(graph: ModelGraph) -> Iterator[str]:
    entered = {""}
    for call in graph.modules:
        if call.parent not in entered:
            yield f"module call {call.name!r} comes before its parent {call.parent!r}"
        if call.parent and not call.name.startswith(f"{call.parent}/"):
            yield f"module call {call.name!r} is not named after its parent {call.parent!r}"
        entered.add(call.name)
    for node in graph.nodes:
        if node.scope not in entered:
            yield f"node {node.name!r} is in a scope {node.scope!r} that does not exist"
        elif node.scope and not node.name.startswith(f"{node.scope}/"):
            yield f"node {node.name!r} is not named after its scope {node.scope!r}"


def _shapes_of_kinds(graph: ModelGraph) -> Iterator[str]:
    for node in graph.nodes:
        if node.kind not in NODE_KINDS:
            yield f"node {node.name!r} has the unknown kind {node.kind!r}"
        elif node.kind == "output":
            if node.outputs or len(node.arguments) != 1 or not _is_ref(node):
                yield f"output node {node.name!r} must have one tensor argument and no outputs"
        elif not node.is_call and (len(node.outputs) != 1 or node.arguments):
            yield f"{node.kind} node {node.name!r} must have one output and no arguments"
        if node.is_call != bool(node.target):
            yield f"node {node.name!r}: only ops have a target, and every op has one"
        if any(not 0 <= index < len(node.outputs) for index in node.writes):
            yield f"node {node.name!r} writes an output that it does not have"


def _is_ref(node: Node) -> bool:
    return isinstance(node.arguments[0].value, Ref)


def _edges(graph: ModelGraph) -> Iterator[str]:
    made: dict[str, int] = {}
    for node in graph.nodes:
        for ref in node.inputs:
            if ref.node not in made:
                yield f"node {node.name!r} reads {ref.node!r}, which does not exist before it"
            elif not 0 <= ref.index < made[ref.node]:
                yield f"node {node.name!r} reads output {ref.index} of {ref.node!r}"
        made[node.name] = len(node.outputs)
    for call in graph.modules:
        for port in (*call.inputs, *call.outputs):
            if not 0 <= port.ref.index < made.get(port.ref.node, 0):
                yield f"module call {call.name!r} has a port to {port.ref}, which does not exist"


_RULES: tuple[Callable[[ModelGraph], Iterator[str]], ...] = (
    _names,
    _scopes,
    _shapes_of_kinds,
    _edges,
)
