"""Ops as torch has them, for what standard ops cannot say."""

from __future__ import annotations

from typing import Any

from modelviz_callbacks.graph import ModelGraph, Node, Ref, home_of
from modelviz_callbacks.graph.values import PythonText, Value, refs
from modelviz_callbacks.writers.onnx.builder import GraphBuilder, attributes
from modelviz_callbacks.writers.onnx.builder import Value as OnnxValue

# Nodes of this domain are for looking at; no runtime knows them.
DOMAIN = "pytorch"

_LONGEST_TEXT = 200


def plain_attributes(node: Node) -> tuple[bytes, ...]:
    """The arguments of an op that hold no tensor, as attributes of an ONNX node."""
    found: dict[str, Any] = {}
    for argument in node.arguments:
        if argument.value is None or any(True for _ in refs(argument.value)):
            continue
        name = argument.name
        while name in found:
            name = f"{name}_"
        found[name] = _plain(argument.value)
    return attributes(**found)


def _plain(value: Value) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float):
        return value
    if isinstance(value, tuple) and value:
        if all(type(item) is int for item in value):
            return list(value)
        if all(type(item) is float for item in value):
            return list(value)
    text = value.text if isinstance(value, PythonText) else str(value)
    return text[:_LONGEST_TEXT]


def facts_of(node: Node, graph: ModelGraph) -> dict[str, str]:
    """What a node of the file says about the torch call it comes from."""
    call = graph.module_by_name.get(home_of(graph.module_by_name, node.scope))
    found = {
        "module": (call.path or "") if call else "",
        "class": (call.type_name if call else graph.class_name.rpartition(".")[2]),
        "op": node.target or node.op,
        "source": str(node.source) if node.source else "",
    }
    return {key: text for key, text in found.items() if text}


def put_graph(builder: GraphBuilder) -> tuple[dict[str, OnnxValue], dict[str, OnnxValue]]:
    """Puts every op of a model graph on a builder, as torch has it.

    Args:
        builder: Its graph and scope say what.

    Returns:
        The values that come in, and those that go out, by their paths; state is among the
        former by its qualified name.
    """
    graph = builder.graph
    values: dict[Ref, OnnxValue] = {}
    given: dict[str, OnnxValue] = {}
    results: dict[str, OnnxValue] = {}
    scope = builder.scope
    inside = [node for node in graph.ops if scope in ("", *graph.scopes_of(node.scope))]

    def read(ref: Ref) -> OnnxValue:
        if ref not in values:
            source = graph.by_name[ref.node]
            spec = graph.spec(ref)
            label = source.path or source.name
            made = values[ref] = builder.value(spec.dtype, spec.shape, label)
            made.kind = "state" if source.kind in ("parameter", "buffer", "constant") else "input"
            given[label] = made
        return values[ref]

    for node in graph.of_kind("input") if not scope else ():
        read(Ref(node.name))
    for node in inside:
        builder.go_to(node.scope, node.name, facts_of(node, graph))
        outputs = [builder.value(spec.dtype, spec.shape) for spec in node.outputs]
        inputs = [read(ref) for ref in node.inputs]
        builder.add(node.op, inputs, outputs, plain_attributes(node), DOMAIN)
        values |= {Ref(node.name, index): value for index, value in enumerate(outputs)}
    if scope:
        ports = graph.module_by_name[scope].outputs
        results = {port.path: read(port.ref) for port in ports}
    else:
        for node in graph.of_kind("output"):
            results[node.path] = read(node.inputs[0])
    return given, results
