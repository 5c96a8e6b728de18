"""In what the ends of two graphs differ: the models themselves, inputs, outputs, unused parameters.

Everything else is told by ``modelviz_callbacks.diff.diff``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from modelviz_callbacks.diff.matching import Matching
from modelviz_callbacks.diff.op_differences import OpDifferences
from modelviz_callbacks.graph.model import ModelGraph, Node, ParameterInfo
from modelviz_callbacks.graph.values import Ref
from modelviz_callbacks.view.formatting import shape_text
from modelviz_callbacks.view.layer_labels import tensor_words

ChangeKind = Literal["added", "removed", "changed"]
# What a change is about, in the order in which changes are told.
ChangeSubject = Literal["model", "module", "op", "parameter", "input", "output"]
SUBJECTS: tuple[ChangeSubject, ...] = ("model", "module", "op", "parameter", "input", "output")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        kind: What happened.
        subject: What it happened to.
        old_name: What people call it in the first graph (``classifier.2``); ``""``: it is not
            there.
        name: Likewise in the second graph.
        was: What it was, in words: ``Linear(128 -> 10)``; ``""`` if added.
        now: What it is; ``""`` if removed.
        details: What the words do not say: ``frozen``, ``eps 1e-05 -> 1e-12``.
        old_item: Its name in the first graph: a module call or a node; ``""``: none.
        item: Likewise in the second.
    """

    kind: ChangeKind
    subject: ChangeSubject
    old_name: str
    name: str
    was: str
    now: str
    details: tuple[str, ...] = ()
    old_item: str = ""
    item: str = ""


class Ends:
    """Finds them.

    Args:
        matching: Which parts of the graphs belong together.
        differences: The comparison of their ops.
    """

    def __init__(self, matching: Matching, differences: OpDifferences) -> None:
        self.matching = matching
        self.differences = differences
        self.graphs = matching.before.graph, matching.after.graph

    def model(self) -> Iterator[Change]:
        """The models' classes, and whether their forwards came to their ends."""
        before, after = self.graphs
        classes = [graph.class_name.rpartition(".")[2] for graph in self.graphs]
        details = []
        if before.partial != after.partial:
            details.append("the forward ended early" + (" no longer" * before.partial))
        if classes[0] != classes[1] or details:
            names = before.name, after.name
            yield Change("changed", "model", *names, classes[0], classes[1], tuple(details))

    def inputs(self) -> Iterator[Change]:
        """The inputs that came, went, or have another form; what reads these differs, too."""
        before, after = self.graphs
        there = set(self.matching.nodes.values())
        for node in before.of_kind("input"):
            partner = self.matching.nodes.get(node.name)
            was = tensor_words(before, Ref(node.name))
            name = node.path or node.label
            if partner is None:
                yield Change("removed", "input", name, "", was, "", (), node.name)
                continue
            other = after.by_name[partner]
            one, two = node.outputs[0], other.outputs[0]
            ranks = [None if spec.shape is None else len(spec.shape) for spec in (one, two)]
            if ranks[0] != ranks[1] or one.dtype != two.dtype:
                self.differences.changed.add(node.name)
                names = name, other.path or other.label
                now = tensor_words(after, Ref(partner))
                yield Change("changed", "input", *names, was, now, (), node.name, partner)
        for node in after.of_kind("input"):
            if node.name not in there:
                now = tensor_words(after, Ref(node.name))
                name = node.path or node.label
                yield Change("added", "input", "", name, "", now, item=node.name)

    def outputs(self) -> Iterator[tuple[bool, Change]]:
        """The graph's outputs that differ, and whether that counts."""
        before, after = self.graphs
        for one, two in _paired_outputs(before, after):
            if one is None:
                if two is not None:
                    now = tensor_words(after, two.inputs[0])
                    name = two.path or two.label
                    yield True, Change("added", "output", "", name, "", now, item=two.name)
                continue
            was = tensor_words(before, one.inputs[0])
            name = one.path or one.label
            if two is None:
                yield (
                    True,
                    Change("removed", "output", name, "", was, "", old_item=one.name),
                )
                continue
            yield from self._output_pair(one, two, was)

    def _output_pair(self, one: Node, two: Node, was: str) -> Iterator[tuple[bool, Change]]:
        a, b = one.inputs[0], two.inputs[0]
        now = tensor_words(self.graphs[1], b)
        names = one.path or one.label, two.path or two.label
        if self.differences.is_touched(a, b):
            if not self._is_data(a, b):
                change = Change("changed", "output", *names, was, now, (), one.name, two.name)
                yield False, change
        elif not self.differences.are_partners(a, b) and self._computed(a, b):
            text = f"comes from {_dotted(b.node)}, was {_dotted(a.node)}"
            change = Change("changed", "output", *names, was, was, (text,), one.name, two.name)
            yield True, change

    def _is_data(self, one: Ref, other: Ref) -> bool:
        """Whether two tensors differ at most as the graphs' inputs do."""
        specs = self.graphs[0].spec(one), self.graphs[1].spec(other)
        shapes = [spec.shape or () for spec in specs]
        if specs[0].dtype != specs[1].dtype or len(shapes[0]) != len(shapes[1]):
            return False
        pairs = set(zip(*shapes, strict=True))
        return all(a == b or (a, b) in self.differences.given for a, b in pairs)

    def _computed(self, one: Ref, other: Ref) -> bool:
        """Whether both tensors are made by ops or are inputs: others have no partners."""
        nodes = self.graphs[0].by_name[one.node], self.graphs[1].by_name[other.node]
        return all(node.is_call or node.kind == "input" for node in nodes)

    def parameters(self) -> Iterator[Change]:
        """Parameters that no op uses: all others are told with the ops that do."""
        unused = [_unused(graph) for graph in self.graphs]
        named = [{parameter.name: parameter for parameter in found} for found in unused]
        rest = [
            [p for p in found if p.name not in named[1 - side]] for side, found in enumerate(unused)
        ]
        for name, one in named[0].items():
            two = named[1].get(name)
            if two is not None and _look(one) != _look(two):
                yield Change("changed", "parameter", name, name, _words(one), _words(two))
        # A module with other numbers before it has parameters of other names.
        looks = [Counter(map(_look, parameters)) for parameters in rest]
        surplus = looks[0] - looks[1], looks[1] - looks[0]
        for side, parameters in enumerate(rest):
            left = surplus[side]
            for parameter in reversed(parameters):
                if left[_look(parameter)] <= 0:
                    continue
                left[_look(parameter)] -= 1
                name, text = parameter.name, _words(parameter)
                if side == 0:
                    yield Change("removed", "parameter", name, "", text, "")
                else:
                    yield Change("added", "parameter", "", name, "", text)


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _paired_outputs(
    before: ModelGraph, after: ModelGraph
) -> Iterator[tuple[Node | None, Node | None]]:
    """The outputs by their paths, the others in order."""
    nodes = [list(graph.of_kind("output")) for graph in (before, after)]
    named = [{node.path: node for node in found} for found in nodes]
    rest: list[list[Node]] = []
    for side, found in enumerate(nodes):
        rest.append([node for node in found if node.path not in named[1 - side]])
    for path, node in named[0].items():
        if path in named[1]:
            yield node, named[1][path]
    for place in range(max(map(len, rest))):
        one, two = (found[place] if place < len(found) else None for found in rest)
        yield one, two


def _unused(graph: ModelGraph) -> list[ParameterInfo]:
    used = {name for node in graph.of_kind("parameter") for name in (node.path, *node.aliases)}
    return [parameter for parameter in graph.parameters if parameter.name not in used]


def _look(parameter: ParameterInfo) -> tuple[object, ...]:
    spec = parameter.spec
    return (parameter.name.rpartition(".")[2], spec.shape, spec.dtype, parameter.trainable)


def _words(parameter: ParameterInfo) -> str:
    frozen = "" if parameter.trainable else ", frozen"
    return f"{shape_text(parameter.spec)} {parameter.spec.dtype}{frozen}, used by no op"
