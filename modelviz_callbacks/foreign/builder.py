"""Puts a model graph together from nodes that come with a stack of the modules around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from modelviz_callbacks.graph.model import (
    ModelGraph,
    ModuleCall,
    Node,
    NodeKind,
    Note,
    ParameterInfo,
    Port,
    Source,
)
from modelviz_callbacks.graph.names import NameAllocator
from modelviz_callbacks.graph.shape_edges import with_shape_edges
from modelviz_callbacks.graph.validate import check
from modelviz_callbacks.graph.values import Argument, Ref, TensorSpec

_HELD = ("parameter", "buffer", "constant")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
# Frames in these say where a library did something, not where the model asked for it.
_LIBRARIES = ("/torch/", "/onnxscript/", "/onnx/")


@dataclass(frozen=True, slots=True)
class Frame:
    """One module or function around a node.

    Attributes:
        key: Tells calls of one module from each other.
        path: Qualified name in the model; ``None``: not part of it.
        class_name: Its class.
    """

    key: str
    path: str | None
    class_name: str


class ForeignGraphBuilder:
    """Collects nodes in execution order.

    Args:
        name: What the graph is called.
        class_name: The model's class, or what the file says it is.
    """

    def __init__(self, name: str, class_name: str) -> None:
        self.name = name
        self.class_name = class_name
        self._names = NameAllocator()
        self._calls: dict[tuple[str, str], ModuleCall] = {}
        self._called: dict[str, int] = {}
        self._nodes: list[Node] = []
        self._parameters: list[ParameterInfo] = []

    def scope(self, stack: Sequence[Frame]) -> str:
        """The module call of a stack, outermost first; made where it is new."""
        scope = ""
        for frame in stack:
            call = self._calls.get((scope, frame.key))
            if call is None:
                label = (frame.path or frame.key).rpartition(".")[2]
                if label.isdecimal():
                    label = f"{label}_{frame.class_name.rpartition('.')[2]}"
                number = self._called.get(frame.path, 0) if frame.path else 0
                if frame.path:
                    self._called[frame.path] = number + 1
                name = self._names.allocate(scope, label)
                call = ModuleCall(name, frame.path, frame.class_name, scope, number)
                self._calls[scope, frame.key] = call
            scope = call.name
        return scope

    def held(self, kind: NodeKind, path: str, spec: TensorSpec, scope: str) -> Ref:
        """A parameter, buffer or constant, right before its first reader."""
        name = self._names.allocate(scope, path.rpartition(".")[2] or kind)
        self._nodes.append(Node(name, kind, kind, scope, (spec,), path=path))
        if kind == "parameter":
            home = path.rpartition(".")[0]
            self._parameters.append(ParameterInfo(path, spec, spec.requires_grad, home))
        return Ref(name)

    def input(self, path: str, spec: TensorSpec) -> Ref:
        """An input of the model."""
        name = self._names.allocate("", path)
        self._nodes.append(Node(name, "input", "input", "", (spec,), path=path))
        return Ref(name)

    def output(self, path: str, ref: Ref) -> None:
        """An output of the model."""
        name = self._names.allocate("", path)
        arguments = (Argument("value", ref),)
        self._nodes.append(Node(name, "output", "output", arguments=arguments, path=path))

    def op(
        self,
        op: str,
        target: str,
        scope: str,
        outputs: Sequence[TensorSpec],
        arguments: Sequence[Argument],
        *,
        source: Source | None = None,
        kind: NodeKind = "op",
    ) -> str:
        """Something computed; gives its name."""
        name = self._names.allocate(scope, op)
        told = with_shape_edges(target, arguments)
        made = Node(name, kind, op, scope, tuple(outputs), told, target, source=source)
        self._nodes.append(made)
        return name

    def graph(self, notes: Sequence[Note] = ()) -> ModelGraph:
        """The graph of all that was collected.

        Raises:
            GraphError: It breaks a rule: the file says something that cannot be.
        """
        inputs, outputs = self._ports()
        calls = [
            replace(call, inputs=tuple(inputs[call.name]), outputs=tuple(outputs[call.name]))
            for call in self._calls.values()
        ]
        made = ModelGraph(
            self.name,
            self.class_name,
            tuple(self._nodes),
            tuple(calls),
            tuple(self._parameters),
            tuple(notes),
        )
        check(made)
        return made

    def _ports(self) -> tuple[dict[str, list[Port]], dict[str, list[Port]]]:
        """The tensors that enter and leave each call."""
        parents = {call.name: call.parent for call in self._calls.values()}
        by_name = {node.name: node for node in self._nodes}
        inputs: dict[str, dict[Ref, Port]] = {name: {} for name in parents}
        outputs: dict[str, dict[Ref, Port]] = {name: {} for name in parents}
        for node in self._nodes:
            here = list(_around(node.scope, parents))
            for ref in node.inputs:
                producer = by_name[ref.node]
                if producer.kind in _HELD:
                    continue
                there = list(_around(producer.scope, parents))
                for scope in here:
                    if scope not in there:
                        inputs[scope].setdefault(ref, Port(producer.label, ref))
                for scope in there:
                    if scope not in here:
                        outputs[scope].setdefault(ref, Port("output", ref))
        return (
            {name: list(ports.values()) for name, ports in inputs.items()},
            {name: list(ports.values()) for name, ports in outputs.items()},
        )


def _around(scope: str, parents: dict[str, str]) -> Iterator[str]:
    while scope:
        yield scope
        scope = parents[scope]


def source_of(trace: str | None) -> Source | None:
    """The line of the model's code in a stack trace: the last one outside of libraries."""
    frames = _FRAME.findall(trace or "")
    own = [frame for frame in frames if not any(home in frame[0] for home in _LIBRARIES)]
    for file, line, function in reversed(own or frames):
        return Source(_shortened(file), int(line), function)
    return None


def _shortened(file: str) -> str:
    inside = file.rpartition("site-packages/")
    return inside[2] if inside[1] else file.rpartition("/")[2]
