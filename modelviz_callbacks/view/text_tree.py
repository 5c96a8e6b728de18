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
from modelviz_callbacks.graph.parts import NodeKind
from modelviz_callbacks.graph.values import Ref, TensorSpec
from modelviz_callbacks.view.ends import (
    End,
    EndGroup,
    end_words,
    parameters_given,
    short_words,
    told_ends,
)
from modelviz_callbacks.view.formatting import (
    count_text,
    key_arguments,
    label_range,
    module_label,
    range_of_calls,
    repeat_text,
    shapes_text,
    shortened,
)
from modelviz_callbacks.view.label_facts import facts_of_module, joined
from modelviz_callbacks.view.note_lines import note_lines
from modelviz_callbacks.view.op_labels import op_title
from modelviz_callbacks.view.simplified import is_label, labels_read, simplified
from modelviz_callbacks.view.text_columns import TreeLine, column_lines, wrapped


@dataclass(frozen=True, slots=True)
class _Place:
    """Where lines are written: in a scope, or in a pattern of it that repeats."""

    scope: str
    depth: int
    pattern: Step | None = None


# What a terminal has at least.
WIDTH = 80

# So many lines tell the outputs that come from one place, where some of them are one structure.
_MOST_OUTPUTS = 4


def tree_text(
    graph: ModelGraph | Analysis, *, width: int | None = WIDTH, depth: int | None = None
) -> str:
    """A graph as text for a terminal.

    One line a module call, in execution order: its name, class, output shapes and parameter
    count. Ops outside of modules without children have lines too. ``<-`` says where a line's
    input comes from where that is not just the line before it on the same level (for a
    module's first line: the module's first input). Repeats are one line (``x12``). What is
    beside the main path has no lines: ``with`` says where it is read.

    Args:
        graph: A sound graph, or its analysis.
        width: How many characters a line has at most; what says where an input comes from
            stands on a line below where it has no room. ``None``: as many as it takes.
        depth: How many levels of modules to show; ``None``: all.

    Returns:
        Lines joined by newlines, without one at the end.
    """
    tree = _TreeText(Analysis.of(graph), depth)
    lines = [*tree.head(width), "", *column_lines(list(tree.lines()), width), *tree.notes(width)]
    return plain_text("\n".join(line.rstrip() for line in lines)).replace("\r", "\ufffd")


class _TreeText:
    def __init__(self, exact: Analysis, depth: int | None) -> None:
        analysis = simplified(exact)
        self.exact = exact.graph
        self.labels = labels_read(analysis)
        self.analysis = analysis
        self.graph = analysis.graph
        self.most = depth
        self.steps = analysis.steps()
        self.weights = analysis.weights

    def head(self, width: int | None) -> Iterator[str]:
        inputs = [
            f"{one.title} {one.details or shapes_text(self._specs(one))}"
            for one in told_ends(self._ends("input"), "input")
        ]
        outputs = [
            f"{one.title} {one.details or shapes_text(self._specs(one))}"
            for one in told_ends(self._ends("output"), "output")
        ]
        given, made = (_at_most_four(texts) for texts in (inputs, outputs))
        ends = f"{given or 'no inputs'} -> {made or 'no outputs'}"
        facts = f"{self._count_of_parameters()}, {_plural(len(self.exact.ops), 'op')}"
        first = f"{self.graph.name}: {ends}"
        if width is None or len(first) + len(facts) + 2 <= width:
            yield f"{first}; {facts}"
        else:
            yield from wrapped(first, width)
            yield from wrapped(facts, width)
        if self.graph.partial:
            yield "partial: the forward ended early; this is what ran until then"

    def _ends(self, kind: NodeKind) -> list[End]:
        nodes = self.exact.of_kind(kind)
        refs = [node.inputs[0] if node.inputs else Ref(node.name) for node in nodes]
        return [End(node.name, end_words(node), ref) for node, ref in zip(nodes, refs, strict=True)]

    def _specs(self, one: EndGroup) -> list[TensorSpec]:
        return [self.exact.spec(part.ref) for part in one.parts]

    def _count_of_parameters(self) -> str:
        weights = self.weights.total
        how = {
            "none": "",
            "trainable": " (all trainable)",
            "frozen": " (all frozen)",
            "mixed": f" ({count_text(weights.trainable)} trainable)",
        }
        return _plural(weights.count, "parameter") + how[weights.training]

    def notes(self, width: int | None) -> Iterator[str]:
        if self.graph.notes:
            yield ""
        for line in note_lines(self.graph.notes):
            yield from wrapped(f"note: {line}", width)

    def lines(self) -> Iterator[TreeLine]:
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
                yield from self._outputs(nodes)

    def _outputs(self, nodes: Sequence[Node]) -> Iterator[TreeLine]:
        """Few lines for outputs that come from the same place."""
        labels = [short_words(node.path or node.label) for node in nodes]
        made = shapes_text([self.graph.spec(node.inputs[0]) for node in nodes])
        source = self._source(nodes[0].inputs[0], _Place("", 0))
        told = told_ends([End(n.name, end_words(n), n.inputs[0]) for n in nodes], "output")
        if len(told) <= _MOST_OUTPUTS and len(told) < max(len(nodes), 2):
            for one in told:
                specs = shapes_text(self._specs(one))
                yield TreeLine(0, one.title, one.details, made=specs, comment=f"<- {source}")
            return
        which = label_range(labels)
        yield TreeLine(0, f"{len(labels)} outputs", made=made, comment=f"<- {source}: {which}")

    def _scope(self, scope: str, depth: int) -> Iterator[TreeLine]:
        main = self._entries(scope)[:1]
        before: Step | Ref | None = main[0] if main else None
        place = _Place(scope, depth)
        for step in self.steps.of(scope):
            yield from self._step(step, place, before)
            before = step

    def _step(self, step: Step, place: _Place, before: Step | Ref | None) -> Iterator[TreeLine]:
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
        return tuple(Ref(node.name) for node in self.graph.of_kind("input") if not is_label(node))

    def _opens(self, call: ModuleCall, depth: int) -> bool:
        """Whether the steps of a module get lines of their own."""
        if self.most is not None and depth + 1 >= self.most:
            return False
        return not self.analysis.is_leaf(call)

    def _line(self, step: Step, place: _Place, before: Step | Ref | None) -> TreeLine:
        sources = self._sources(step, place, before)
        comments = ["<- " + shortened(sources, 4)] if sources else []
        comments += self._labels(step, place)
        comments += self._parameters_given(step, place)
        if self._starts_alone(step):
            comments.append("no input")
        if step.fold and repeat_text(step.fold):
            comments.append(repeat_text(step.fold))
        carried = dict.fromkeys(ref for ref, _ in self.steps.carried(step)) if step.inner else ()
        if carried:
            within = _Place(place.scope, place.depth + 1, step)
            names = list(dict.fromkeys(self._source(ref, within) for ref in carried))
            comments.append(f"the next step reads {shortened(names, 4)}")
        if step.fold and step.fold.shared and self._has_weights(step):
            comments.append("same weights each time")
        made = shapes_text(self.steps.makes(step), 2)
        if step.call is None:
            comments += self._comments_on_ops(step)
            return TreeLine(
                place.depth,
                self._ops_label(step, place.scope),
                self._ops(step),
                made,
                comment="; ".join(comments),
            )
        weights = self.weights.of(step.call)
        comments += facts_of_module(step.call)
        if self.weights.tied_to(step.call):
            comments.append(f"tied to {self.weights.tied_to(step.call)}")
        if weights.training == "frozen" and not self._is_frozen(place.scope):
            comments.append("frozen")
        elif weights.training == "mixed":
            comments.append(f"{count_text(weights.trainable)} trainable")
        return TreeLine(
            place.depth,
            self._call_label(step, place.scope),
            self._class(step.call) + (f" x{step.times}" if step.times > 1 else ""),
            made,
            _parameters(step, step.call, weights),
            "; ".join(comments),
        )

    def _labels(self, step: Step, place: _Place) -> list[str]:
        """What bookkeeping it reads, if it has no lines of its own inside."""
        if step.call is not None:
            is_open = self._opens(step.call, place.depth)
            read = [] if is_open else self.labels.get(step.call.name, [])
        else:
            refs = [ref.node for node in _nodes(step) for ref in node.inputs]
            read = [node for node in map(self.graph.by_name.__getitem__, refs) if is_label(node)]
        words = list(dict.fromkeys(node.path for node in read))
        return [f"with {shortened(words, 4)}"] if words and not step.inner else []

    def _parameters_given(self, step: Step, place: _Place) -> list[str]:
        """Which parameters a module gets as arguments, if the lines of its ops do not say it."""
        if step.call is None or self._opens(step.call, place.depth):
            return []
        given = [node.path for node in parameters_given(self.graph, step.call)]
        return [f"uses {shortened(given, 4)}"] if given else []

    def _starts_alone(self, step: Step) -> bool:
        """Whether it makes tensors out of none at all (``arange``)."""
        nodes = [node for item in step.items for node in self.steps.outline.calls_in(item)]
        read = [ref for node in nodes for ref in node.inputs]
        return bool(nodes) and not read

    def _has_weights(self, step: Step) -> bool:
        nodes = [node for item in step.items for node in self.steps.outline.calls_in(item)]
        read = {ref.node for node in nodes for ref in node.inputs}
        return any(self.graph.by_name[name].kind in HELD_KINDS for name in read)

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
        modules = range_of_calls(self.graph, step.fold, scope)
        return f"{modules or step.items[0].label} ..."

    def _ops(self, step: Step) -> str:
        if step.inner:
            return f"x{step.times}"
        names = [node.op for node in _nodes(step)]
        times = f" x{step.times}" if step.times > 1 else ""
        if len(names) > 3:
            return f"{names[0]}, ..., {names[-1]}{times}"
        if len(names) > 1:
            return ", ".join(names) + times
        arguments = key_arguments(self.graph, _nodes(step))
        title = op_title(_nodes(step)[0])
        told = title if title != _nodes(step)[0].op else ""
        return joined([told, arguments]) + times

    def _comments_on_ops(self, step: Step) -> list[str]:
        found = []
        for node in () if step.inner else _nodes(step):
            if node.kind == "opaque":
                found.append("its inside was not seen")
            if node.reads_value:
                found.append("Python reads the value")
            read = [self.graph.by_name[ref.node] for ref in node.inputs]
            read = [other for other in read if not is_label(other)]
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
