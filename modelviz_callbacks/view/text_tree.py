"""A graph as lines of text: the module tree in the order in which it ran, with its wiring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.analysis.steps import Step
from modelviz_callbacks.analysis.weights import Weights
from modelviz_callbacks.graph.functions import home_of
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.graph.values import (
    Ref,
)
from modelviz_callbacks.view.formatting import (
    count_text,
    key_arguments,
    label_range,
    module_label,
    shape_text,
    shapes_text,
    shortened,
    variation_text,
)

# Where the first line becomes two.
_HEAD_WIDTH = 100


@dataclass(frozen=True, slots=True)
class _TreeLine:
    depth: int
    label: str
    what: str = ""
    made: str = ""
    parameters: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where lines are written: in a scope, or in a pattern of it that repeats."""

    scope: str
    depth: int
    pattern: Step | None = None


def tree_text(
    graph: ModelGraph | Analysis, *, width: int | None = None, depth: int | None = None
) -> str:
    """A graph as text for a terminal.

    One line a module call, in execution order: its name, class, output shapes and parameter
    count. Ops outside of modules without children have lines too. ``<-`` says where a line's
    input comes from where that is not just the line before it on the same level (for a
    module's first line: the module's first input). Repeats are one line (``x12``).

    Args:
        graph: A sound graph, or its analysis.
        width: Cut lines to this many characters; ``None``: as long as they are.
        depth: How many levels of modules to show; ``None``: all.

    Returns:
        Lines joined by newlines, without one at the end.
    """
    tree = _TreeText(Analysis.of(graph), depth)
    lines = [*tree.head(), "", *_columns(list(tree.lines())), *tree.notes()]
    if width is not None:
        lines = [
            line if len(line) <= width else line[: max(width - 3, 0)] + "..." for line in lines
        ]
    return plain_text("\n".join(line.rstrip() for line in lines)).replace("\r", "\ufffd")


def _columns(lines: Sequence[_TreeLine]) -> list[str]:
    """The lines with their fields below each other, numbers to the right."""
    rows = [
        ("  " * line.depth + line.label, line.what, line.made, line.parameters, line.comment)
        for line in lines
    ]
    rows.insert(0, ("", "", "output", "parameters", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  "
        f"{row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]


class _TreeText:
    def __init__(self, analysis: Analysis, depth: int | None) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.most = depth
        self.steps = analysis.steps()
        self.weights = analysis.weights

    def head(self) -> Iterator[str]:
        inputs = [
            f"{node.path or node.label} {shape_text(node.outputs[0])}"
            for node in self.graph.of_kind("input")
        ]
        outputs = [
            f"{node.path or node.label} {shape_text(self.graph.spec(node.inputs[0]))}"
            for node in self.graph.of_kind("output")
        ]
        given, made = (_at_most_four(texts) for texts in (inputs, outputs))
        ends = f"{given or 'no inputs'} -> {made or 'no outputs'}"
        facts = f"{self._count_of_parameters()}, {_plural(len(self.graph.ops), 'op')}"
        first = f"{self.graph.name}: {ends}"
        if len(first) + len(facts) + 2 <= _HEAD_WIDTH:
            yield f"{first}; {facts}"
        else:
            yield first
            yield facts
        if self.graph.partial:
            yield "partial: the forward ended early; this is what ran until then"

    def _count_of_parameters(self) -> str:
        weights = self.weights.total
        how = {
            "none": "",
            "trainable": " (all trainable)",
            "frozen": " (all frozen)",
            "mixed": f" ({count_text(weights.trainable)} trainable)",
        }
        return _plural(weights.count, "parameter") + how[weights.training]

    def notes(self) -> Iterator[str]:
        if self.graph.notes:
            yield ""
        for note in self.graph.notes:
            yield f"note: {note.message}"

    def lines(self) -> Iterator[_TreeLine]:
        yield from self._scope("", 0)
        last = self.steps.of("")[-1:]
        runs: list[tuple[Step | Ref, list[Node]]] = []
        for node in self.graph.of_kind("output"):
            maker = self.steps.maker(node.inputs[0], "") or node.inputs[0]
            if not runs or runs[-1][0] != maker:
                runs.append((maker, []))
            runs[-1][1].append(node)
        for maker, nodes in runs:
            if (maker,) != last:
                yield self._output(nodes)

    def _output(self, nodes: Sequence[Node]) -> _TreeLine:
        """One line for outputs that come from the same place."""
        labels = [node.path or node.label for node in nodes]
        made = shapes_text([self.graph.spec(node.inputs[0]) for node in nodes])
        source = self._source(nodes[0].inputs[0], _Place("", 0))
        if len(labels) == 1:
            return _TreeLine(0, labels[0], made=made, comment=f"<- {source}")
        which = label_range(labels)
        return _TreeLine(0, f"{len(labels)} outputs", made=made, comment=f"<- {source}: {which}")

    def _scope(self, scope: str, depth: int) -> Iterator[_TreeLine]:
        main = self._entries(scope)[:1]
        before: Step | Ref | None = main[0] if main else None
        place = _Place(scope, depth)
        for step in self.steps.of(scope):
            yield from self._step(step, place, before)
            before = step

    def _step(self, step: Step, place: _Place, before: Step | Ref | None) -> Iterator[_TreeLine]:
        yield self._line(step, place, before)
        if step.inner:
            within = _Place(place.scope, place.depth + 1, step)
            for inner in step.inner:
                yield from self._step(inner, within, before)
                before = inner
        elif step.call is not None and self._opens(step.call, place.depth):
            yield from self._scope(step.call.name, place.depth + 1)

    def _entries(self, scope: str) -> tuple[Ref, ...]:
        """The tensors that a scope was given."""
        if scope:
            call = self.graph.module_by_name[scope]
            ports = tuple(dict.fromkeys(port.ref for port in call.inputs))
            return ports or self.steps.outline.externals(call)
        return tuple(Ref(node.name) for node in self.graph.of_kind("input"))

    def _opens(self, call: ModuleCall, depth: int) -> bool:
        """Whether the steps of a module get lines of their own."""
        if self.most is not None and depth + 1 >= self.most:
            return False
        return not self.analysis.is_leaf(call)

    def _line(self, step: Step, place: _Place, before: Step | Ref | None) -> _TreeLine:
        sources = self._sources(step, place, before)
        comments = ["<- " + shortened(sources, 4)] if sources else []
        if self._starts_alone(step):
            comments.append("no input")
        if step.fold and step.fold.variation:
            comments.append(variation_text(step.fold.variation))
        if step.fold and step.fold.shared:
            comments.append("same weights each time")
        made = shapes_text(self.steps.makes(step), 2)
        if step.call is None:
            comments += self._comments_on_ops(step)
            return _TreeLine(
                place.depth,
                self._ops_label(step, place.scope),
                self._ops(step),
                made,
                comment="; ".join(comments),
            )
        weights = self.weights.of(step.call)
        if self.weights.tied_to(step.call):
            comments.append(f"tied to {self.weights.tied_to(step.call)}")
        if weights.training == "frozen" and not self._is_frozen(place.scope):
            comments.append("frozen")
        elif weights.training == "mixed":
            comments.append(f"{count_text(weights.trainable)} trainable")
        return _TreeLine(
            place.depth,
            self._call_label(step, place.scope),
            self._class(step.call) + (f" x{step.times}" if step.times > 1 else ""),
            made,
            _parameters(step, step.call, weights),
            "; ".join(comments),
        )

    def _starts_alone(self, step: Step) -> bool:
        """Whether it makes tensors out of none at all (``arange``)."""
        nodes = [node for item in step.items for node in self.steps.outline.calls_in(item)]
        return bool(nodes) and not any(node.inputs for node in nodes)

    def _is_frozen(self, scope: str) -> bool:
        weights = self.weights.of(self.graph.module_by_name[scope]) if scope else self.weights.total
        return weights.training == "frozen"

    def _class(self, call: ModuleCall) -> str:
        """The class, for torch's own modules with the arguments that matter."""
        if call.is_function:
            return "function"
        steps = self.steps.of(call.name)
        if not call.class_name.startswith("torch.nn.") or any(step.call for step in steps):
            return call.type_name
        arguments = key_arguments(self.graph, (node for step in steps for node in _nodes(step)))
        return f"{call.type_name}({arguments})" if arguments else call.type_name

    def _call_label(self, step: Step, scope: str) -> str:
        names = [copy[0] for copy in step.fold.copies] if step.fold else [step.name]
        calls = [self.graph.module_by_name[name] for name in names]
        return label_range([module_label(self.graph, call, scope) for call in calls])

    def _ops_label(self, step: Step, scope: str) -> str:
        """What a line that is not a module call is called: an op or chain after its last op."""
        if step.fold is None or not step.inner:
            return step.items[-1].label
        modules = self.graph.module_by_name
        calls = [modules[name] for copy in step.fold.copies for name in copy if name in modules]
        if not calls:
            return f"{step.items[0].label} ..."
        ends = (calls[0], calls[-1])
        return label_range([module_label(self.graph, call, scope) for call in ends]) + " ..."

    def _ops(self, step: Step) -> str:
        if step.inner:
            return f"x{step.times}"
        names = [node.op for node in _nodes(step)]
        times = f" x{step.times}" if step.times > 1 else ""
        if len(names) > 3:
            return f"{names[0]}, ..., {names[-1]}{times}"
        if len(names) > 1:
            return ", ".join(names) + times
        return key_arguments(self.graph, _nodes(step)) + times

    def _comments_on_ops(self, step: Step) -> list[str]:
        found = []
        for node in () if step.inner else _nodes(step):
            if node.kind == "opaque":
                found.append("its inside was not seen")
            if node.reads_value:
                found.append("Python reads the value")
            read = [self.graph.by_name[ref.node] for ref in node.inputs]
            held = [other for other in read if other.kind in HELD_KINDS]
            if len(held) < len(read):  # buffers and constants go without saying, then
                held = [other for other in held if other.kind == "parameter"]
            if held:
                names = dict.fromkeys(other.path or other.kind for other in held)
                found.append("uses " + ", ".join(names))
        return found

    def _sources(self, step: Step, place: _Place, before: Step | Ref | None) -> list[str]:
        """Where the inputs come from; nothing if it is only what came before."""
        refs = self.steps.reads(step)
        makers = {self.steps.maker(ref, place.scope, place.pattern) or ref for ref in refs}
        if not makers or makers == {before}:
            return []
        return list(dict.fromkeys(self._source(ref, place) for ref in refs))

    def _source(self, ref: Ref, place: _Place) -> str:
        """What to call the line that a tensor comes from, seen from a place."""
        maker = self.steps.maker(ref, place.scope, place.pattern)
        if maker is not None:
            return (
                self._call_label(maker, place.scope)
                if maker.call
                else self._ops_label(maker, place.scope)
            )
        if place.scope:
            for port in self.graph.module_by_name[place.scope].inputs:
                if port.ref == ref and port.path:
                    return port.path
        node = self.graph.by_name[ref.node]
        home = home_of(self.graph.module_by_name, place.scope)
        name = node.name.removeprefix(f"{home}/") if home != place.scope else node.name
        return node.path or name.replace("/", ".")


def _parameters(step: Step, call: ModuleCall, weights: Weights) -> str:
    if not weights.count:
        return ""
    if call.call_index:
        return "shared"
    alike = step.fold is not None and not step.fold.shared
    return f"{step.times} × {count_text(weights.count)}" if alike else count_text(weights.count)


def _nodes(step: Step) -> list[Node]:
    return [item for item in step.items if isinstance(item, Node)]


def _at_most_four(texts: Sequence[str]) -> str:
    return shortened(texts, 4 if len(texts) <= 4 else 2)


def _plural(number: int, word: str) -> str:
    return f"{count_text(number)} {word}{'' if number == 1 else 's'}"
