"""An ONNX file as a model graph: functions and the names of modules become boxes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.foreign.builder import ForeignGraphBuilder, Frame, source_of
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.graph.values import Argument, PythonText, Ref, TensorSpec, Value

# torch's names of ONNX's element types, https://onnx.ai/onnx/repo-docs/IR.html#tensors
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
_UNKNOWN = TensorSpec(None, "?")
_LONGEST = 12


def read(path: Path) -> ModelGraph:
    """Reads an ONNX file; its weights stay where they are.

    Args:
        path: The file.

    Returns:
        Its graph. Sizes that are free make a shape unknown.

    Raises:
        GraphFormatError: It is no ONNX file.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's and onnx's own kinds
        raise GraphFormatError(f"{path} is not an ONNX file: {error}") from error
    if not model.HasField("graph"):
        raise GraphFormatError(f"{path} is not an ONNX file: there is no graph in it.")
    return _OnnxReader(model, path.stem).graph()


class _OnnxReader:
    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.model = model
        title = model.graph.name if model.graph.name not in ("", "main_graph") else name
        self.builder = ForeignGraphBuilder(title, model.producer_name or "onnx")
        self.functions = {(one.domain, one.name): one for one in model.functions}
        self.initializers = {one.name: _initializer_spec(one) for one in model.graph.initializer}
        self.read_initializers: dict[str, Ref] = {}

    def graph(self) -> ModelGraph:
        """The whole."""
        graph = self.model.graph
        known = {one.name: _spec(one) for one in (*graph.value_info, *graph.output)}
        tensors: dict[str, Ref] = {}
        for one in graph.input:
            if one.name not in self.initializers:
                tensors[one.name] = self.builder.input(one.name, _spec(one))
        self._nodes(graph.node, tensors, known, ())
        for one in graph.output:
            if one.name in tensors:
                self.builder.output(one.name, tensors[one.name])
        return self.builder.graph()

    def _nodes(
        self,
        nodes: Sequence[onnx.NodeProto],
        tensors: dict[str, Ref],
        known: Mapping[str, TensorSpec],
        around: tuple[Frame, ...],
    ) -> None:
        for number, node in enumerate(nodes):
            function = self.functions.get((node.domain, node.op_type))
            if function is not None:
                self._call(function, node, tensors, (*around, _frame(node, number, around)))
                continue
            stack = around if around else tuple(_stack(node))
            scope = self.builder.scope(stack)
            arguments = list(self._inputs(node, tensors, scope))
            arguments += [
                Argument(one.name, _attribute(one))
                for one in node.attribute
                if not one.HasField("g")
            ]
            is_opaque = any(one.HasField("g") for one in node.attribute)
            outputs = [known.get(name, _UNKNOWN) for name in node.output]
            target = f"{node.domain or 'ai.onnx'}.{node.op_type}"
            trace = {one.key: one.value for one in node.metadata_props}
            name = self.builder.op(
                node.op_type,
                target,
                scope,
                outputs,
                arguments,
                source=source_of(trace.get("pkg.torch.onnx.stack_trace")),
                kind="opaque" if is_opaque else "op",
            )
            tensors.update({out: Ref(name, at) for at, out in enumerate(node.output) if out})

    def _call(
        self,
        function: onnx.FunctionProto,
        node: onnx.NodeProto,
        tensors: dict[str, Ref],
        stack: tuple[Frame, ...],
    ) -> None:
        """A local function, as a box with its nodes in it."""
        scope = self.builder.scope(stack)
        inner: dict[str, Ref] = {}
        for formal, actual in zip(function.input, node.input, strict=False):
            ref = self._tensor(actual, tensors, scope)
            if ref is not None:
                inner[formal] = ref
        known = {one.name: _spec(one) for one in function.value_info}
        self._nodes(function.node, inner, known, stack)
        for formal, actual in zip(function.output, node.output, strict=False):
            if formal in inner:
                tensors[actual] = inner[formal]

    def _inputs(
        self, node: onnx.NodeProto, tensors: dict[str, Ref], scope: str
    ) -> Iterator[Argument]:
        names = [*node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names += _captured(attribute.g)
        for number, name in enumerate(names):
            ref = self._tensor(name, tensors, scope)
            if ref is not None:
                yield Argument(f"input_{number}", ref)

    def _tensor(self, name: str, tensors: dict[str, Ref], scope: str) -> Ref | None:
        """The tensor of a name; a weight is made when it is first read."""
        if name in tensors:
            return tensors[name]
        if name not in self.initializers:
            return None
        if name not in self.read_initializers:
            spec = self.initializers[name]
            is_float = spec.dtype.startswith(("float", "bfloat"))
            kind = "parameter" if is_float and spec.shape else "constant"
            self.read_initializers[name] = self.builder.held(
                "parameter" if kind == "parameter" else "constant", name, spec, scope
            )
        return self.read_initializers[name]


def _frame(node: onnx.NodeProto, number: int, around: tuple[Frame, ...]) -> Frame:
    """A call of a local function, named as seen from the functions around it."""
    label = (node.name or f"{node.op_type}_{number}").replace("/", ".")
    outer = f"{around[-1].path}." if around else ""
    return Frame(f"{label}#{number}", outer + label, node.op_type)


def _stack(node: onnx.NodeProto) -> Iterator[Frame]:
    """The modules around a node: as torch's exporter notes them, else by its name's slashes."""
    notes = {one.key: one.value for one in node.metadata_props}
    try:
        paths = ast.literal_eval(notes["pkg.torch.onnx.name_scopes"])
        classes = ast.literal_eval(notes["pkg.torch.onnx.class_hierarchy"])
    except (KeyError, ValueError, SyntaxError):
        parts = [part for part in node.name.split("/") if part][:-1]
        for number, part in enumerate(parts):
            yield Frame(part, ".".join(parts[: number + 1]), part)
        return
    for path, class_name in list(zip(paths, classes, strict=False))[1:-1]:
        if path:
            yield Frame(str(path), str(path), str(class_name))


def _captured(graph: onnx.GraphProto) -> list[str]:
    """The names that the body of a branch or a loop reads from around it."""
    own = {one.name for one in graph.input} | {one.name for one in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        read = [*node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read += _captured(attribute.g)
        found.update(dict.fromkeys(name for name in read if name and name not in own))
        own.update(node.output)
    return list(found)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim if tensor.HasField("shape") else None
    sizes = None if dims is None else [d.dim_value if d.HasField("dim_value") else -1 for d in dims]
    shape = None if sizes is None or -1 in sizes else tuple(sizes)
    return TensorSpec(shape, _DTYPES.get(tensor.elem_type, "?"))


def _initializer_spec(tensor: onnx.TensorProto) -> TensorSpec:
    dtype = _DTYPES.get(tensor.data_type, "?")
    return TensorSpec(tuple(tensor.dims), dtype, requires_grad=dtype.startswith("float"))


def _attribute(attribute: onnx.AttributeProto) -> Value:
    value: Any = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (int, float, str)):
        return value
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        numbers = tuple(value)
        return numbers if len(numbers) <= _LONGEST else PythonText(f"{len(numbers)} numbers")
    return PythonText(onnx.AttributeProto.AttributeType.Name(attribute.type).lower())
