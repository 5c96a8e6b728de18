"""One graph of the stages of a pipeline that were recorded one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from modelviz_callbacks.errors import GraphError
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.graph.parts import ModuleCall, Node, ParameterInfo, Port
from modelviz_callbacks.graph.validate import check
from modelviz_callbacks.graph.values import Argument, Items, Ref, SliceValue, TensorSpec, Value

_Result = tuple[Ref, TensorSpec]
# For each input of a stage the stage and the place among its results that it comes from.
Sources = Sequence[tuple[int, int] | None]
_IN_ORDER: Mapping[int, Sources] = MappingProxyType({})


def join_stages(
    stages: Sequence[ModelGraph], name: str, sources: Mapping[int, Sources] = _IN_ORDER
) -> ModelGraph:
    """Puts the stages of a pipeline one after the other, each a module ``stage_0``, ``stage_1``.

    What a stage returns is what the next one is given, in order, unless it is known better. An
    input without a counterpart of the same shape and dtype stays an input.

    Args:
        stages: The graphs of the stages, the first stage's first.
        name: What the graph is to be called.
        sources: By a stage's number, where its inputs come from; ``None``: from outside.

    Returns:
        The graph; qualified names begin with the stage.

    Raises:
        GraphError: There is no stage, or a graph breaks a rule.
    """
    if not stages:
        raise GraphError("There is no stage to join: no graph was given.")
    nodes: list[Node] = []
    modules: list[ModuleCall] = []
    parameters: list[ParameterInfo] = []
    returned: list[list[_Result]] = []
    for number, graph in enumerate(stages):
        given: list[_Result | None] = [*(returned[-1] if returned else [])]
        if number in sources:
            given = [_among(returned, source) for source in sources[number]]
        stage = _Stage(graph, f"stage_{number}", given, is_last=number == len(stages) - 1)
        nodes += stage.nodes
        modules += stage.modules
        parameters += stage.parameters
        returned.append(stage.returned)
    order = {"input": 0, "output": 2}
    joined = ModelGraph(
        name,
        stages[0].class_name,
        tuple(sorted(nodes, key=lambda node: order.get(node.kind, 1))),
        tuple(modules),
        tuple(parameters),
        tuple(dict.fromkeys(note for graph in stages for note in graph.notes if not note.subject)),
        any(graph.partial for graph in stages),
        stages[0].torch_version,
    )
    check(joined)
    return joined


def _among(returned: list[list[_Result]], source: tuple[int, int] | None) -> _Result | None:
    """What a stage has returned at a place; ``None``: there is no such thing."""
    if source is None or not 0 <= source[0] < len(returned):
        return None
    results = returned[source[0]]
    return results[source[1]] if 0 <= source[1] < len(results) else None


class _Stage:
    """The parts of one stage, by the names that they have in the whole."""

    def __init__(
        self,
        graph: ModelGraph,
        stage: str,
        given: Sequence[_Result | None],
        *,
        is_last: bool,
    ) -> None:
        self._stage = stage
        self._names: dict[str, Ref] = {}
        inputs = graph.of_kind("input")
        for node, result in zip(inputs, given, strict=False):
            if result is None:
                continue
            own, (ref, spec) = node.outputs[0], result
            if (own.shape, own.dtype) == (spec.shape, spec.dtype):
                self._names[node.name] = ref
        outputs = graph.of_kind("output")
        results = [node.inputs[0] for node in outputs]
        self.returned = [(self._ref(ref), graph.spec(ref)) for ref in results]
        kept = [node for node in graph.nodes if is_last or node.kind != "output"]
        self.nodes = [self._node(node) for node in kept if node.name not in self._names]
        ports_in = tuple(Port(node.path, self._ref(Ref(node.name))) for node in inputs)
        ports_out = tuple(
            Port(node.path, self._ref(ref)) for node, ref in zip(outputs, results, strict=True)
        )
        whole = ModuleCall(stage, stage, graph.class_name, inputs=ports_in, outputs=ports_out)
        self.modules = [whole, *map(self._call, graph.modules)]
        self.parameters = [
            replace(
                one,
                name=self._path(one.name),
                module=self._path(one.module) if one.module else stage,
                aliases=tuple(map(self._path, one.aliases)),
            )
            for one in graph.parameters
        ]

    def _path(self, path: str) -> str:
        return f"{self._stage}.{path}"

    def _name(self, name: str) -> str:
        return f"{self._stage}/{name}" if name else self._stage

    def _ref(self, ref: Ref) -> Ref:
        known = self._names.get(ref.node)
        new = Ref(self._name(ref.node), ref.index) if known is None else known
        return replace(new, shape_only=ref.shape_only)

    def _value(self, value: Value) -> Value:
        if isinstance(value, Ref):
            return self._ref(value)
        if isinstance(value, tuple):
            return tuple(map(self._value, value))
        if isinstance(value, SliceValue):
            return SliceValue(*map(self._value, (value.start, value.stop, value.step)))
        if isinstance(value, Items):
            return Items(tuple((key, self._value(item)) for key, item in value.items))
        return value

    def _node(self, node: Node) -> Node:
        has_path = node.kind in ("parameter", "buffer")
        return replace(
            node,
            name=self._name(node.name),
            scope=self._name(node.scope),
            arguments=tuple(Argument(a.name, self._value(a.value)) for a in node.arguments),
            path=self._path(node.path) if has_path else node.path,
            aliases=tuple(map(self._path, node.aliases)) if has_path else node.aliases,
        )

    def _call(self, call: ModuleCall) -> ModuleCall:
        return replace(
            call,
            name=self._name(call.name),
            parent=self._name(call.parent),
            path=None if call.path is None else self._path(call.path),
            inputs=tuple(Port(port.path, self._ref(port.ref)) for port in call.inputs),
            outputs=tuple(Port(port.path, self._ref(port.ref)) for port in call.outputs),
        )
