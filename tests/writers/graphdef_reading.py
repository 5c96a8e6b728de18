"""What a test looks up in TensorBoard's messages."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.writers.graphdef import named_graphs, timed_graph


def by_name(written: GraphDef) -> dict[str, NodeDef]:
    """The nodes by their names."""
    return {node.name: node for node in written.node}


def texts_of(node: NodeDef) -> dict[str, str]:
    """The rows of a node's card."""
    return {key: value.s.decode() for key, value in node.attr.items() if value.s}


def stats_of(metadata: RunMetadata) -> dict[str, tuple[int, int, int]]:
    """Start, length and bytes of every node."""
    return {
        row.node_name: (
            row.all_start_micros,
            row.all_end_rel_micros,
            sum(memory.total_bytes for memory in row.memory),
        )
        for device in metadata.step_stats.dev_stats
        for row in device.node_stats
    }


def run_metadata(analysis: Analysis) -> RunMetadata:
    """The costs of the op graph's nodes."""
    return RunMetadata.FromString(named_graphs(analysis)[0].metadata)


def profile_metadata(analysis: Analysis, times_us: Mapping[str, float]) -> RunMetadata:
    """Measured times of the op graph's nodes."""
    return RunMetadata.FromString(timed_graph(analysis, times_us, "times").metadata)


def modules_graph_def(analysis: Analysis) -> GraphDef:
    """The overview of modules; empty where a run shows none."""
    for named in named_graphs(analysis):
        if named.tag.startswith("modules"):
            (drawn,) = RunMetadata.FromString(named.metadata).function_graphs
            return drawn.pre_optimization_graph
    return GraphDef()
