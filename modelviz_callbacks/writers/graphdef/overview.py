"""The overview: one node a module call, and the ops where branches meet between them.

An innermost module call that computed something is one node, with everything that ran inside
it. It stands alone in a box of the call's name, because the dashboard writes the names of boxes
large and inside, but those of ovals small and across the arrow that leaves them.

Ops outside of those are drawn only where several branches meet (a residual ``add``, a ``cat``,
attention between its projections); other ops pass their input's origin on. Drawing no meeting
point would tie the last block of a residual network to every block before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelviz_callbacks.graph import ModelGraph, ModuleCall, Node, Ref
from modelviz_callbacks.writers.graphdef.layout import EMBEDDED_KINDS


@dataclass
class OverviewNode:
    """One node of the overview.

    Attributes:
        name: The module call's name and its class (``fc/Linear``), or the graph's node's own.
        node: What is drawn: the graph's node, or one made to stand for the module call.
        call: The module call it stands for; ``None`` for an input, output or op.
        members: The graph's nodes it stands for.
        outputs: Number of each output that others read, by its tensor.
        inputs: What it reads: outputs of other nodes of the overview, each once.
    """

    name: str
    node: Node
    call: ModuleCall | None = None
    members: list[Node] = field(default_factory=list)
    outputs: dict[Ref, int] = field(default_factory=dict)
    inputs: dict[Ref, None] = field(default_factory=dict)


def module_overview(
    graph: ModelGraph, beside: frozenset[str] = frozenset()
) -> dict[str, OverviewNode]:
    """The nodes of the overview by name, in order of execution; edges follow the tensors.

    Args:
        graph: A sound graph.
        beside: Nodes to leave out: those beside the main path.
    """
    builder = _Builder(graph)
    for node in graph.nodes:
        if node.kind not in EMBEDDED_KINDS and node.name not in beside:
            builder.add(node)
    return builder.found


class _Builder:
    def __init__(self, graph: ModelGraph) -> None:
        self.found: dict[str, OverviewNode] = {}
        self._innermost = innermost_calls(graph)
        # The tensor of a drawn node that a tensor comes from; none for what only parameters and
        # constants went into.
        self._origin: dict[Ref, Ref] = {}
        self._maker: dict[Ref, str] = {}

    def add(self, node: Node) -> None:
        origins = {self._origin[ref]: None for ref in node.inputs if ref in self._origin}
        outputs = [Ref(node.name, index) for index in range(len(node.outputs))]
        call = self._innermost.get(node.scope) if node.is_call else None
        if call is None and node.is_call and len({self._maker[ref] for ref in origins}) < 2:
            for passed in list(origins)[:1]:
                self._origin.update(dict.fromkeys(outputs, passed))
            return
        drawn = self._drawn(node, call)
        drawn.members.append(node)
        for origin in origins:
            self._connect(origin, drawn)
        for ref in outputs:
            self._origin[ref] = ref
            self._maker[ref] = drawn.name

    def _drawn(self, node: Node, call: ModuleCall | None) -> OverviewNode:
        if call is None:
            return self.found.setdefault(node.name, OverviewNode(node.name, node))
        name = f"{call.name}/{call.type_name}"
        stand_in = Node(name, "op", call.type_name, call.name, target=call.class_name)
        return self.found.setdefault(name, OverviewNode(name, stand_in, call))

    def _connect(self, origin: Ref, drawn: OverviewNode) -> None:
        maker = self.found[self._maker[origin]]
        if maker is not drawn:
            number = maker.outputs.setdefault(origin, len(maker.outputs))
            drawn.inputs[Ref(maker.name, number)] = None


def innermost_calls(graph: ModelGraph) -> Mapping[str, ModuleCall]:
    """The module calls that computed something themselves and call no other that did."""
    used = {node.scope for node in graph.nodes if node.is_call}
    busy = {scope for innermost in used for scope in graph.scopes_of(innermost)}
    return {
        call.name: call
        for call in graph.modules
        if call.name in busy and not any(c.name in busy for c in graph.children[call.name])
    }
