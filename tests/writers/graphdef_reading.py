"""What a test looks up in TensorBoard's messages."""

from __future__ import annotations

from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef


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
