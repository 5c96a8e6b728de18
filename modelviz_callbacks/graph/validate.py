"""The rules every model graph keeps, checked once before anything is written from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Protocol

from modelviz_callbacks.errors import GraphError
from modelviz_callbacks.graph.parts import NODE_KINDS, ModuleCall, Node, ParameterInfo
from modelviz_callbacks.graph.shape_edges import wrong_shape_edges
from modelviz_callbacks.graph.values import Ref, TensorSpec

_OUTPUT_NUMBER = re.compile(r":\d+$")

# More than any tensor has; below it sums of a million of them are still numbers that can be
# shown and divided.
_MOST_ELEMENTS = 2**127
# No forward nests as many calls in Python's own limit of 1,000 frames.
_MOST_LEVELS = 1_000


class Graph(Protocol):
    """What the rules are about: a ``ModelGraph``, which knows them in turn."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In execution order."""
        ...

    @property
    def modules(self) -> tuple[ModuleCall, ...]:
        """In order of entry."""
        ...

    @property
    def parameters(self) -> tuple[ParameterInfo, ...]:
        """In the model's order."""
        ...


def problems(graph: Graph) -> Iterator[str]:
    """Every broken rule, as a sentence; nothing for a sound graph."""
    for rule in _RULES:
        yield from rule(graph)


def check(graph: Graph) -> None:
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


def _names(graph: Graph) -> Iterator[str]:
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


def _scopes(graph: Graph) -> Iterator[str]:
    entered = {""}
    levels = {"": 0}
    homes = {"": ""}  # by scope the module call that what is in it is named after
    for call in graph.modules:
        levels[call.name] = levels.get(call.parent, 0) + 1
        if levels[call.name] > _MOST_LEVELS:
            yield f"module call {call.name!r} is more than {_MOST_LEVELS} levels deep"
        if call.parent not in entered:
            yield f"module call {call.name!r} comes before its parent {call.parent!r}"
        home = homes.get(call.parent, call.parent)
        if home and not call.name.startswith(f"{home}/"):
            yield f"module call {call.name!r} is not named after its parent {home!r}"
        if call.kind == "function" and (call.path is not None or not call.called):
            yield f"function {call.name!r} must run, and have no path in the model"
        homes[call.name] = home if call.kind == "function" else call.name
        entered.add(call.name)
    for node in graph.nodes:
        if node.scope not in entered:
            yield f"node {node.name!r} is in a scope {node.scope!r} that does not exist"
        elif homes[node.scope] and not node.name.startswith(f"{homes[node.scope]}/"):
            yield f"node {node.name!r} is not named after its scope {homes[node.scope]!r}"


def _shapes_of_kinds(graph: Graph) -> Iterator[str]:
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


def _edges(graph: Graph) -> Iterator[str]:
    made: dict[str, int] = {}
    for node in graph.nodes:
        for ref in node.inputs:
            if ref.node not in made:
                yield f"node {node.name!r} reads {ref.node!r}, which does not exist before it"
            elif not 0 <= ref.index < made[ref.node]:
                yield f"node {node.name!r} reads output {ref.index} of {ref.node!r}"
        for ref in wrong_shape_edges(node):
            yield f"node {node.name!r} reads the values of {ref.node!r}, not only its shape"
        made[node.name] = len(node.outputs)
    for call in graph.modules:
        for port in (*call.inputs, *call.outputs):
            if not 0 <= port.ref.index < made.get(port.ref.node, 0):
                yield f"module call {call.name!r} has a port to {port.ref}, which does not exist"


def _sizes(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if any(map(_is_odd, node.outputs)):
            yield f"node {node.name!r} has an output of an impossible size"
        if node.flops is not None and not 0 <= node.flops < _MOST_ELEMENTS:
            yield f"node {node.name!r} has an impossible number of FLOPs"
        for size_bytes in (node.kept_bytes, node.live_bytes):
            if size_bytes is not None and not 0 <= size_bytes < _MOST_ELEMENTS:
                yield f"node {node.name!r} has an impossible amount of memory"
    for parameter in graph.parameters:
        packed = parameter.packed
        if _is_odd(parameter.spec) or (packed is not None and not 0 <= packed < _MOST_ELEMENTS):
            yield f"parameter {parameter.name!r} has an impossible size"


def _is_odd(spec: TensorSpec) -> bool:
    shape = spec.shape
    if shape is None:
        return False
    return any(size < 0 or size >= _MOST_ELEMENTS for size in shape) or spec.numel >= _MOST_ELEMENTS


_RULES: tuple[Callable[[Graph], Iterator[str]], ...] = (
    _names,
    _scopes,
    _shapes_of_kinds,
    _edges,
    _sizes,
)
