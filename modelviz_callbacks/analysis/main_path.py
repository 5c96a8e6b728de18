"""The main path of a graph: what flows from parameters and floating-point inputs to outputs.

The rest is bookkeeping: positions, masks, labels on their way to the loss, checks of arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelviz_callbacks.analysis.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of

_FLOATS = ("float", "bfloat", "complex")


def bookkeeping(analysis: Analysis) -> frozenset[str]:
    """The ops and inputs beside the main path.

    An op is on the main path if a value flows through it from a parameter or a floating-point
    input to an output, if it makes an output, or if it only changes the layout of an input on
    its way to such an op; an input is if an op on the main path reads it.

    Args:
        analysis: The analysis of a sound graph.

    Returns:
        Names of nodes; none where there would be nothing else.
    """
    return analysis.once(_bookkeeping)


def _bookkeeping(analysis: Analysis) -> frozenset[str]:
    graph = analysis.graph
    # The ends of a backward graph are ops: where the gradients of parameters arrive.
    ends = [node for node in graph.nodes if node.kind == "output" or (node.is_call and node.path)]
    main = _fed(graph) & _leading(graph, ends)
    if not any(node.name in main for node in graph.ops):
        return frozenset()
    main.update(ref.node for end in ends for ref in end.inputs)
    main |= _reshaped_inputs(graph, main)
    read = {ref.node for node in graph.ops if node.name in main for ref in node.inputs}
    ops = {node.name for node in graph.ops} - main
    inputs = {node.name for node in graph.of_kind("input")} - main - read
    return frozenset(ops | inputs)


def _reshaped_inputs(graph: ModelGraph, main: set[str]) -> set[str]:
    """The layout ops through which an input comes to the main path as it is."""
    as_it_is = {node.name for node in graph.of_kind("input")}
    for node in graph.ops:
        if (
            OpFact.LAYOUT in facts_of(node.target)
            and node.inputs
            and node.inputs[0].node in as_it_is
        ):
            as_it_is.add(node.name)
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in main or node.name in found:
            found.update(ref.node for ref in node.inputs if ref.node in as_it_is)
    return found


def _fed(graph: ModelGraph) -> set[str]:
    """The nodes that a value of a parameter or of a floating-point input flows to."""
    found: set[str] = set()
    for node in graph.nodes:
        is_float = bool(node.outputs) and node.outputs[0].dtype.startswith(_FLOATS)
        is_start = node.kind == "parameter" or (node.kind == "input" and is_float)
        if is_start or any(ref.node in found for ref in node.inputs):
            found.add(node.name)
    return found


def _leading(graph: ModelGraph, ends: Iterable[Node]) -> set[str]:
    """The nodes from which a value flows to one of some nodes."""
    found = {node.name for node in ends}
    for node in reversed(graph.nodes):
        if node.name in found:
            found.update(ref.node for ref in node.inputs)
    return found
