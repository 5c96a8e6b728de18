"""Calls as nodes of ONNX, each distinct call translated once a process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import onnx
import onnx_ir as ir
import torch

from modelviz_callbacks.writers.onnx.builder import (
    Shape,
    attributes,
    element_type,
)
from modelviz_callbacks.writers.onnx.exporter_internals import (
    OpOverload,
    OpOverloadPacket,
    fake_tensor_mode,
)
from modelviz_callbacks.writers.onnx.replacements import REPLACEMENTS, functions
from modelviz_callbacks.writers.onnx.size_templates import SizeTemplates
from modelviz_callbacks.writers.onnx.subgraph import Subgraph, SubgraphNode
from modelviz_callbacks.writers.onnx.torch_exporter import Untranslated, is_translated, translate

_LOG = logging.getLogger(__name__)

# Functions of these packages are what they are for the life of the process.
_LASTING = ("torch", "_operator", "builtins", "math", "modelviz_callbacks", "torch_geometric")

# Namespaces of operators that torch itself defines.
_TORCHS = ("aten", "prim", "prims")

# A function and the arguments of one call; `TensorPlace` stands for the tensors.
Target = Callable[..., Any] | str


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Stands for tensor number ``index`` among the arguments of a call."""

    index: int


@dataclass(frozen=True)
class Call:
    """One torch call without its tensors.

    Attributes:
        target: The function, or the name of a method.
        args: Its arguments, with `TensorPlace` for tensors.
        kwargs: Likewise.
        tensors: Shape, strides and dtype of each tensor.
        results: Which of the tensors in the result are wanted.
        written: Which of the argument tensors are wanted as the call leaves them.
        expected: dtype of each tensor wanted, as torch has it.
    """

    target: Target
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    results: tuple[int, ...]
    written: tuple[int, ...]
    expected: tuple[torch.dtype, ...]

    @property
    def function(self) -> Any:
        """What is called: the function object, also where a method stands by its name."""
        target = self.target
        if isinstance(target, str):
            return getattr(torch.Tensor, target, None)
        return target if isinstance(target, Hashable) else None

    @property
    def is_foreign(self) -> bool:
        """Whether it is an operator that somebody else than torch has registered."""
        target = self.target
        if isinstance(target, OpOverload):
            return target.namespace not in _TORCHS
        if isinstance(target, OpOverloadPacket):
            return str(target).partition(".")[0] not in _TORCHS
        return False

    def key(self) -> Any:
        """Equal for equal calls; ``None`` where nothing can be said."""
        target = self.target
        if not isinstance(target, str):
            module = getattr(target, "__module__", None) or type(target).__module__
            if module.partition(".")[0] not in _LASTING or "<locals>" in repr(target):
                return None
        try:
            arguments = (_key(self.args), _key(self.kwargs))
        except TypeError:
            return None
        return target, arguments, self.tensors, self.results, self.written, self.expected

    def body(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Makes the call on other tensors, writes to none of them."""
        given = list(tensors)
        for index in self.written:
            given[index] = given[index].clone()
        same = replace(self, target=REPLACEMENTS.get(self.function, self.target))
        result = same.run(given, torch.device("cpu"))
        found = list(tensors_in(result))
        return (*(found[i] for i in self.results), *(given[i] for i in self.written))

    def run(self, tensors: Sequence[torch.Tensor], device: torch.device) -> Any:
        """Makes the call; every device among the arguments is this one instead."""
        args = filled(self.args, tensors, device)
        kwargs = filled(self.kwargs, tensors, device)
        if isinstance(self.target, str):
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


def filled(value: Any, tensors: Sequence[torch.Tensor], device: torch.device) -> Any:
    """Arguments with the tensors in their slots, on one device."""
    if isinstance(value, TensorPlace):
        return tensors[value.index]
    if isinstance(value, torch.device):
        return device
    if type(value) in (tuple, list):
        return type(value)([filled(item, tensors, device) for item in value])
    if type(value) is dict:
        return {key: filled(item, tensors, device) for key, item in value.items()}
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice(*(filled(part, tensors, device) for part in parts))
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a result, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def _key(value: Any) -> Any:
    if value is None or isinstance(value, (TensorPlace, str)):
        return value
    if isinstance(value, (bool, int, float, complex)):
        # 1, 1.0 and True are equal, and so are 0.0 and -0.0.
        return type(value).__name__, repr(value)
    if isinstance(value, (tuple, list)):
        return type(value).__name__, tuple([_key(item) for item in value])
    if isinstance(value, dict):
        return "dict", tuple([(key, _key(item)) for key, item in value.items()])
    if isinstance(value, slice):
        return "slice", _key(value.start), _key(value.stop), _key(value.step)
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return str(value)
    if value is Ellipsis:
        return "..."
    raise TypeError(f"a {type(value).__name__} is like no other")


_CACHE: dict[Any, Subgraph | None] = {}
_TEMPLATES = SizeTemplates()


def subgraph_of(call: Call) -> Subgraph | None:
    """A call in standard ops; ``None`` where torch has no translation."""
    key = call.key()
    if key is not None and key in _CACHE:
        return _CACHE[key]
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
    known = _literal(call) or _joined(call)
    if known is not None:
        return known
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


def _literal(call: Call) -> Subgraph | None:
    if call.tensors or call.function not in _LITERALS or call.results != (0,):
        return None
    tensor = call.run((), torch.device("cpu"))
    proto = ir.to_proto(ir.tensor(tensor.numpy(force=True)))
    kind = proto.data_type, tuple(proto.dims)
    node = SubgraphNode("Constant", "", (), (0,), attributes(value=proto))
    return Subgraph((node,), (kind,), (0,))


# From this number of tensors on, the exporter takes longer for each the more there are.
_MANY = 50
_CATS = frozenset(functions("torch.cat torch.concat torch.concatenate"))
_STACKS = frozenset(functions("torch.stack"))


def _joined(call: Call) -> Subgraph | None:
    """Many tensors of one kind, joined along a dimension."""
    is_stack = call.function in _STACKS
    if not (is_stack or call.function in _CATS) or call.results != (0,) or call.written:
        return None
    given, *rest = call.args or (None,)
    dim = rest[0] if rest else call.kwargs.get("dim", 0)
    kinds = {(len(shape), dtype) for shape, _, dtype in call.tensors}
    if not isinstance(given, (list, tuple)) or len(given) < _MANY or len(kinds) != 1:
        return None
    if not isinstance(dim, int) or len(rest) > 1 or {*call.kwargs} - {"dim"}:
        return None
    ((rank, dtype),) = kinds
    if dtype.is_complex or not all(isinstance(item, TensorPlace) for item in given):
        return None
    kind = element_type(str(dtype).removeprefix("torch."), None)[0]
    return _concatenated(call, [item.index for item in given], dim % (rank + is_stack), kind)


def _concatenated(call: Call, places: list[int], axis: int, kind: int) -> Subgraph:
    count = len(call.tensors)
    made: list[tuple[int, Shape]] = []
    nodes: list[SubgraphNode] = []
    if call.function in _STACKS:
        proto = onnx.numpy_helper.from_array(numpy.array([axis], dtype=numpy.int64))
        made.append((proto.data_type, (1,)))
        nodes.append(SubgraphNode("Constant", "", (), (count,), attributes(value=proto)))
        for index, place in enumerate(places):
            shape = call.tensors[place][0]
            made.append((kind, (*shape[:axis], 1, *shape[axis:])))
            places[index] = count + len(made) - 1
            nodes.append(SubgraphNode("Unsqueeze", "", (place, count), (places[index],), ()))
    made.append((kind, None))
    result = count + len(made) - 1
    nodes.append(SubgraphNode("Concat", "", tuple(places), (result,), attributes(axis=axis)))
    return Subgraph(tuple(nodes), tuple(made), (result,))


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
