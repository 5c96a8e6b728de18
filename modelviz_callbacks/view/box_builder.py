"""Boxes and groups for a graph, given which modules are opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import HELD_KINDS, Item
from modelviz_callbacks.analysis.repeats.variation import Variation
from modelviz_callbacks.analysis.steps import Step
from modelviz_callbacks.analysis.weights import NO_WEIGHTS, Weights, element_counts
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.graph.values import (
    Ref,
)
from modelviz_callbacks.view.box import Box, BoxKind, Group
from modelviz_callbacks.view.contents import contents_text
from modelviz_callbacks.view.ends import End, end_words, parameters_given, told_ends
from modelviz_callbacks.view.formatting import (
    held_label,
    index_at_step,
    key_arguments,
    module_label,
    range_of_calls,
    repeat_text,
    shapes_text,
    shortened,
)
from modelviz_callbacks.view.label_facts import facts_of_module, joined
from modelviz_callbacks.view.op_labels import op_title
from modelviz_callbacks.view.simplified import is_label, labels_read

# How many boxes and groups a picture has at most, unless a depth is asked for.
MOST_BOXES = 60


@dataclass
class Drawn:
    """What was drawn so far.

    Attributes:
        boxes: In execution order.
        groups: Each before those within it.
        box_of_item: The box of each item that is drawn, or is part of a box.
        steps: The step that a module's box or group stands for, by its name.
        entries: The box of each tensor that enters the scope that is drawn.
        exits: The tensors that leave it, with their boxes.
    """

    boxes: list[Box] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    box_of_item: dict[str, str] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    entries: dict[Ref, str] = field(default_factory=dict)
    exits: list[tuple[Ref, str]] = field(default_factory=list)


# A scope inside the picture with more steps than this share of all boxes is told in parts, and how
# many ops are worth a part there.
_LONG, _FEWEST_IN_A_PART = 0.75, 4


def _pattern_name(step: Step) -> str:
    """A name for a pattern, which has its first item's name as a step: no node ends so."""
    return f"{step.name}/*"


class BoxBuilder:
    """Makes boxes and groups.

    Args:
        analysis: The graph's.
        opened: Names of the module calls, and of the patterns, to be opened.
        scope: The module call to draw the inside of; ``""``: the whole graph.
        sizes: Whether repeats may differ in one size; see `Analysis.folds`.
        most: How many boxes there may be at the top level.
        in_parts: Whether the ops between the modules of a long scope are told in parts.
    """

    def __init__(
        self,
        analysis: Analysis,
        opened: frozenset[str],
        scope: str = "",
        *,
        sizes: bool = True,
        most: int = MOST_BOXES,
        in_parts: bool = False,
    ) -> None:
        self.most = most
        self.in_parts = in_parts
        self.analysis = analysis
        self.graph = analysis.graph
        self.steps = analysis.steps(sizes=sizes)
        self.weights = analysis.weights
        self.opened = opened
        self.scope = scope
        self._parameters = element_counts(self.graph)
        self._labels = labels_read(analysis)
        self._varying: Variation | None = None  # in the loop whose body is drawn

    def drawn(self) -> Drawn:
        """The boxes and groups; at the top level never many more than `MOST_BOXES`."""
        drawn, outputs = Drawn(), Drawn()
        for ref, name in self._ends("input", self._inputs(), drawn):
            drawn.entries.setdefault(ref, name)
        outputs.exits += self._ends("output", self._outputs(), outputs)
        room = max(self.most - len(drawn.boxes) - len(outputs.boxes), 2)
        steps = self.steps.of(self.scope)
        if self._count_of_held(steps) + len(steps) > room:
            self._parts(steps, room // 2, drawn)
        else:
            self._scope(self.scope, "", drawn)
        drawn.boxes += outputs.boxes
        drawn.exits = outputs.exits
        return drawn

    def _inputs(self) -> list[End]:
        """Everything that enters."""
        if not self.scope:
            nodes = [node for node in self.graph.of_kind("input") if not is_label(node)]
            return [End(node.name, end_words(node), Ref(node.name)) for node in nodes]
        call = self.graph.module_by_name[self.scope]
        words = {port.ref: port.path for port in reversed(call.inputs)}
        return [
            End(f"{self.scope}/:in{number}", words.get(ref) or _where(self.graph, ref), ref)
            for number, ref in enumerate(self.steps.outline.externals(call))
        ]

    def _outputs(self) -> list[End]:
        """Everything that leaves."""
        if not self.scope:
            nodes = self.graph.of_kind("output")
            return [End(node.name, end_words(node), node.inputs[0]) for node in nodes]
        ports = self.graph.module_by_name[self.scope].outputs
        return [
            End(f"{self.scope}/:out{number}", port.path or "output", port.ref)
            for number, port in enumerate(ports)
        ]

    def _ends(
        self, kind: Literal["input", "output"], found: list[End], drawn: Drawn
    ) -> list[tuple[Ref, str]]:
        """Draws what enters or leaves, and says which tensor is drawn as which box."""
        places: list[tuple[Ref, str]] = []
        for one in told_ends(found, kind):
            made = shapes_text([self.graph.spec(part.ref) for part in one.parts])
            name = one.parts[0].name
            drawn.boxes.append(
                Box(
                    name,
                    kind,
                    one.title,
                    details=one.details,
                    made=made,
                    is_inner_end=bool(self.scope),
                )
            )
            places += [(part.ref, name) for part in one.parts]
        return places

    def _count_of_held(self, steps: Sequence[Step]) -> int:
        return sum(len(self._held(item)) for step in steps for item in step.items)

    def _held(self, item: Item) -> list[Node]:
        """The parameters, buffers and constants that an op reads directly.

        For a module call it is the parameters that it is given as arguments, and the bookkeeping
        from elsewhere that is read in it.
        """
        if isinstance(item, ModuleCall):
            return [*parameters_given(self.graph, item), *self._labels.get(item.name, [])]
        read = dict.fromkeys(ref.node for ref in item.inputs)
        return [
            self.graph.by_name[name] for name in read if self.graph.by_name[name].kind in HELD_KINDS
        ]

    def _parts(self, steps: Sequence[Step], most: int, drawn: Drawn) -> None:
        """Draws a long list of steps as a few boxes of many steps each."""
        for part in self._by_place(steps, most):
            if len(part) == 1:
                self._step(part[0], "", "", drawn)
            else:
                self._part(part, ("", ""), drawn)

    def _part(self, part: Sequence[Step], place: tuple[str, str], drawn: Drawn) -> None:
        """Draws several steps as one box; see `_step`."""
        scope, group = place
        names = [self._title(step) for step in part]
        counts: Counter[str] = Counter()
        for step in part:
            for item in step.items:
                what = item.type_name if isinstance(item, ModuleCall) else item.op
                counts[what] += step.times
        ops = [name if count == 1 else f"{name} ×{count:,}" for name, count in counts.most_common()]
        weights = sum((self._weights_of_all(step) for step in part), NO_WEIGHTS)
        name = part[0].name
        labels = (self._label(part[0], scope), self._label(part[-1], scope))
        is_labelled = any(labels)
        drawn.boxes.append(
            Box(
                name,
                "part",
                self._place_of(part),
                f"{labels[0] or names[0]} ... {labels[1] or names[-1]}" if is_labelled else "",
                shortened(ops, 4),
                shapes_text(self.steps.makes(part[-1])),
                weights,
                group=group,
            )
        )
        drawn.box_of_item.update((item, name) for step in part for item in _item_names(step))

    def _by_place(self, steps: Sequence[Step], most: int) -> list[Sequence[Step]]:
        """Steps in runs from one line, or one function, of the source; else of equal length."""
        places = [_place_of_step(step) for step in steps]
        for level in (3, 2):
            keys = [place[:level] for place in places]
            starts = [n for n, key in enumerate(keys) if n == 0 or key != keys[n - 1]]
            if len(starts) <= most:
                ends = [*starts[1:], len(steps)]
                return [steps[a:b] for a, b in zip(starts, ends, strict=True)]
        size = ceil(len(steps) / most)
        return [steps[start : start + size] for start in range(0, len(steps), size)]

    def _place_of(self, part: Sequence[Step]) -> str:
        """Where steps are from: ``forward, lines 12–18``; without a source what they do."""
        nodes = [node for step in part for item in step.items for node in self._ops_of(item)]
        sources = [node.source for node in nodes if node.source is not None]
        functions = list(dict.fromkeys(source.function for source in sources))
        if not functions:
            names = [item.op if isinstance(item, Node) else item.type_name for item in _items(part)]
            return shortened(list(dict.fromkeys(names)), 3)
        if len({(source.file, source.function) for source in sources}) > 1:
            return shortened(functions, 3)
        first, last = min(s.line for s in sources), max(s.line for s in sources)
        lines = f"line {first}" if first == last else f"lines {first}–{last}"
        return f"{functions[0]}, {lines}"

    def _ops_of(self, item: Item) -> list[Node]:
        """The ops of a scope's own forward, none for what a module call did."""
        return [item] if isinstance(item, Node) else []

    def _scope(self, scope: str, group: str, drawn: Drawn) -> None:
        """Draws what is in a scope; of very much the ops between modules by their functions."""
        steps = self.steps.of(scope)
        for run in _runs_of_ops(steps) if self._is_long(scope, steps) else [[s] for s in steps]:
            if len(run) < _FEWEST_IN_A_PART:
                for step in run:
                    self._step(step, scope, group, drawn)
            else:
                self._part(run, (scope, group), drawn)

    def _is_long(self, scope: str, steps: Sequence[Step]) -> bool:
        """Whether a scope around modules has so many ops beside them that these hide the modules.

        What is drawn itself is told in parts by `drawn`; a scope of ops alone stays closed.
        """
        if not self.in_parts or scope == self.scope:
            return False
        count = self._count_of_held(steps) + len(steps)
        has_modules = any(isinstance(item, ModuleCall) for item in _items(steps))
        return count > self.most * _LONG and has_modules

    def _step(self, step: Step, scope: str, group: str, drawn: Drawn) -> None:
        """Draws a step.

        Args:
            step: Any step.
            scope: The scope that labels are told from.
            group: The group that it is drawn in; ``""`` for none.
            drawn: Gets the boxes and groups.
        """
        call = step.call
        name = _pattern_name(step) if step.inner else step.name
        if call is not None and not any(True for _ in self.steps.outline.calls_in(call)):
            return  # nothing was computed, so nothing leads to it or from it
        drawn.steps[name] = step
        if name in self.opened:
            self._draw_open(name, step, (scope, group), drawn)
        elif _is_gradient_at_last(step):
            self._draw_gradient(step.items[0], group, drawn)  # type: ignore[arg-type]
        else:
            self._draw_closed(name, step, (scope, group), drawn)

    def _draw_open(self, name: str, step: Step, place: tuple[str, str], drawn: Drawn) -> None:
        """Draws a module or a pattern as a group around what is inside; see `_step`."""
        scope, group = place
        drawn.groups.append(
            Group(
                name,
                self._title(step),
                self._label(step, scope),
                self._details(step),
                self._made(step),
                self._weights(step),
                step.times,
                self._is_shared(step),
                group,
                self._unlike(step),
            )
        )
        if step.call is not None:
            self._scope(step.call.name, name, drawn)
        around, self._varying = self._varying, step.fold.variation if step.fold else self._varying
        for inner in step.inner:
            self._step(inner, scope, name, drawn)
        self._varying = around

    def _draw_closed(self, name: str, step: Step, place: tuple[str, str], drawn: Drawn) -> None:
        """Draws a step as one box, after the parameters that its ops read directly."""
        scope, group = place
        kind: BoxKind = "quiet" if step.is_quiet else "op"
        if step.call is not None or step.inner:
            kind = "module"
        for item in step.items:
            for node in self._held(item):
                self._draw_held(node, place, drawn)
        title, label = self._title(step), self._label(step, scope)
        contents = contents_text(self.analysis, step.call) if step.call is not None else ""
        drawn.boxes.append(
            Box(
                name,
                kind,
                title,
                label if label != title else "",
                joined([contents, self._details(step)]),
                self._made(step),
                self._weights(step),
                step.times,
                self._is_shared(step),
                group,
                self._unlike(step),
            )
        )
        drawn.box_of_item.update(dict.fromkeys(_item_names(step), name))

    def _draw_held(self, node: Node, place: tuple[str, str], drawn: Drawn) -> None:
        """Draws a parameter, a buffer, a constant or bookkeeping; see `_step`."""
        scope, group = place
        if node.name in drawn.box_of_item:
            return
        if is_label(node):
            drawn.boxes.append(Box(node.name, "label", node.path, group=group))
            drawn.box_of_item[node.name] = node.name
            return
        path = held_label(self.graph, node, scope)
        size = self._parameters.get(node.path, node.outputs[0].numel)
        trained = node.outputs[0].requires_grad
        weights = Weights(size, size if trained else 0, node.outputs[0].size_bytes)
        drawn.boxes.append(
            Box(
                node.name,
                "held",
                path,
                node.kind if path != node.kind else "",
                made=shapes_text(node.outputs),
                weights=weights if node.kind == "parameter" else NO_WEIGHTS,
                group=group,
            )
        )
        drawn.box_of_item[node.name] = node.name

    def _draw_gradient(self, node: Node, group: str, drawn: Drawn) -> None:
        """Draws where a gradient ends, in the graph of a backward pass, as what it is of."""
        size = self._parameters.get(node.path, node.outputs[0].numel)
        is_parameter = node.path in self._parameters
        weights = Weights(size, size, node.outputs[0].size_bytes) if is_parameter else NO_WEIGHTS
        kind: BoxKind = "held" if is_parameter else "output"
        title = node.path.rpartition(".")[2] if is_parameter else node.path
        made = shapes_text(node.outputs)
        drawn.boxes.append(Box(node.name, kind, title, "gradient", "", made, weights, group=group))
        drawn.box_of_item[node.name] = node.name

    def _title(self, step: Step) -> str:
        if step.call is not None:
            return step.call.type_name
        if step.inner:
            if self._is_loop(step):
                return "loop"
            return shortened([self._title(inner) for inner in step.inner], 3)
        ops = [index_at_step(self._varying, op_title(node)) for node in _nodes(step)]
        return ", ".join(ops) if len(ops) <= 3 else f"{ops[0]}, ..., {ops[-1]}"

    def _is_loop(self, step: Step) -> bool:
        """Whether it is a body of several steps that runs again and again on the same weights."""
        return bool(step.inner) and step.fold is not None and step.fold.shared

    def _label(self, step: Step, scope: str) -> str:
        if self._is_loop(step):
            return ""  # it is that of no module: each of its calls has a number of its own
        if step.call is not None and step.call.is_function:
            is_told = step.call.label.startswith(step.call.type_name)
            return "" if is_told else module_label(self.graph, step.call, scope)
        if step.fold is not None:
            return range_of_calls(self.graph, step.fold, scope)
        return module_label(self.graph, step.call, scope) if step.call is not None else ""

    def _details(self, step: Step) -> str:
        found = []
        if step.call is None:
            if not step.inner:
                found.append(key_arguments(self.graph, _nodes(step)))
        else:
            found += facts_of_module(step.call)
            if step.call.class_name.startswith("torch.nn.") and self.analysis.is_leaf(step.call):
                nodes = self.steps.outline.calls_in(step.call)
                found.append(key_arguments(self.graph, nodes))
        if step.call is not None and self.weights.tied_to(step.call):
            found.append(f"tied to {self.weights.tied_to(step.call)}")
        if step.fold:
            found.append(repeat_text(step.fold))
        if self._is_shared(step) and self._weights(step).count:
            found.append("same weights")
        if any(node.kind == "opaque" for node in _nodes(step)):
            found.append("inside not seen")
        if any(node.reads_value for node in _nodes(step)):
            found.append("Python reads the value")
        return joined(found)

    def _is_shared(self, step: Step) -> bool:
        return bool(step.call and step.call.call_index) or bool(step.fold and step.fold.shared)

    def _unlike(self, step: Step) -> tuple[str, ...]:
        """The module calls of all copies, if these have other sizes each."""
        if step.fold is None or step.fold.variation is None or not step.fold.variation.of_sizes:
            return ()
        modules = self.graph.module_by_name
        return tuple(name for copy in step.fold.copies for name in copy if name in modules)

    def _made(self, step: Step) -> str:
        """Shapes of what a step hands on, of its last copy if they are not alike."""
        if step.fold and self._unlike(step):
            last = step.fold.copies[-1][-1]
            found = self.graph.module_by_name.get(last) or self.graph.by_name[last]
            return shapes_text(self.steps.makes(Step((found,))))
        return shapes_text(self.steps.makes(step))

    def _weights(self, step: Step) -> Weights:
        modules = self.graph.module_by_name
        calls = [item for item in step.items if isinstance(item, ModuleCall)]
        calls = [modules[name] for name in self._unlike(step)] or calls
        # A solver's step calls the same module several times.
        calls = list({(call.path, call.class_name): call for call in reversed(calls)}.values())
        return sum((self.weights.of(call) for call in calls), NO_WEIGHTS)

    def _weights_of_all(self, step: Step) -> Weights:
        """Those that no step before it has, of all its copies."""
        if step.call and step.call.call_index:
            return NO_WEIGHTS
        copies = 1 if self._is_shared(step) or self._unlike(step) else step.times
        return sum([self._weights(step)] * copies, NO_WEIGHTS)


def _runs_of_ops(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps one by one, but ops that follow each other and are of one function together."""
    runs: list[list[Step]] = []
    before: tuple[str, str] | None = None
    for step in steps:
        item = step.items[0]
        is_op = isinstance(item, Node) and not step.inner and item.source is not None
        place = (item.source.file, item.source.function) if is_op else None  # type: ignore[union-attr]
        if place is not None and place == before:
            runs[-1].append(step)
        else:
            runs.append([step])
        before = place
    return runs


def _place_of_step(step: Step) -> tuple[str, ...]:
    """File, function and line of an op; of anything else its own name."""
    item = step.items[0]
    has_modules = any(isinstance(one, ModuleCall) for one in step.items)
    if has_modules or isinstance(item, ModuleCall) or item.source is None:
        return (step.name, "", "")
    return (item.source.file, item.source.function, str(item.source.line))


def _where(graph: ModelGraph, ref: Ref) -> str:
    node = graph.by_name[ref.node]
    return node.path or node.name.replace("/", ".")


def _is_gradient_at_last(step: Step) -> bool:
    """Whether it is the one op with a path: see `Node`."""
    return not step.inner and isinstance(step.items[0], Node) and bool(step.items[0].path)


def _items(steps: Sequence[Step]) -> list[Item]:
    return [item for step in steps for item in step.items]


def _nodes(step: Step) -> list[Node]:
    return [item for item in step.items if isinstance(item, Node)]


def _item_names(step: Step) -> list[str]:
    """The names of its items, of every copy."""
    if step.fold is None:
        return [item.name for item in step.items]
    return [name for copy in step.fold.copies for name in copy]
