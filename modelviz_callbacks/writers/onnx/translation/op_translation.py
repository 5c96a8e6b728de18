"""Calls as nodes of ONNX, each distinct call translated once a process."""

from __future__ import annotations

import logging
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from modelviz_callbacks.writers.onnx.builder import (
    Shape,
    attributes,
    element_type,
)
from modelviz_callbacks.writers.onnx.exporter_internals import fake_tensor_mode
from modelviz_callbacks.writers.onnx.replacements.table import functions
from modelviz_callbacks.writers.onnx.stand_ins import META
from modelviz_callbacks.writers.onnx.translation.calls import Call
from modelviz_callbacks.writers.onnx.translation.joined import joined
from modelviz_callbacks.writers.onnx.translation.size_templates import SizeTemplates
from modelviz_callbacks.writers.onnx.translation.subgraph import Subgraph, SubgraphNode
from modelviz_callbacks.writers.onnx.translation.torch_exporter import (
    MOST_FOLDED,
    Untranslated,
    is_translated,
    translate,
)

_LOG = logging.getLogger(__name__)

_CACHE: dict[Any, Subgraph | None] = {}
_TEMPLATES = SizeTemplates()


def subgraph_of(call: Call) -> Subgraph | None:
    """A call in standard ops; ``None`` where torch has no translation."""
    many = joined(call)
    if many is not None:
        return many
    key = call.key()
    if key is not None and key in _CACHE:
        return _CACHE[key]
    made = _literal(call)
    if made is None:
        made = None if key is None else _TEMPLATES.find(key)
        if made is None:
            made = _made(call)
            if key is not None and made is not None:
                _TEMPLATES.learn(key, made)
    if key is not None:
        _CACHE[key] = made
    return made


def _made(call: Call) -> Subgraph | None:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    kinds = (*call.expected, *(dtype for _, _, dtype in call.tensors))
    if any("float8" in str(dtype) for dtype in kinds):
        return None  # standard from version 19 on
    if call.is_foreign and not is_translated(call.target):
        return None  # whatever it is made of: it is one op to its author
    # Sizes that depend on data become symbols, which nothing after this call sees.
    mode = fake_tensor_mode(shape_env=ShapeEnv(), static_shapes=True, allow_non_fake_inputs=True)
    with mode:
        examples = tuple(
            torch.empty_strided(shape, stride, dtype=dtype) for shape, stride, dtype in call.tensors
        )
    try:
        return _from_ir(translate(call.body, examples), call)
    except Untranslated as failure:
        _LOG.debug("%s stays as it is: %s", call.target, failure)
        return None


# What makes a tensor of plain numbers; no random number among them.
_LITERALS = frozenset(
    functions("torch.tensor torch.as_tensor torch.asarray torch.scalar_tensor torch.div")
)
# Likewise, of any size: small ones are constants, and a loop makes one of each size.
_FILLED = frozenset(functions("torch.arange torch.eye torch.full torch.ones torch.zeros"))


def _literal(call: Call) -> Subgraph | None:
    if call.tensors or call.results != (0,):
        return None
    if call.function not in _LITERALS and not _is_small(call):
        return None
    tensor = call.run((), torch.device("cpu"))
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    # Numpy has not every type of torch's: bfloat16, numbers of eight bits.
    proto = ir.to_proto(tensor_adapters.TorchTensor(tensor.detach().resolve_neg().contiguous()))
    kind = proto.data_type, tuple(proto.dims)
    node = SubgraphNode("Constant", "", (), (0,), attributes(value=proto))
    return Subgraph((node,), (kind,), (0,))


def _is_small(call: Call) -> bool:
    """Whether a call fills a tensor that is folded into a constant."""
    if call.function not in _FILLED or call.expected[0].is_complex:
        return False
    with META:
        made = call.run((), META)
    return isinstance(made, torch.Tensor) and made.numel() <= MOST_FOLDED


def _from_ir(model: ir.Model, call: Call) -> Subgraph:
    graph = model.graph
    places: dict[ir.Value, int] = {value: index for index, value in enumerate(graph.inputs)}
    made: list[tuple[int, Shape]] = []
    nodes: list[SubgraphNode] = []

    def place(value: ir.Value) -> int:
        if value not in places:
            places[value] = len(graph.inputs) + len(made)
            made.append(_kind(value))
        return places[value]

    for value in graph.initializers.values():
        assert value.const_value is not None
        proto = ir.to_proto(value.const_value)
        proto.ClearField("name")
        nodes.append(SubgraphNode("Constant", "", (), (place(value),), attributes(value=proto)))
    for node in graph:
        if node.op_type == "Identity" and not node.domain and node.inputs[0] is not None:
            places[node.outputs[0]] = place(node.inputs[0])
            continue
        nodes.append(
            SubgraphNode(
                node.op_type,
                node.domain,
                tuple([-1 if value is None else place(value) for value in node.inputs]),
                tuple([place(value) for value in node.outputs]),
                _attributes(node),
            )
        )
    outputs = [place(value) for value in graph.outputs]
    for index, dtype in enumerate(call.expected):
        wanted, _ = element_type(str(dtype).removeprefix("torch."), None)
        found = graph.outputs[index].dtype
        if wanted and found is not None and int(found) != wanted:
            made.append((wanted, _kind(graph.outputs[index])[1]))
            target = len(graph.inputs) + len(made) - 1
            nodes.append(
                SubgraphNode("Cast", "", (outputs[index],), (target,), attributes(to=wanted))
            )
            outputs[index] = target
    return Subgraph(tuple(nodes), tuple(made), tuple(outputs))


def _kind(value: ir.Value) -> tuple[int, Shape]:
    sizes: Shape = None
    if value.shape is not None:
        sizes = tuple([size if isinstance(size, int) else None for size in value.shape])
    return (0 if value.dtype is None else int(value.dtype)), sizes


def _attributes(node: ir.Node) -> tuple[bytes, ...]:
    made = []
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            raise Untranslated(f"{node.op_type} holds a graph")
        proto: onnx.AttributeProto = ir.to_proto(attribute)
        made.append(proto.SerializeToString(deterministic=True))
    return tuple(made)
