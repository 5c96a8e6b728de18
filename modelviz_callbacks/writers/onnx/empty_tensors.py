"""Tensors without values: a name, a shape and a dtype.

They are sparse tensors without an entry: the format's checker takes them, a runtime loads them
as zeros, and they take as many bytes as their names.
"""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

from modelviz_callbacks.writers.onnx.builder import Value


def add_initializer(graph: onnx.GraphProto, name: str, value: Value) -> None:
    """Adds a parameter or buffer without its values.

    Args:
        graph: Changed in place.
        name: Of the initializer.
        value: Its shape and dtype, which are known.
    """
    if _can_be_sparse(value):
        sparse = graph.sparse_initializer.add()
        sparse.CopyFrom(_sparse(value))
        sparse.values.name = name
    else:
        dense = graph.initializer.add()
        dense.CopyFrom(_dense(value))
        dense.name = name


def constant_without_values(value: Value, name: str) -> onnx.NodeProto:
    """A node that makes such a tensor.

    Args:
        value: Its shape and dtype, which are known.
        name: Of the tensor.
    """
    node = onnx.NodeProto(op_type="Constant", output=[name])
    attribute = node.attribute.add()
    if _can_be_sparse(value):
        attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
        attribute.sparse_tensor.CopyFrom(_sparse(value))
    else:
        attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
        attribute.t.CopyFrom(_dense(value))
    return node


def _sizes(value: Value) -> list[int]:
    return [size or 0 for size in value.shape or ()]


def _can_be_sparse(value: Value) -> bool:
    """The checker wants a sparse tensor to have a dimension, and none of size zero."""
    return 0 not in (_sizes(value) or [0])


def _sparse(value: Value) -> onnx.SparseTensorProto:
    made = onnx.SparseTensorProto(dims=_sizes(value))
    made.values.data_type = value.dtype
    made.values.dims.append(0)
    made.indices.data_type = onnx.TensorProto.INT64
    made.indices.dims.append(0)
    return made


def _dense(value: Value) -> onnx.TensorProto:
    """A single zero, or none at all."""
    sizes = _sizes(value)
    item_bytes = math.ceil(ir.DataType(value.dtype).bitwidth / 8)
    data = bytes(item_bytes * math.prod(sizes))
    return onnx.TensorProto(data_type=value.dtype, dims=sizes, raw_data=data)
