"""The main path of a graph: what flows from parameters and floating-point inputs to outputs.

The rest is bookkeeping: positions, masks, labels on their way to the loss, checks of arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelviz_callbacks.analysis.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of
from modelviz_callbacks.graph.values import Ref, refs

_FLOATS = ("float", "bfloat", "complex")


def bookkeeping(analysis: Analysis) -> frozenset[str]:
    """The ops and inputs beside the main path.

    An op is on the main path if a value flows through it from a parameter or a floating-point
    input to an output, if it makes an output, or if it only changes the layout of an input on
    its way to what such an op works on, which is its first tensor; an input is if it arrives
    there. Where no input arrives so, any op on the way of one counts (``one_hot``, a division
    of 8-bit pixels).

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
    inputs = {node.name for node in graph.of_kind("input")}
    main |= _ways_of_inputs(graph, main, layout_only=True)
    if inputs.isdisjoint(main):
        main |= _ways_of_inputs(graph, main, layout_only=False)
    return frozenset(({node.name for node in graph.ops} | inputs) - main)


def _ways_of_inputs(graph: ModelGraph, main: set[str], *, layout_only: bool) -> set[str]:
    """The inputs that ops on the main path work on, with the ops that they come through.

    Args:
        graph: Any graph.
        main: The nodes on the main path.
        layout_only: Whether they may only come through ops that change their layout.
    """
    ways = {node.name for node in graph.of_kind("input")}
    for node in graph.ops:
        may_be = OpFact.LAYOUT in facts_of(node.target) or not layout_only
        if may_be and any(ref.node in ways for ref in _worked_on(node)):
            ways.add(node.name)
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in found or (node.name in main and node.is_call):
            found.update(ref.node for ref in _worked_on(node) if ref.node in ways)
    return found


def _worked_on(node: Node) -> tuple[Ref, ...]:
    """What an op works on: the first of its arguments that holds tensors."""
    for argument in node.arguments:
        found = tuple(ref for ref in refs(argument.value) if not ref.shape_only)
        if found:
            return found
    return ()


def _fed(graph: ModelGraph) -> set[str]:
    """The nodes that a value of a parameter or of a floating-point input flows to."""
    found: set[str] = set()
    for node in graph.nodes:
        is_float = bool(node.outputs) and node.outputs[0].dtype.startswith(_FLOATS)
        is_start = node.kind == "parameter" or (node.kind == "input" and is_float)
        if is_start or any(ref.node in found for ref in node.inputs if not ref.shape_only):
            found.add(node.name)
    return found


def _leading(graph: ModelGraph, ends: Iterable[Node]) -> set[str]:
    """The nodes from which a value flows to one of some nodes."""
    found = {node.name for node in ends}
    for node in reversed(graph.nodes):
        if node.name in found:
            found.update(ref.node for ref in node.inputs if not ref.shape_only)
    return found
