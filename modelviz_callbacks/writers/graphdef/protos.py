"""TensorBoard's messages, brought in at one place: the package has no type information."""

from __future__ import annotations

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.step_stats_pb2 import (
    DeviceStepStats,
)
from tensorboard.compat.proto.tensor_shape_pb2 import (
    TensorShapeProto,
)

__all__ = ["AttrValue", "DeviceStepStats", "GraphDef", "NodeDef", "RunMetadata", "TensorShapeProto"]
