"""Parameters and buffers in the file, with their values and without."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from modelviz_callbacks.writers.onnx.builder import Value
from modelviz_callbacks.writers.onnx.empty_tensors import add_initializer
from modelviz_callbacks.writers.onnx.function_library import value_info
from modelviz_callbacks.writers.onnx.stand_ins import has_own_values
from modelviz_callbacks.writers.onnx.translation.fallback_nodes import DOMAIN


def add_without_values(graph: onnx.GraphProto, name: str, value: Value) -> None:
    """Adds a tensor by its name, shape and dtype.

    Args:
        graph: Changed in place.
        name: Of the initializer.
        value: Its shape and dtype; one without becomes a node of the domain ``pytorch``.
    """
    if value.shape is None or not value.dtype:
        node = onnx.NodeProto(op_type="constant", domain=DOMAIN, name=name, output=[name])
        graph.node.insert(0, node)
    else:
        add_initializer(graph, name, value)


def add_with_values(
    graph: onnx.GraphProto, name: str, value: Value, tensor: torch.Tensor | None
) -> bool:
    """Adds a tensor with its elements, if these can be read.

    Args:
        graph: Changed in place. A tensor whose elements cannot be read becomes an input of it:
            zeros in its place would be false.
        name: Of the initializer.
        value: Its shape and dtype.
        tensor: The tensor; ``None`` if only its description is left.

    Returns:
        Whether the elements are in the file.
    """
    if tensor is not None and has_own_values(tensor):
        graph.initializer.append(_proto(name, tensor))
        return True
    if value.shape is None or not value.dtype:
        add_without_values(graph, name, value)
    else:
        graph.input.append(value_info(value, name))
    return False


def _proto(name: str, tensor: torch.Tensor) -> onnx.TensorProto:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    adapted = tensor_adapters.TorchTensor(plain.contiguous(), name=name)
    proto: onnx.TensorProto = ir.to_proto(adapted)
    return proto
