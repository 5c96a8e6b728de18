"""An exported program, or an fx module, as a model graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.foreign.builder import ForeignGraphBuilder, Frame, source_of
from modelviz_callbacks.graph.model import ModelGraph, NodeKind
from modelviz_callbacks.graph.values import (
    Argument,
    Items,
    PythonText,
    Ref,
    SliceValue,
    TensorSpec,
    Value,
)
from modelviz_callbacks.tracing.op_facts import parameters_of


def read_exported(path: Path) -> ModelGraph:
    """Reads a ``.pt2`` file that ``torch.export.save`` wrote.

    Args:
        path: The file.

    Returns:
        Its graph.

    Raises:
        GraphFormatError: It is no exported program.
    """
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch raises many kinds here
        raise GraphFormatError(f"{path} is not an exported program: {error}") from error
    return from_exported(program, path.stem)


def from_exported(program: ExportedProgram, name: str) -> ModelGraph:
    """The graph of an exported program.

    Args:
        program: What ``torch.export.export`` made.
        name: What to call it.

    Returns:
        Its graph; sizes that are free make a shape unknown.
    """
    signature = program.graph_signature
    kinds: dict[str, tuple[NodeKind, str]] = {}
    kinds.update({k: ("parameter", path) for k, path in signature.inputs_to_parameters.items()})
    kinds.update({k: ("buffer", path) for k, path in signature.inputs_to_buffers.items()})
    constants = signature.inputs_to_lifted_tensor_constants
    kinds.update({k: ("constant", path) for k, path in constants.items()})
    return _FxReader(program.graph_module, name, kinds).graph()


def from_graph_module(module: torch.fx.GraphModule, name: str | None = None) -> ModelGraph:
    """The graph of an fx module.

    Args:
        module: Traced by whatever tracer; shapes are known where it noted them.
        name: What to call it; ``None``: its class.

    Returns:
        Its graph.
    """
    return _FxReader(module, name or type(module).__name__, {}).graph()


class _FxReader:
    def __init__(
        self,
        module: torch.fx.GraphModule,
        name: str,
        kinds: Mapping[str, tuple[NodeKind, str]],
    ) -> None:
        self.module = module
        self.kinds = kinds
        self.builder = ForeignGraphBuilder(name, type(module).__name__)
        self.refs: dict[torch.fx.Node, Ref | tuple[Ref, ...]] = {}
        self.held: dict[torch.fx.Node, tuple[NodeKind, str]] = {}

    def graph(self) -> ModelGraph:
        """The whole."""
        for node in self.module.graph.nodes:
            if node.op == "placeholder" and node.name not in self.kinds:
                for spec in _specs(node) or (_UNKNOWN,):
                    self.refs[node] = self.builder.input(str(node.target), spec)
            elif node.op == "placeholder":
                self.held[node] = self.kinds[node.name]
            elif node.op == "get_attr":
                self.held[node] = self._attribute_kind(str(node.target))
            elif node.op == "output":
                for number, ref in enumerate(_refs_in(self._value(node.args[0], ""))):
                    self.builder.output(f"output_{number}" if number else "output", ref)
            else:
                self._call(node)
        return self.builder.graph()

    def _attribute_kind(self, path: str) -> tuple[NodeKind, str]:
        names = {name for name, _ in self.module.named_parameters()}
        return ("parameter" if path in names else "buffer"), path

    def _call(self, node: torch.fx.Node) -> None:
        stack = list(_stack(node))
        op, target = _names(node, self.module)
        if node.op == "call_module":
            stack.append(Frame(str(node.target), str(node.target), target))
        scope = self.builder.scope(stack)
        named = _argument_names(node)
        arguments = [
            Argument(named[n] if n < len(named) else f"arg_{n}", self._value(value, scope))
            for n, value in enumerate(node.args)
        ]
        arguments += [Argument(key, self._value(a, scope)) for key, a in node.kwargs.items()]
        specs = _specs(node) or (_UNKNOWN,)
        name = self.builder.op(
            op, target, scope, specs, arguments, source=source_of(node.meta.get("stack_trace"))
        )
        made = tuple(Ref(name, number) for number in range(len(specs)))
        self.refs[node] = made if isinstance(node.meta.get("val"), (tuple, list)) else made[0]

    def _value(self, value: Any, scope: str) -> Value:
        if isinstance(value, torch.fx.Node):
            if value in self.held and value not in self.refs:
                kind, path = self.held[value]
                spec = (_specs(value) or (self._attribute_spec(path),))[0]
                self.refs[value] = self.builder.held(kind, path, spec, scope)
            return self.refs.get(value, PythonText(value.name))
        if isinstance(value, (tuple, list)):
            return tuple(self._value(item, scope) for item in value)
        if isinstance(value, dict):
            return Items(tuple((str(k), self._value(v, scope)) for k, v in value.items()))
        if isinstance(value, slice):
            ends = (value.start, value.stop, value.step)
            return SliceValue(*(self._value(end, scope) for end in ends))
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return PythonText(str(value))

    def _attribute_spec(self, path: str) -> TensorSpec:
        found: Any = self.module
        for part in path.split("."):
            found = getattr(found, part, None)
        return _spec(found) if isinstance(found, torch.Tensor) else _UNKNOWN


_UNKNOWN = TensorSpec(None, "?")

# The class of ``torch.ops.aten.add.Tensor``, whose text is ``aten.add.Tensor``.
_OVERLOAD = type(torch.ops.aten.add.Tensor)


def _names(node: torch.fx.Node, module: torch.fx.GraphModule) -> tuple[str, str]:
    """What people call an op, and its full name."""
    if node.op == "call_module":
        kind = type(module.get_submodule(str(node.target)))
        return kind.__name__, f"{kind.__module__}.{kind.__qualname__}"
    if node.op == "call_method":
        return str(node.target), f"torch.Tensor.{node.target}"
    if isinstance(node.target, _OVERLOAD):
        return str(node.target).split(".")[1], str(node.target)
    name = getattr(node.target, "__name__", str(node.target))
    return name, f"{getattr(node.target, '__module__', '') or 'builtins'}.{name}"


def _argument_names(node: torch.fx.Node) -> list[str]:
    """What the function calls its arguments, as far as torch knows."""
    return list(parameters_of(node.target)) if isinstance(node.target, _OVERLOAD) else []


def _stack(node: torch.fx.Node) -> Iterator[Frame]:
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    for key, (path, kind) in stack.items():
        if path:
            name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
            yield Frame(key, path.partition("@")[0], name)


def _specs(node: torch.fx.Node) -> tuple[TensorSpec, ...]:
    value = node.meta.get("val", node.meta.get("example_value"))
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(_spec(one) if isinstance(one, torch.Tensor) else _UNKNOWN for one in values)


def _spec(tensor: torch.Tensor) -> TensorSpec:
    sizes = tuple(tensor.shape)
    shape = tuple(int(size) for size in sizes) if all(type(s) is int for s in sizes) else None
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(shape, dtype, str(tensor.device), tensor.requires_grad)


def _refs_in(value: Value) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _refs_in(item)
    elif isinstance(value, Items):
        for _, item in value.items:
            yield from _refs_in(item)
