"""What calls that differ in sizes only have in common: a translation with the sizes left open.

In an unrolled loop each step has the calls of the one before on other sizes (attention over all
steps so far, ``ids[:, t]``), and each takes milliseconds to translate. Two calls are of one pattern
if their numbers differ and nothing else: which of them are equal, zero, one or negative stays. If
what two of them were translated to is the same but for those numbers, so is the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy
import onnx

from modelviz_callbacks.writers.onnx.builder import Shape
from modelviz_callbacks.writers.onnx.translation.subgraph import Subgraph, SubgraphNode

# Constants with more numbers than this are compared as they are.
_MOST_NUMBERS = 64
# How many calls of a pattern are compared with each other before it is given up.
_MOST_SAMPLES = 4

# Attributes whose numbers are places of dimensions.
_NO_SIZES = ("axes", "axis", "perm")
# What stands for the end of a dimension, whatever its size, is larger.
_ENDLESS = 2**31 - 1

_INT64 = onnx.TensorProto.INT64


class _Open(NamedTuple):
    """Stands for a number that may be another one; which one of the pattern's."""

    number: int


class _Numbers:
    """Numbers from two on by the order in which they turn up, each once."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._known: dict[int, _Open] = {}

    def take(self, number: int) -> Any:
        if number < 2:
            return number
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = _Open(len(self.values))
            self.values.append(number)
        return known

    def known(self, number: int) -> Any:
        """What stands for a number, itself if it is none of the pattern's."""
        return self._known.get(number, number)


def _pattern(value: Any, numbers: _Numbers) -> Any:
    """Arguments as a call's key has them, with the numbers left open."""
    kind = type(value)
    if kind is tuple:
        if len(value) == 2 and value[0] == "int" and str(value[1]).isdigit():
            return "int", numbers.take(int(value[1]))
        return tuple([_pattern(item, numbers) for item in value])
    return value


def _tensor(shape: tuple[int, ...], stride: tuple[int, ...], numbers: _Numbers) -> Any:
    """The shape of a tensor and how it lies in memory."""
    order = sorted(range(len(shape)), key=lambda d: (-stride[d], d))
    step, is_dense = 1, True
    for dimension in reversed(order):
        is_dense = is_dense and (shape[dimension] == 1 or stride[dimension] == step)
        step *= shape[dimension]
    sizes = tuple([numbers.take(size) for size in shape])
    lies = tuple(order) if is_dense else ("strided", *[numbers.take(step) for step in stride])
    return sizes, lies


@dataclass(frozen=True, slots=True)
class _Sample:
    """A call's numbers, what it was translated to, and this with the numbers left open."""

    values: tuple[int, ...]
    subgraph: Subgraph
    opened: Any


@dataclass(frozen=True, slots=True)
class _Template:
    """A translation for all calls of a pattern whose other numbers are these."""

    sample: _Sample
    fixed: tuple[tuple[int, int], ...]

    def fits(self, values: Sequence[int]) -> bool:
        return all(values[index] == value for index, value in self.fixed)

    def with_numbers(self, values: Sequence[int]) -> Subgraph:
        nodes, made, _ = self.sample.opened
        found = self.sample.subgraph

        def closed(item: Any) -> Any:
            return values[item.number] if type(item) is _Open else item

        def bytes_of(opened: Any, as_was: bytes) -> bytes:
            if type(opened) is bytes or not any(type(one) is _Open for one in opened[2]):
                return as_was
            return _with_numbers(as_was, opened, closed)

        return replace(
            found,
            nodes=tuple(
                [
                    node
                    if all(type(one) is bytes for one in opened[-1])
                    else replace(node, attributes=tuple(map(bytes_of, opened[-1], node.attributes)))
                    for opened, node in zip(nodes, found.nodes, strict=True)
                ]
            ),
            made=tuple(
                [
                    (kind, None if sizes is None else tuple([closed(size) for size in sizes]))
                    for kind, sizes in made
                ]
            ),
        )


class SizeTemplates:
    """The patterns of the calls seen so far."""

    def __init__(self) -> None:
        """Knows none."""
        self._samples: dict[Any, list[_Sample]] = {}
        self._templates: dict[Any, list[_Template]] = {}

    def find(self, key: Any) -> Subgraph | None:
        """The translation of a call whose like is known; ``None`` for any other.

        Args:
            key: What makes the call equal to others.
        """
        pattern, numbers = _place(key)
        for template in self._templates.get(pattern, ()):
            if template.fits(numbers.values):
                return template.with_numbers(numbers.values)
        return None

    def learn(self, key: Any, subgraph: Subgraph) -> None:
        """Takes in what a call was translated to.

        Args:
            key: What makes the call equal to others.
            subgraph: The translation.
        """
        pattern, numbers = _place(key)
        samples = self._samples.setdefault(pattern, [])
        if len(samples) >= _MOST_SAMPLES:
            return
        opened = _opened(subgraph, numbers, len(key[2]))
        if _is_computed(subgraph, opened, len(key[2])):
            return
        sample = _Sample(tuple(numbers.values), subgraph, opened)
        for other in samples:
            if other.opened == sample.opened:
                pairs = enumerate(zip(sample.values, other.values, strict=True))
                fixed = tuple([(index, one) for index, (one, two) in pairs if one == two])
                self._templates.setdefault(pattern, []).append(_Template(sample, fixed))
                break
        samples.append(sample)


def _place(key: Any) -> tuple[Any, _Numbers]:
    """The pattern of a call, and its numbers."""
    target, arguments, tensors, *rest = key
    numbers = _Numbers()
    described = tuple([(_tensor(s, t, numbers), dtype) for s, t, dtype in tensors])
    return (target, described, _pattern(arguments, numbers), *rest), numbers


def _opened(subgraph: Subgraph, numbers: _Numbers, inputs: int) -> Any:
    """A translation with the numbers left open; of its results the shapes are not asked."""
    nodes = tuple(
        [
            (
                node.op_type,
                node.domain,
                node.inputs,
                node.outputs,
                tuple([_open_attribute(one, numbers) for one in node.attributes]),
            )
            for node in subgraph.nodes
        ]
    )
    constants = _constants(subgraph.nodes)

    def opened(place: int, sizes: Shape) -> Any:
        if sizes is None or place in subgraph.outputs:
            return None
        # The attribute tells how many numbers a constant has.
        return sizes if place in constants else tuple([_known(size, numbers) for size in sizes])

    made = [(kind, opened(inputs + i, sizes)) for i, (kind, sizes) in enumerate(subgraph.made)]
    return nodes, tuple(made), subgraph.outputs


def _constants(nodes: Sequence[SubgraphNode]) -> set[int]:
    return {place for node in nodes if node.op_type == "Constant" for place in node.outputs}


def _is_computed(subgraph: Subgraph, opened: Any, inputs: int) -> bool:
    """Whether a translation has numbers that may come of others: two may agree by chance."""
    nodes, made, _ = opened
    constants = _constants(subgraph.nodes)
    shapes = [shape for i, (_, shape) in enumerate(made) if inputs + i not in constants]
    sizes = [size for shape in shapes for size in shape or ()]
    for *_, attributes in nodes:
        for one in attributes:
            if type(one) is tuple and one[1]:
                sizes += one[2]
    return any(type(size) is int and 2 <= size < _ENDLESS for size in sizes)


def _known(size: Any, numbers: _Numbers) -> Any:
    return numbers.known(size) if type(size) is int else size


def _open_attribute(written: bytes, numbers: _Numbers) -> Any:
    """The numbers of an attribute, those of the pattern left open; the bytes if it has none."""
    found = _numbers_of(onnx.AttributeProto.FromString(written))
    if found is None:
        return written
    opened = tuple([numbers.known(number) for number in found[1]])
    return found[0], found[2], opened


def _numbers_of(attribute: onnx.AttributeProto) -> tuple[bytes, list[int], bool] | None:
    """An attribute without its numbers, these, and whether they may come of sizes.

    ``None`` for one that has no whole numbers.
    """
    may_be_computed = attribute.name not in _NO_SIZES
    if attribute.type == onnx.AttributeProto.INT:
        numbers, may_be_computed = [attribute.i], False
        attribute.ClearField("i")
    elif attribute.type == onnx.AttributeProto.INTS:
        numbers = list(attribute.ints)
        attribute.ClearField("ints")
    elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == _INT64:
        raw = attribute.t.raw_data
        if not raw or len(raw) > 8 * _MOST_NUMBERS:
            return None
        numbers = numpy.frombuffer(raw, dtype="<i8").tolist()
        attribute.t.ClearField("raw_data")
    else:
        return None
    return attribute.SerializeToString(deterministic=True), numbers, may_be_computed


def _with_numbers(written: bytes, opened: Any, closed: Callable[[Any], Any]) -> bytes:
    attribute = onnx.AttributeProto.FromString(written)
    numbers = [closed(number) for number in opened[2]]
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = numbers[0]
    elif attribute.type == onnx.AttributeProto.INTS:
        attribute.ints[:] = numbers
    else:
        attribute.t.raw_data = numpy.array(numbers, dtype="<i8").tobytes()
    return attribute.SerializeToString(deterministic=True)
