"""What the page's side panel says of a module call, an op or a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.graph.model import ModuleCall, Node
from modelviz_callbacks.graph.values import (
    Items,
    Ref,
    SliceValue,
    TensorSpec,
    Value,
)
from modelviz_callbacks.view.formatting import count_text, shape_text, short_count, time_text

# Longer arguments are cut: a table of numbers belongs into the model, not into a panel.
_LONGEST = 300

PanelRow = list[str]


class Details:
    """Rows for the panel, and the values that boxes are coloured by.

    Args:
        analysis: The analysis of a sound graph.
        times_us: Microseconds by the names of its ops; empty: nothing was timed.
    """

    def __init__(self, analysis: Analysis, times_us: Mapping[str, float]) -> None:
        self.graph = graph = analysis.graph
        self.outline = analysis.outline
        self.weights = analysis.weights
        self.costs = analysis.costs
        self.times_us = _means(times_us, analysis.steps(sizes=True).stand_in)
        self.parameters: dict[str, list[PanelRow]] = {}
        for parameter in graph.parameters:
            how = "" if parameter.trainable else ", frozen"
            about = f"{_tensor(parameter.spec)}{how}"
            label = parameter.name.rpartition(".")[2]
            self.parameters.setdefault(parameter.module, []).append([label, about])

    def of(self, item: Item, times: int = 1) -> dict[str, Any]:
        """What is known of a module call or an op.

        Args:
            item: Either.
            times: How often it repeats.

        Returns:
            ``rows`` for the panel; ``params``, ``flops``, ``time``, ``dtype`` and ``training``,
            the values for colours, all repeats together.
        """
        return self._of_node(item) if isinstance(item, Node) else self._of_call(item, times)

    def of_tensor(self, node: Node) -> dict[str, Any]:
        """What is known of an input, an output, a parameter, a buffer or a constant."""
        spec = node.outputs[0] if node.outputs else self.graph.spec(node.inputs[0])
        rows = [["kind", node.kind], ["name", node.path or node.name], ["tensor", _tensor(spec)]]
        rows.append(["bytes", count_text(spec.size_bytes)])
        if node.aliases:
            rows.append(["also called", ", ".join(node.aliases)])
        count = spec.numel if node.kind == "parameter" else 0
        training = ("trainable" if spec.requires_grad else "frozen") if count else "none"
        return {"rows": rows, "params": count, "dtype": spec.dtype, "training": training}

    def _of_node(self, node: Node) -> dict[str, Any]:
        rows = [["op", node.op], ["name", node.name], ["calls", node.target]]
        rows += [[argument.name, _cut(self._value(argument.value))] for argument in node.arguments]
        rows += [
            [_numbered("makes", n, node.outputs), _tensor(s)] for n, s in enumerate(node.outputs)
        ]
        if node.writes:
            rows.append(["in place", "it overwrites what it was given"])
        if node.reads_value:
            rows.append(["control flow", "Python looks at the value here"])
        if node.kind == "opaque":
            rows.append(["opaque", "what happens inside could not be seen"])
        rows += _flops(node.flops)
        time_us = self.times_us.get(node.name, 0.0)
        rows += self._time(time_us)
        rows += _source(node)
        if node.path:
            rows.insert(1, ["gradient of", node.path])
        dtype = node.outputs[0].dtype if node.outputs else ""
        held = [
            self.graph.by_name[ref.node]
            for ref in node.inputs
            if self.graph.by_name[ref.node].kind == "parameter"
        ]
        trained = any(other.outputs[0].requires_grad for other in held)
        training = ("trainable" if trained else "frozen") if held else "none"
        return {
            "rows": rows,
            "params": sum(other.outputs[0].numel for other in held),
            "flops": node.flops or 0,
            "time": time_us,
            "dtype": dtype,
            "training": training,
        }

    def _of_call(self, call: ModuleCall, times: int) -> dict[str, Any]:
        weights = self.weights.of(call)
        rows = [["class", call.class_name], ["module", call.path or "not part of the model"]]
        rows.append(["name", call.name])
        if times > 1:
            rows.append(["repeated", f"{times} times; what follows is of one"])
        if call.call_index:
            rows.append(["call", f"number {call.call_index + 1} of this module"])
        rows += [[f"input {port.path}", _tensor(self.graph.spec(port.ref))] for port in call.inputs]
        rows += [
            [f"output {port.path}", _tensor(self.graph.spec(port.ref))] for port in call.outputs
        ]
        if weights.count:
            rows.append(["parameters", count_text(weights.count)])
            rows.append(["trainable", count_text(weights.trainable)])
        rows += [
            [f"parameter {name}", text] for name, text in self.parameters.get(call.path or "?", ())
        ]
        if self.weights.tied_to(call):
            rows.append(["tied to", self.weights.tied_to(call)])
        nodes = list(self.outline.calls_in(call))
        flops = self.costs.of(call).flops
        rows += _flops(flops)
        time_us = sum(self.times_us.get(node.name, 0.0) for node in nodes)
        rows += self._time(time_us)
        rows.append(["ops", count_text(len(nodes))])
        rows.append(["mode", "training" if call.training else "evaluation"])
        if len(nodes) == 1:
            rows += [[a.name, _cut(self._value(a.value))] for a in nodes[0].arguments]
            rows += _source(nodes[0])
        dtypes = dict.fromkeys(self.graph.spec(port.ref).dtype for port in call.outputs)
        return {
            "rows": rows,
            "params": weights.count * times,
            "flops": (flops or 0) * times,
            "time": time_us * times,
            "dtype": next(iter(dtypes), ""),
            "training": weights.training,
        }

    def _time(self, time_us: float) -> list[PanelRow]:
        return [["time", time_text(time_us)]] if self.times_us else []

    def _value(self, value: Value) -> str:
        if isinstance(value, Ref):
            node = self.graph.by_name[value.node]
            name = node.path or node.name
            shape = shape_text(self.graph.spec(value))
            return f"{name}[{value.index}] {shape}" if value.index else f"{name} {shape}"
        if isinstance(value, tuple):
            return f"({', '.join(map(self._value, value))})"
        if isinstance(value, SliceValue):
            parts = (value.start, value.stop, value.step)
            return ":".join("" if part is None else self._value(part) for part in parts)
        if isinstance(value, Items):
            return f"{{{', '.join(f'{key}: {self._value(item)}' for key, item in value.items)}}}"
        return str(value)


def _means(times_us: Mapping[str, float], stand_in: Mapping[str, str]) -> dict[str, float]:
    """The times of ops; of one that stands for repeats the mean of them all."""
    of_each: dict[str, list[float]] = {}
    for name, time_us in times_us.items():
        while name in stand_in:
            name = stand_in[name]
        of_each.setdefault(name, []).append(time_us)
    return {name: sum(found) / len(found) for name, found in of_each.items()}


def _numbered(word: str, number: int, among: Sequence[TensorSpec]) -> str:
    return f"{word} [{number}]" if len(among) > 1 else word


def _tensor(spec: TensorSpec) -> str:
    device = "" if spec.device == "cpu" else f", {spec.device}"
    return f"{shape_text(spec)} {spec.dtype}{device}"


def _flops(flops: int | None) -> list[PanelRow]:
    return [] if flops is None else [["FLOPs", short_count(flops)]]


def _source(node: Node) -> list[PanelRow]:
    return [["source", f"{node.source}, {node.source.function}"]] if node.source else []


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
