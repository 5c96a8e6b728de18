"""In what two paired ops differ, and whether that follows from what differs before them.

A size follows if the tensors that come in differ in the same way: after a layer that is twice
as wide now, the next one's weight has twice as many columns. What differs only because of the
batch, or because the data had other sizes, is no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isclose, prod
from typing import Literal

from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.diff.matching import Matching
from modelviz_callbacks.graph.model import Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of
from modelviz_callbacks.graph.values import Items, Ref, SliceValue, TensorSpec, Value
from modelviz_callbacks.view.formatting import shape_text
from modelviz_callbacks.view.layer_labels import literal_text, literal_texts

OpDifferenceKind = Literal["shape", "literal", "wiring", "trainable", "dtype", "sharing", "op"]

# Two numbers that stand in the same place.
ValuePair = tuple[object, object]

# Arguments that may be made of the root of a size.
_SCALES = ("scale", "other")
# Of ops whose numbers are sizes of tensors, so that they may differ because the data does.
_TAKES_SIZES = OpFact.TAKES_SHAPE | OpFact.TAKES_SIZES | OpFact.LAYOUT


@dataclass(frozen=True, slots=True)
class OpDifference:
    """One thing in which two paired ops differ.

    Attributes:
        kind: Which sort of thing.
        name: The argument, or the parameter's last name.
        text: For people: ``p 0.1 -> 0.5``.
        pairs: The numbers that differ; empty if it is not only numbers.
        is_chosen: Whether one of them is the layer's own, as the width of its output is, so that
            it cannot follow from what comes in.
        follows: Whether it follows from what differs before.
    """

    kind: OpDifferenceKind
    name: str
    text: str
    pairs: tuple[ValuePair, ...] = ()
    is_chosen: bool = False
    follows: bool = False


@dataclass
class OpDifferences:
    """Compares the ops of two graphs, pair by pair in execution order.

    Attributes:
        matching: The pairs.
        given: In what the sizes of the graphs' inputs differ.
        changed: The ops of the first graph behind which tensors may differ, inputs included.
    """

    matching: Matching
    given: set[ValuePair] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    _partners: dict[str, str] = field(default_factory=dict)
    _held: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}))

    def __post_init__(self) -> None:
        self.before = self.matching.before.graph
        self.after = self.matching.after.graph
        self._partners = {two: one for one, two in self.matching.nodes.items()}
        for node in self.before.of_kind("input"):
            partner = self.matching.nodes.get(node.name)
            if partner is not None:
                other = self.after.by_name[partner]
                self.given.update(differing_sizes(node.outputs[0], other.outputs[0]))

    def of(self, node: Node) -> list[OpDifference]:
        """In what an op differs from its partner; later ops are compared knowing it."""
        found = _Comparison(self, node, self.after.by_name[self.matching.nodes[node.name]])
        differences = found.differences()
        if differences or found.is_touched:
            self.changed.add(node.name)
        return differences

    def are_partners(self, one: Ref, other: Ref) -> bool:
        """Whether two tensors are the same one of the two graphs."""
        return self.matching.nodes.get(one.node) == other.node and one.index == other.index

    def is_touched(self, one: Ref, other: Ref) -> bool:
        """Whether a difference before may show in a pair of tensors."""
        return (
            one.node in self.changed
            or one.node not in self.matching.nodes
            or other.node not in self._partners
        )

    def sharing(self, one: Node, other: Node) -> str:
        """What differs in who shares a parameter; ``""`` if nothing does."""
        there, back = self._held
        if there.setdefault(one.name, other.name) != other.name:
            return f"no longer shared ({one.path})"
        if back.setdefault(other.name, one.name) != one.name:
            return f"shared now ({other.path})"
        return ""


class _Comparison:
    """One pair of ops."""

    def __init__(self, differences: OpDifferences, node: Node, other: Node) -> None:
        self.shared = differences
        self.node = node
        self.other = other
        self.found: list[OpDifference] = []
        self.is_touched = False
        self.before: set[ValuePair] = set()  # differences that come in from what differs before
        self.data: set[ValuePair] = set(
            differences.given
        )  # those that come in from the data's own sizes

    def differences(self) -> list[OpDifference]:
        node, other = self.node, self.other
        for one, two in zip(node.inputs, other.inputs, strict=False):
            self._meet(one, two)
        if node.op != other.op:
            self._add("op", "op", f"{node.op} became {other.op}")
            return self.found
        if node.target != other.target:
            self._add("op", "op", f"{node.target} became {other.target}")
        given = [{a.name: a.value for a in one.arguments} for one in (node, other)]
        for name in dict.fromkeys([*given[0], *given[1]]):
            if name not in given[0] or name not in given[1]:
                self._argument_missing(name, given[0].get(name), given[1].get(name))
            else:
                self._values(name, given[0][name], given[1][name])
        self._made()
        return list(self._judged())

    def _add(
        self, kind: OpDifferenceKind, name: str, text: str, pairs: tuple[ValuePair, ...] = ()
    ) -> None:
        self.found.append(OpDifference(kind, name, text, pairs))

    def _meet(self, one: Ref, two: Ref) -> None:
        """Notes in what the tensors that come in differ."""
        graphs = self.shared.before, self.shared.after
        if any(
            g.by_name[r.node].kind in HELD_KINDS for g, r in zip(graphs, (one, two), strict=True)
        ):
            return
        pairs = set(differing_sizes(graphs[0].spec(one), graphs[1].spec(two)))
        if self.shared.is_touched(one, two):
            self.is_touched = True
            self.before |= pairs
        else:
            self.data |= pairs

    def _argument_missing(self, name: str, one: Value, two: Value) -> None:
        if one is None and two is None:
            return
        self._add("literal", name, f"{name} {literal_text(one)} -> {literal_text(two)}")

    def _values(self, name: str, one: Value, two: Value) -> None:
        """Compares an argument: its tensors one by one, the rest as a whole."""
        leaves = list(_leaves(one, two))
        for a, b in leaves:
            if isinstance(a, Ref) and isinstance(b, Ref):
                self._tensors(name, a, b)
        rest = [
            (a, b)
            for a, b in leaves
            if not (isinstance(a, Ref) and isinstance(b, Ref))
            and (type(a) is not type(b) or str(a) != str(b))
        ]
        if not rest:
            return
        if any(isinstance(value, Ref) for pair in rest for value in pair):
            text = f"{name} {_kind_of(one)} -> {_kind_of(two)}"
            self._add("wiring", name, text)
            return
        are_numbers = all(_is_number(a) and _is_number(b) for a, b in rest)
        text = f"{name} {' -> '.join(literal_texts(one, two))}"
        self._add("literal", name, text, tuple(rest) if are_numbers else ())

    def _tensors(self, name: str, one: Ref, two: Ref) -> None:
        node = self.shared.before.by_name[one.node]
        other = self.shared.after.by_name[two.node]
        held = node.kind in HELD_KINDS, other.kind in HELD_KINDS
        if all(held):
            self._held(name, node, other)
        elif any(held):
            if not self.shared.is_touched(one, two):
                self._add("wiring", name, f"{name} is {_whose(other)}, was {_whose(node)}")
        elif not self.shared.are_partners(one, two) and not self.shared.is_touched(one, two):
            self._add("wiring", name, f"{name} comes from {_whose(other)}, was {_whose(node)}")

    def _held(self, name: str, node: Node, other: Node) -> None:
        one, two = node.outputs[0], other.outputs[0]
        tail = other.path.rpartition(".")[2] or name
        if node.kind != other.kind:
            self._add("wiring", tail, f"{tail} is a {other.kind}, was a {node.kind}")
        if one.shape != two.shape:
            text = f"{tail} {shape_text(one)} -> {shape_text(two)}"
            self.found.append(OpDifference("shape", tail, text, *self._sizes(name, one, two)))
        if one.dtype != two.dtype:
            self._add("dtype", tail, f"{one.dtype} -> {two.dtype}", ((one.dtype, two.dtype),))
        if node.kind == other.kind == "parameter":
            if one.requires_grad != two.requires_grad:
                text = "trained" if two.requires_grad else "frozen"
                self._add("trainable", other.path, text)
            sharing = self.shared.sharing(node, other)
            if sharing:
                self._add("sharing", tail, f"{tail} {sharing}")

    def _sizes(
        self, name: str, one: TensorSpec, two: TensorSpec
    ) -> tuple[tuple[ValuePair, ...], bool]:
        """The sizes of a parameter that differ, and whether one of them is the layer's own."""
        if one.shape is None or two.shape is None or len(one.shape) != len(two.shape):
            return (), True
        pairs = list(enumerate(zip(one.shape, two.shape, strict=True)))
        places = [place for place, (a, b) in pairs if a != b]
        is_chosen = any(_is_chosen(self.node, name, place) for place in places)
        return tuple((one.shape[place], two.shape[place]) for place in places), is_chosen

    def _made(self) -> None:
        """What it makes: dtypes that nothing that came in explains."""
        known = self.before | self.data
        known |= {
            pair
            for difference in self.found
            if difference.kind == "dtype"
            for pair in difference.pairs
        }
        for one, two in zip(self.node.outputs, self.other.outputs, strict=False):
            if one.dtype != two.dtype and (one.dtype, two.dtype) not in known:
                self._add("dtype", "", f"makes {two.dtype}, was {one.dtype}")

    def _judged(self) -> Iterator[OpDifference]:
        """The differences with their answers; without those that only the data accounts for."""
        takes = takes_sizes(self.node)
        for difference in self.found:
            is_held = difference.kind in ("shape", "dtype")
            varies = not self._is_parameter(difference.name) if is_held else takes
            if varies and explained_by(difference, self.data, parts=takes):
                continue
            allowed = self.before - (self.shared.given if is_held else set())
            yield replace(
                difference, follows=explained_by(difference, allowed, parts=takes and not is_held)
            )

    def _is_parameter(self, name: str) -> bool:
        nodes = (self.shared.after.by_name[ref.node] for ref in self.other.inputs)
        return any(n.kind == "parameter" and n.path.rpartition(".")[2] == name for n in nodes)


def explained_by(difference: OpDifference, pairs: set[ValuePair], *, parts: bool = False) -> bool:
    """Whether all numbers of a difference differ as some of the pairs do.

    Args:
        difference: Any difference.
        pairs: What is known to differ.
        parts: Whether a part of a size counts, as the size of one head of several.
    """
    if not difference.pairs or difference.is_chosen:
        return False
    times = parts or difference.kind == "shape"
    scales = difference.kind == "literal" and difference.name in _SCALES
    return all(
        pair in pairs
        or (times and any(_is_multiple(pair, known, parts) for known in pairs))
        or (scales and any(_is_scaled(pair, known) for known in pairs))
        for pair in difference.pairs
    )


def _is_chosen(node: Node, name: str, place: int) -> bool:
    """Whether a size of a parameter is its layer's own, whatever comes in."""
    facts = facts_of(node.target)
    if OpFact.EMBEDDING in facts:
        return True
    if OpFact.RECURRENT in facts:
        return place != 1
    if OpFact.TRANSPOSED in facts:
        return name == "bias" or place == 1
    if OpFact.LINEAR in facts:
        return place == 0
    if OpFact.CONVOLUTION in facts:
        # A depthwise convolution makes as many channels as it gets.
        return place == 0 and all(a.value == 1 for a in node.arguments if a.name == "groups")
    return False


def takes_sizes(node: Node) -> bool:
    """Whether the numbers among an op's arguments are sizes of tensors."""
    return bool(facts_of(node.target) & _TAKES_SIZES)


def _is_multiple(pair: ValuePair, known: ValuePair, parts: bool) -> bool:
    """Whether two numbers are the same multiple of two sizes, or the same part of them."""
    one, two, a, b = *pair, *known
    if not all(isinstance(number, int) and number > 0 for number in (one, two, a, b)):
        return False
    if one * b != two * a:  # type: ignore[operator]
        return False
    return one % a == 0 or (parts and one > 1 and two > 1 and a % one == 0)  # type: ignore[operator]


def _is_scaled(pair: ValuePair, known: ValuePair) -> bool:
    """Whether two factors are made of the roots of two sizes, as in attention."""
    one, two, a, b = *pair, *known
    if not (isinstance(a, int) and isinstance(b, int) and a > 0 and b > 0):
        return False
    if not (isinstance(one, float) and isinstance(two, float)):
        return False
    return any(isclose(one * a**power, two * b**power) for power in (0.5, -0.5))


def differing_sizes(one: TensorSpec, two: TensorSpec) -> Iterator[ValuePair]:
    """In what two tensors differ: sizes, products of neighbouring sizes, dtypes."""
    if one.dtype != two.dtype:
        yield one.dtype, two.dtype
    if one.shape is None or two.shape is None or one.shape == two.shape:
        return
    if len(one.shape) != len(two.shape):
        yield one.numel, two.numel
        return
    for start in range(len(one.shape)):
        for end in range(start + 1, len(one.shape) + 1):
            a, b = prod(one.shape[start:end]), prod(two.shape[start:end])
            if a != b:
                yield a, b


def _leaves(one: Value, two: Value) -> Iterator[tuple[Value, Value]]:
    """The parts of two arguments side by side; what has another form is one part."""
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        for a, b in zip(one, two, strict=True):
            yield from _leaves(a, b)
    elif isinstance(one, SliceValue) and isinstance(two, SliceValue):
        yield from _leaves(
            (one.start, one.stop, one.step),
            (two.start, two.stop, two.step),
        )
    elif isinstance(one, Items) and isinstance(two, Items):
        keys = [key for key, _ in one.items], [key for key, _ in two.items]
        if keys[0] != keys[1]:
            yield one, two
            return
        yield from _leaves(tuple(v for _, v in one.items), tuple(v for _, v in two.items))
    else:
        yield one, two


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind_of(value: Value) -> str:
    if isinstance(value, Ref):
        return "given"
    if isinstance(value, tuple) and value and all(isinstance(item, Ref) for item in value):
        return f"{len(value)} tensors"
    return literal_text(value)


def _whose(node: Node) -> str:
    return node.path or node.name.replace("/", ".")
