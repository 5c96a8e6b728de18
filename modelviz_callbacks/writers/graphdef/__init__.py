"""TensorBoard's graph dashboard: the op graph, the overview of modules, and their costs.

The messages are TensorBoard's own (see `tensorboard_messages`); which of their fields the
dashboard reads, and how, is said where they are filled: ``nodedefs``, ``profile``, ``layout``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.tensorboard_messages import GraphDef, RunMetadata
from modelviz_callbacks.writers.graphdef.containers import seen_through
from modelviz_callbacks.writers.graphdef.layout import EMBEDDED_KINDS, place
from modelviz_callbacks.writers.graphdef.modules import MOST_NODES_TWICE, ModulesDrawing
from modelviz_callbacks.writers.graphdef.nodedefs import NodeDefs
from modelviz_callbacks.writers.graphdef.profile import (
    WHOLE_US,
    cost_loads,
    memory_loads,
    scale_text,
    step_stats,
    time_loads,
)

__all__ = [
    "NamedGraph",
    "graph_def",
    "named_graphs",
    "shares_profile",
    "timed_graph",
]


@dataclass(frozen=True)
class NamedGraph:
    """A graph, or a profile of the run's own graph, that a run shows under a tag.

    Attributes:
        tag: What the dashboard calls it.
        metadata: A serialized ``RunMetadata``: the profile, and the graph if ``has_graph``.
        has_graph: True: the value of a summary of the plugin ``graph_run_metadata``. False: a
            ``TaggedRunMetadata`` event, which belongs to the run's own graph.
    """

    tag: str
    metadata: bytes
    has_graph: bool = True


def graph_def(analysis: Analysis) -> GraphDef:
    """The op graph: a box a module call, a node an op, parameters as small circles.

    Args:
        analysis: The analysis of any graph that keeps its rules.

    Returns:
        Nodes named as in the graph wherever that works on the page (see ``layout``).

    Raises:
        WriterError: Nothing in it can be drawn; the page would break.
    """
    return analysis.once(_op_drawing).graph_def


def named_graphs(analysis: Analysis, backward: Analysis | None = None) -> tuple[NamedGraph, ...]:
    """What a run shows of a graph beside the op graph itself.

    Args:
        analysis: The analysis of any graph that keeps its rules.
        backward: The analysis of the graph of its backward pass, if there is one.

    Returns:
        ``forward``; ``modules``, if the model has some; ``kept for the backward``, with what each
        op keeps as its memory, if that is known; ``backward``, if it is given. Of more
        than 10,000 nodes ``forward`` is a profile of the op graph, and there is no ``modules``
        and no ``backward``: a graph so large is written once. The tags of the first two say how
        to read their scale, so that nobody takes costs for times.

    Raises:
        WriterError: Nothing in it can be drawn.
    """
    drawing = analysis.once(_op_drawing)
    scale = f"cost: {scale_text(drawing.graph)}"
    named = [drawing.named(f"forward, {scale}", drawing.costs())]
    modules = drawing.modules
    if modules.is_useful:
        costs = step_stats(modules.cost_loads())
        named.append(_named(f"modules, {scale}", modules.graph_def(), costs))
    if any(node.kept_bytes for node in drawing.graph.nodes):
        # A profile of the run's own graph: the graph itself need not be written once more.
        kept = _serialize(drawing.memory())
        named.append(NamedGraph(f"kept for the backward, {scale}", kept, has_graph=False))
    if backward is not None and len(backward.graph.nodes) <= MOST_NODES_TWICE:
        # Nobody has measured it: without a profile the page offers no scale for it.
        named.append(_named("backward", backward.once(_op_drawing).graph_def, RunMetadata()))
    return tuple(named)


def timed_graph(analysis: Analysis, times_us: Mapping[str, float], tag: str) -> NamedGraph:
    """The op graph with measured times.

    Args:
        analysis: The analysis of any graph that keeps its rules.
        times_us: Microseconds by the names of its ops; ops that are missing took none.
        tag: What the dashboard calls it, for example ``time of step 10``.

    Raises:
        WriterError: A time belongs to no op, is negative or not finite; or nothing can be drawn.
    """
    drawing = analysis.once(_op_drawing)
    return drawing.named(tag, drawing.times(times_us))


def shares_profile(analysis: Analysis, shares: Mapping[str, float], tag: str) -> NamedGraph:
    """A profile of the run's graph whose compute time is a part of a whole: ten seconds are all.

    Args:
        analysis: The analysis of any graph that keeps its rules.
        shares: From 0 to 1, by the names of its ops; ops that are missing have none.
        tag: What the dashboard calls it.

    Raises:
        WriterError: A share belongs to no op, is negative or not finite; or nothing can be drawn.
    """
    parts = {name: share * WHOLE_US for name, share in shares.items()}
    profile = analysis.once(_op_drawing).times(parts)
    return NamedGraph(tag, _serialize(profile), has_graph=False)


def _op_drawing(analysis: Analysis) -> _OpDrawing:
    return _OpDrawing(analysis)


class _OpDrawing:
    """The op graph, placed once for all that is written about it."""

    def __init__(self, analysis: Analysis) -> None:
        """Places the nodes.

        Raises:
            WriterError: Nothing in the graph can be drawn.
        """
        graph = analysis.graph
        if all(node.kind in EMBEDDED_KINDS for node in graph.nodes):
            raise WriterError(
                f"The graph {graph.name!r} has no op, input or output, and TensorBoard cannot "
                "show an empty graph. Record a forward pass that computes something."
            )
        self.analysis = analysis
        self.graph = graph
        no_boxes = seen_through(analysis)
        self._names = place(graph.nodes, graph.modules, no_boxes, analysis.folds)
        self._node_defs = NodeDefs(graph, self._names)

    @cached_property
    def _devices(self) -> Mapping[str, str]:
        return {node.name: self._node_defs.device(node) for node in self.graph.nodes}

    @cached_property
    def graph_def(self) -> GraphDef:
        found = GraphDef()
        nodes, add = self.graph.by_name, self._node_defs.add
        for name, placed in self._names.items():
            add(nodes[name], placed, found)
        return found

    def named(self, tag: str, profile: RunMetadata) -> NamedGraph:
        if len(self._names) > MOST_NODES_TWICE:
            return NamedGraph(tag, _serialize(profile), has_graph=False)
        return _named(tag, self.graph_def, profile)

    def costs(self) -> RunMetadata:
        return step_stats(cost_loads(self.graph, self._names, self._devices))

    def memory(self) -> RunMetadata:
        return step_stats(memory_loads(self.graph, self._names, self._devices))

    def times(self, times_us: Mapping[str, float]) -> RunMetadata:
        return step_stats(time_loads(self.graph, self._names, self._devices, times_us))

    @cached_property
    def modules(self) -> ModulesDrawing:
        return ModulesDrawing(self.analysis, self._node_defs)


def _named(tag: str, drawn: GraphDef, profile: RunMetadata) -> NamedGraph:
    profile.function_graphs.add().pre_optimization_graph.CopyFrom(drawn)
    return NamedGraph(tag, _serialize(profile))


def _serialize(message: Any) -> bytes:
    """The message's bytes; attributes in a fixed order, so equal graphs give equal bytes."""
    data: bytes = message.SerializeToString(deterministic=True)
    return data
