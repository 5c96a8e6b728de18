"""A graph as the compact rows that the interactive page reads (``writers/page/src/graph.js``).

Every string that comes often is a number into ``words``, every tensor description one into
``specs``. Scopes are numbered in order of entry, 0 is the model's own forward; nodes in execution
order; tensors in the order in which they were made. An item of a scope is a node's number, or
minus a scope's number. Rows are cut off after their last value that says something.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.costs import is_uncounted
from modelviz_callbacks.analysis.health import StepHealth, WeightHealth
from modelviz_callbacks.analysis.main_path import bookkeeping
from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.analysis.repeats.wiring import Fold
from modelviz_callbacks.analysis.weights import Weights
from modelviz_callbacks.diff.merged_graph import STATUS
from modelviz_callbacks.graph.model import NODE_KINDS, ModuleCall, Node, Port
from modelviz_callbacks.graph.op_facts import OpFact, facts_of
from modelviz_callbacks.graph.values import Items, Ref, SliceValue, TensorSpec, Value
from modelviz_callbacks.view.formatting import (
    module_label,
    repeat_text,
)
from modelviz_callbacks.view.layer_labels import LayerLabels

# Longer literals are cut: a table of numbers belongs into the model, not into a panel.
_LONGEST = 300
_ARITHMETIC = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "true_divide": "÷", "pow": "^"}


@dataclass(frozen=True, slots=True)
class PageDifference:
    """One difference between two graphs, for the page's list.

    Attributes:
        kind: ``added``, ``removed`` or ``changed``.
        text: What differs.
        target: The module call or node that is shown; ``""``: none.
    """

    kind: str
    text: str
    target: str


@dataclass(frozen=True, slots=True)
class PageDifferences:
    """What a page says of two graphs that are merged into one.

    Attributes:
        entries: In the order of the list.
        status: What happened to module calls and nodes, by their names.
        was: What they were, likewise.
    """

    entries: Sequence[PageDifference] = ()
    status: Mapping[str, str] = field(default_factory=dict)
    was: Mapping[str, str] = field(default_factory=dict)


def page_data(
    analysis: Analysis,
    measured: MeasuredCosts | None = None,
    label: str = "",
    differences: PageDifferences | None = None,
    health: StepHealth | None = None,
) -> dict[str, Any]:
    """What the page knows of one graph.

    Args:
        analysis: The analysis of a sound graph.
        measured: What was measured of its ops and parameters.
        label: What it is called in the page's list of graphs; ``""``: its own name.
        differences: If it is two graphs in one.
        health: A step that was looked into.

    Returns:
        What JSON can hold.
    """
    found = _Rows(analysis, measured or MeasuredCosts(), differences or PageDifferences()).all(
        label
    )
    if health is not None:
        found["health"] = _health(analysis, health)
    return found


class _Rows:
    def __init__(
        self, analysis: Analysis, measured: MeasuredCosts, differences: PageDifferences
    ) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.outline = analysis.outline
        self.weights = analysis.weights
        self.labels = LayerLabels(analysis)
        self.measured = measured
        self.differences = differences
        self.bookkeeping = bookkeeping(analysis)
        self.words: dict[str, int] = {"": 0}
        self.specs: dict[TensorSpec, int] = {}
        self.scopes = {"": 0} | {call.name: n + 1 for n, call in enumerate(self.graph.modules)}
        self.nodes = {node.name: number for number, node in enumerate(self.graph.nodes)}
        self.first_tensor: dict[str, int] = {}
        made = 0
        for node in self.graph.nodes:
            self.first_tensor[node.name] = made
            made += len(node.outputs)

    def all(self, label: str) -> dict[str, Any]:
        """Everything; see the module's text."""
        graph = self.graph
        scopes = ("", *(call.name for call in graph.modules))
        found: dict[str, Any] = {
            "label": label,
            "name": graph.name,
            "cls": graph.class_name,
            "partial": graph.partial,
            "notes": [[note.kind, note.subject, note.message] for note in graph.notes],
            "scopes": [self._model(), *map(self._scope, graph.modules)],
            "nodes": list(map(self._node, graph.nodes)),
            "items": [list(map(self._item, self.outline.items.get(s, ()))) for s in scopes],
            "folds": list(map(self._fold, self.analysis.folds(sizes=True))),
            "parameters": [
                _cut_off([p.name, self._spec(p.spec), int(p.trainable), p.module, [*p.aliases]])
                for p in graph.parameters
            ],
        }
        found |= self._costs()
        found["differences"] = [
            {"kind": one.kind, "text": one.text, "target": one.target}
            for one in self.differences.entries
        ]
        found["words"] = list(self.words)
        found["specs"] = [self._spec_row(spec) for spec in [*self.specs]]
        # The descriptions brought words of their own.
        found["words"] = list(self.words)
        return found

    def _costs(self) -> dict[str, Any]:
        """What is known of memory, and what was measured: a number a node, zeros where unknown."""
        graph, measured, found = self.graph, self.measured, dict[str, Any]()
        if any(node.kept_bytes for node in graph.nodes):
            found["kept"] = [node.kept_bytes or 0 for node in graph.nodes]
            found["live"] = [node.live_bytes or 0 for node in graph.nodes]
        for key, times_us in (("times", measured.forward_us), ("backward", measured.backward_us)):
            if times_us:
                found[key] = [round(times_us.get(node.name, 0.0), 3) for node in graph.nodes]
        if measured.compiled_us:
            found["compiled"] = [
                [self.scopes[name], *(round(us, 3) for us in both)]
                for name, both in measured.compiled_us.items()
                if name in self.scopes
            ]
        if measured.limits:
            found["limits"] = [
                [self.nodes[name], str(limit)]
                for name, limit in measured.limits.items()
                if name in self.nodes
            ]
        if measured.optimizer_bytes:
            sums, own = measured.optimizer_bytes_of_calls(graph), measured.optimizer_bytes
            found["optimizer"] = {
                "scopes": [sums.get(scope, 0) for scope in self.scopes],
                "nodes": [[n, own.get(p.path, 0)] for n, p in self._parameter_nodes()],
            }
        return found

    def _parameter_nodes(self) -> Iterator[tuple[int, Node]]:
        for number, node in enumerate(self.graph.nodes):
            if node.kind == "parameter":
                yield number, node

    def _word(self, text: str) -> int:
        return self.words.setdefault(text, len(self.words))

    def _spec(self, spec: TensorSpec) -> int:
        return self.specs.setdefault(spec, len(self.specs))

    def _spec_row(self, spec: TensorSpec) -> list[Any]:
        shape = None if spec.shape is None else list(spec.shape)
        grad, layout = int(spec.requires_grad), self._word(spec.layout)
        return [
            shape,
            self._word(spec.dtype),
            self._word(spec.device),
            grad,
            spec.size_bytes,
            layout,
        ]

    def _item(self, item: Item) -> int:
        return self.nodes[item.name] if isinstance(item, Node) else -self.scopes[item.name]

    def _fold(self, fold: Fold) -> list[Any]:
        start, period = self.outline.position[fold.copies[0][0]], len(fold.copies[0])
        row = [
            self.scopes[fold.scope],
            start,
            period,
            fold.times,
            int(fold.shared),
            repeat_text(fold),
        ]
        return _cut_off(row)

    # --- scopes

    def _model(self) -> list[Any]:
        cls = self._word(self.graph.class_name)
        total = _weights_row(self.weights.total)
        return ["", 0, "", cls, 3, 0, [], [], "", *total, "", self.graph.name]

    def _scope(self, call: ModuleCall) -> list[Any]:
        is_leaf = call.called and self.analysis.is_leaf(call)
        flags = int(call.called) | 2 * call.training | 4 * is_leaf
        around = self.outline.scope_of(call)
        return _cut_off(
            [
                call.label,
                self.scopes[call.parent],
                0 if call.path is None else call.path,
                self._word(call.class_name),
                flags,
                call.call_index,
                self._ports(call.inputs),
                self._ports(call.outputs),
                self._inside(call) if is_leaf and call.class_name.startswith("torch.") else "",
                *_weights_row(self.weights.of(call)),
                self.weights.tied_to(call),
                module_label(self.graph, call, around),
                self.differences.status.get(call.name, ""),
                self.differences.was.get(call.name, ""),
            ]
        )

    def _ports(self, ports: Sequence[Port]) -> list[list[Any]]:
        return [[port.path, self._tensor(port.ref)] for port in ports]

    def _tensor(self, ref: Ref) -> int:
        return self.first_tensor[ref.node] + ref.index

    def _inside(self, item: Item) -> str:
        """What tells a layer or an op from others of its kind: ``3 → 64, 7×7, stride 2``."""
        title = item.op if isinstance(item, Node) else item.type_name
        label = self.labels.label(item)
        return label[len(title) + 1 : -1].replace(" -> ", " → ")

    # --- nodes

    def _node(self, node: Node) -> list[Any]:
        source = node.source
        flags = (
            int(node.reads_value)
            | 2 * (OpFact.LAYOUT in facts_of(node.target))
            | 4 * bool(node.writes)
        )
        flags |= 8 * (node.name in self.bookkeeping) | 16 * is_uncounted(node)
        return _cut_off(
            [
                NODE_KINDS.index(node.kind),
                self._word(node.op),
                self.scopes[node.scope],
                node.label,
                node.path,
                self._word(node.target),
                self._word(source.file if source else ""),
                source.line if source else 0,
                self._word(source.function if source else ""),
                [self._spec(spec) for spec in node.outputs],
                [
                    [self._word(argument.name), *_joined(self._segments(argument.value))]
                    for argument in node.arguments
                    if not (self.differences.entries and argument.name == STATUS)
                ],
                flags,
                node.flops,
                self._detail(node) if node.is_call else "",
                list(node.aliases),
                self.differences.status.get(node.name, ""),
                self.differences.was.get(node.name, ""),
            ]
        )

    def _detail(self, node: Node) -> str:
        values = {argument.name: argument.value for argument in node.arguments}
        if node.op == "getitem":
            return _index_text([*values.values()][-1]) if len(values) > 1 else ""
        if node.op in _ARITHMETIC:
            numbers = [value for value in values.values() if type(value) in (int, float)]
            if len(numbers) == 1 and "alpha" not in values:
                return f"{_ARITHMETIC[node.op]} {numbers[0]:.6g}"
        return self._inside(node)

    def _segments(self, value: Value) -> Iterator[str | int]:
        """An argument as texts and, for the tensors in it, their numbers."""
        if isinstance(value, Ref):
            yield self._tensor(value)
        elif isinstance(value, tuple):
            yield "("
            for number, item in enumerate(value):
                yield ", " if number else ""
                yield from self._segments(item)
            yield ")"
        elif isinstance(value, SliceValue):
            for number, item in enumerate((value.start, value.stop, value.step)):
                yield ":" if number == 1 or (number and item is not None) else ""
                yield from () if item is None else self._segments(item)
        elif isinstance(value, Items):
            yield "{"
            for number, (key, item) in enumerate(value.items):
                yield f"{', ' if number else ''}{key}: "
                yield from self._segments(item)
            yield "}"
        else:
            text = str(value)
            yield text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _health(analysis: Analysis, health: StepHealth) -> dict[str, Any]:
    """Rows by number: of each scope zeros, elements and sums of squares, of some nodes the sums."""
    graph = analysis.graph
    sums = health.of_calls(graph)
    scopes = ("", *(call.name for call in graph.modules))
    return {
        "step": health.number,
        "scopes": [
            [*health.zeros.get(name, (0, 0)), *_squares(sums.get(name, WeightHealth()))]
            for name in scopes
        ],
        "nodes": {
            str(number): _squares(health.weights[node.path])
            for number, node in enumerate(graph.nodes)
            if node.kind == "parameter" and node.path in health.weights
        },
    }


def _squares(weights: WeightHealth) -> list[float | None]:
    """Six digits of each; ``None`` of what JSON cannot tell."""
    return [
        float(f"{value:.6g}") if math.isfinite(value) else None
        for value in (weights.gradient, weights.update, weights.weight)
    ]


def _weights_row(weights: Weights) -> list[int]:
    return [weights.count, weights.trainable, weights.size_bytes]


def _joined(segments: Iterator[str | int]) -> list[str | int]:
    """Texts beside each other as one, and not too many of them."""
    found: list[str | int] = []
    for segment in segments:
        if isinstance(segment, str) and found and isinstance(found[-1], str):
            found[-1] = _cut(found[-1] + segment)
        elif segment != "":
            found.append(segment)
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST or text.endswith("…") else f"{text[:_LONGEST]}…"


def _cut_off(row: list[Any]) -> list[Any]:
    """A row without the empty values at its end."""
    while row and row[-1] in ("", 0, None, []):
        row.pop()
    return row


def _index_text(index: Value) -> str:
    """``[:, 0]``; ``""`` where a tensor is the index."""
    parts = index if isinstance(index, tuple) else (index,)
    texts = []
    for part in parts:
        if isinstance(part, SliceValue):
            ends = (part.start, part.stop)
            texts.append(":".join("" if end is None else str(end) for end in ends))
            if part.step is not None:
                texts[-1] += f":{part.step}"
        elif str(part) in ("Ellipsis", "..."):
            texts.append("…")
        elif part is None or isinstance(part, (int, str)):
            texts.append(str(part))
        else:
            return ""
    return f"[{', '.join(texts)}]"
