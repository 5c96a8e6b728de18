"""The overview as a ``GraphDef``: a node's card tells what its module call holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.costs import is_uncounted
from modelviz_callbacks.analysis.main_path import bookkeeping
from modelviz_callbacks.graph import ModuleCall, Node
from modelviz_callbacks.tensorboard_messages import GraphDef
from modelviz_callbacks.writers.graphdef.containers import seen_through
from modelviz_callbacks.writers.graphdef.layout import place
from modelviz_callbacks.writers.graphdef.nodedefs import (
    TRAINING_STATES,
    NodeDefs,
    device_name,
    ref_text,
    set_output_shapes,
    set_texts,
    set_training_state,
    spec_text,
)
from modelviz_callbacks.writers.graphdef.overview import (
    OverviewNode,
    innermost_calls,
    module_overview,
)
from modelviz_callbacks.writers.graphdef.profile import Load, flops_a_microsecond, parameter_bytes

# Above this many nodes a drawing is not written beside the run's own graph: nobody can look at it.
MOST_NODES_TWICE = 10_000


class ModulesDrawing:
    """The overview of one graph, placed.

    Args:
        analysis: The analysis of the graph.
        node_defs: What describes the graph's own nodes.
    """

    def __init__(self, analysis: Analysis, node_defs: NodeDefs) -> None:
        self._analysis = analysis
        self._graph = analysis.graph
        self._node_defs = node_defs

    @cached_property
    def _nodes(self) -> Mapping[str, OverviewNode]:
        return module_overview(self._graph, bookkeeping(self._analysis))

    @cached_property
    def _owned(self) -> Mapping[str, int]:
        return parameter_bytes(self._graph)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        nodes = (drawn.node for drawn in self._nodes.values())
        no_boxes = seen_through(self._analysis)
        return place(nodes, self._graph.modules, no_boxes, self._analysis.folds)

    @property
    def is_useful(self) -> bool:
        """Whether it says more than the op graph: it has module calls, and not too many."""
        calls = innermost_calls(self._graph)
        return 0 < len(calls) <= MOST_NODES_TWICE and len(self._nodes) <= MOST_NODES_TWICE

    def graph_def(self) -> GraphDef:
        """The overview in TensorBoard's format."""
        found = GraphDef()
        for name, placed in self._names.items():
            self._add(self._nodes[name], placed, found)
        return found

    def cost_loads(self) -> list[Load]:
        """FLOPs and parameter bytes of each node, on the scale of the op graph's costs."""
        unit = flops_a_microsecond(self._graph)
        return [
            Load(
                placed,
                self._node_defs.device(self._nodes[name].members[0]),
                sum(node.flops or 0 for node in self._nodes[name].members) / unit,
                sum(self._owned.get(node.name, 0) for node in self._nodes[name].members),
            )
            for name, placed in self._names.items()
        ]

    def _add(self, drawn: OverviewNode, placed: str, graph_def: GraphDef) -> None:
        node_def = graph_def.node.add(
            name=placed,
            op=self._node_defs.op_type(drawn.node),
            device=device_name(self._node_defs.device(drawn.members[0])),
        )
        for ref in drawn.inputs:
            node_def.input.append(ref_text(self._names[ref.node], ref.index))
        set_training_state(node_def, self._training_state(drawn))
        set_output_shapes(node_def, [self._graph.spec(ref) for ref in drawn.outputs])
        if drawn.call is None:
            set_texts(node_def, self._node_defs.rows(drawn.node))
        else:
            set_texts(node_def, self._rows(drawn, drawn.call))

    def _training_state(self, drawn: OverviewNode) -> str:
        states = {self._node_defs.training_state(node, node.inputs) for node in drawn.members}
        return next((state for state in TRAINING_STATES if state in states), "")

    def _rows(self, drawn: OverviewNode, call: ModuleCall) -> Iterator[tuple[str, str]]:
        for kind, ports in (("input", call.inputs), ("output", call.outputs)):
            for port in ports[:8]:
                yield f"{kind} {port.path}", spec_text(self._graph.spec(port.ref))
        yield from self._node_defs.module_rows(call.name).items()
        yield "module class", call.class_name
        yield "ops inside", str(len(drawn.members))
        yield "parameters", f"{self._parameter_count(drawn.members):,}"
        least = "at least " if any(is_uncounted(n) for n in drawn.members) else ""
        yield "FLOPs", f"{least}{sum(n.flops or 0 for n in drawn.members):,}"

    def _parameter_count(self, members: list[Node]) -> int:
        read = {ref.node: self._graph.by_name[ref.node] for n in members for ref in n.inputs}
        return sum(n.outputs[0].numel for n in read.values() if n.kind == "parameter")
