"""What differs between copies of a pattern that are otherwise the same.

Two kinds of copies count as one pattern although they differ: copies whose arguments differ
in step (the dilation, and the padding that goes with it), and copies of different widths, where
every size that differs is the same multiple of the width of its own copy, or of the copy
before it: `8 → 16`, `16 → 32`, `32 → 64` differ in their features only. Each copy must differ
from the one before it: one odd block among equal ones is no variation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeAlias

from modelviz_callbacks.analysis.fingerprint import Key
from modelviz_callbacks.analysis.outline import HELD_KINDS, Item, Outline
from modelviz_callbacks.graph.model import Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of, torch_name
from modelviz_callbacks.graph.values import (
    Items,
    PythonText,
    Ref,
    SliceValue,
    TensorSpec,
    Value,
    refs,
)

# Fewer copies than this say nothing about how something varies.
_FEWEST = 3

# A number in an index.
NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Variation:
    """What differs between copies that are otherwise the same.

    Attributes:
        names: The arguments that differ, all in step (``("padding", "dilation")``), or the
            word for the size that does (``("channels",)``).
        values: Their value in each copy, as text: ``("1", "2", "4")``.
        of_sizes: Whether sizes of tensors differ: parameters and activations, too.
        grows: Whether tensors get larger or smaller from one step of a loop to the next.
    """

    names: tuple[str, ...]
    values: tuple[str, ...]
    of_sizes: bool = False
    grows: bool = False

    @property
    def counter(self) -> tuple[int, ...] | None:
        """The loop's counter in each copy, where an index follows it; else ``None``.

        ``(0, 1, 2)`` where ``[:, 0:2]``, ``[:, 1:3]`` and ``[:, 2:4]`` are read.
        """
        if self.names != ("index",) or len({NUMBER.sub("#", text) for text in self.values}) > 1:
            return None
        rows = [tuple(map(int, NUMBER.findall(text))) for text in self.values]
        varying = [column for column in zip(*rows, strict=True) if len(set(column)) > 1]
        steps = {two - one for column in varying for one, two in pairwise(column)}
        return varying[0] if len(steps) == 1 and steps != {0} else None


def any_literal(_node: Node, _position: int, _value: Value) -> Key:
    """A key for every literal argument."""
    return "any"


def any_size(spec: TensorSpec) -> Key:
    """A key for every tensor with so many dimensions."""
    return (None if spec.shape is None else len(spec.shape), spec.dtype, spec.layout)


@dataclass(frozen=True, slots=True)
class _Fact:
    """Something about a copy that another copy may have different.

    Attributes:
        name: Of the argument, or what to call the size.
        value: The argument as text, or a number.
        rank: Of a size how well it stands for the width of the copy; 0 is best.
        tensor: Which tensor it is a size of; ``""`` for an argument.
    """

    name: str
    value: str | int
    rank: int = 2
    tensor: str = field(default="", compare=False)


_Facts: TypeAlias = tuple[_Fact, ...]
_Copies: TypeAlias = Sequence[Sequence[Item]]


class Variations:
    """Finds what varies between copies in one graph; each item is looked at once.

    Args:
        outline: The graph's.
        sizes: Whether sizes may vary, too.

    Attributes:
        sizes: The same.
    """

    def __init__(self, outline: Outline, sizes: bool) -> None:
        self._outline = outline
        self.sizes = sizes
        self._known: dict[str, _Facts] = {}

    def reach(self, items: Sequence[Item], period: int, times: int) -> int:
        """How many copies, from the first of the items on, vary in one thing.

        Args:
            items: Copies one after the other.
            period: Items of one copy.
            times: How many copies there are.

        Returns:
            The number; 0 if it is too small to tell.
        """
        copies = [items[at : at + period] for at in range(0, times * period, period)]

        def varies(count: int) -> bool:
            return self.of(copies[:count]) is not None

        if times < _FEWEST or not varies(_FEWEST):
            return 0
        good, bad = _FEWEST, times + 1
        while bad - good > 1:
            # Far ahead in few tries, since most variations go on to the end or end soon.
            tried = min(2 * good, times) if bad > times else (good + bad) // 2
            good, bad = (tried, bad) if varies(tried) else (good, tried)
        if good < times and self._row(copies[good]) == self._row(copies[good - 1]):
            good -= 1  # the last one is the first of some that are equal, and belongs to these
        return good if good >= _FEWEST else 0

    def of(self, copies: _Copies) -> Variation | None:
        """What differs between copies that are the same but for literals and sizes.

        Returns:
            ``None`` if nothing or more than one thing differs, if some copy is like the one
            before it, or if these are too few.
        """
        rows = [self._row(copy) for copy in copies]
        if len(rows) < _FEWEST or len({len(row) for row in rows}) != 1:
            return None
        if any(one == other for one, other in pairwise(rows)):
            return None
        columns = zip(*rows, strict=True)
        varying = [column for column in columns if len({fact.value for fact in column}) > 1]
        return _size_variation(varying) if self.sizes else _argument_variation(varying)

    def _row(self, copy: Sequence[Item]) -> list[_Fact]:
        return [fact for item in copy for fact in self._facts(item)]

    def _facts(self, item: Item) -> _Facts:
        found = self._known.get(item.name)
        if found is None:
            facts = _sizes if self.sizes else _literals
            nodes = self._outline.calls_in(item)
            found = tuple(fact for node in nodes for fact in facts(self._outline, node))
            self._known[item.name] = found
        return found


def free_sizes(outline: Outline, steps: Sequence[Sequence[Node]]) -> Variation | None:
    """What varies between copies that are side by side, where sizes may be what they like.

    Args:
        outline: The graph's.
        steps: The nodes of each copy, in execution order.

    Returns:
        The index that each reads, else the one size of parameters that differs; ``None`` if
        something else differs, too.
    """
    varying = varying_literals(steps)
    if len({tuple(text for _, text in column) for column in varying}) > 1:
        return None
    told = step_variation(steps, varying) or Variation((), ())
    rows = [[fact for node in step for fact in _held_sizes(outline, node)] for step in steps]
    columns = [column for column in zip(*rows, strict=True) if len(set(column)) > 1]
    values = {tuple(str(fact.value) for fact in column) for column in columns}
    if not told.names and len(values) == 1:
        return Variation((columns[0][0].name,), values.pop(), of_sizes=True)
    return replace(told, of_sizes=True, grows=True)


def varying_literals(steps: Sequence[Sequence[Node]]) -> list[tuple[tuple[str, str], ...]]:
    """The literal arguments that differ between steps of a loop: their names and values in each.

    Args:
        steps: The nodes of each step, in execution order.

    Returns:
        Indices first; none where the steps have not equally many.
    """
    rows = [
        [
            (argument.name, _literal_text(value))
            for node in step
            for argument in node.arguments
            for value in _parts(argument.value)
            if not isinstance(value, PythonText)
        ]
        for step in steps
    ]
    if len({len(row) for row in rows}) != 1:
        return []
    varying = [column for column in zip(*rows, strict=True) if len(set(column)) > 1]
    return sorted(varying, key=lambda column: column[0][0] != "index")


def step_variation(
    steps: Sequence[Sequence[Node]], varying: Sequence[tuple[tuple[str, str], ...]]
) -> Variation | None:
    """What varies from one step of a loop to the next: the index that it reads, the sizes.

    Args:
        steps: The nodes of each step, in execution order.
        varying: Their `varying_literals`.
    """
    grows = any(one.outputs != other.outputs for one, other in zip(*steps[-2:], strict=True))
    told = [column for column in varying if all(one != other for one, other in pairwise(column))]
    if told:
        return Variation((told[0][0][0],), tuple(text for _, text in told[0]), grows=grows)
    return Variation((), (), grows=True) if grows else None


def _argument_variation(varying: list[_Facts]) -> Variation | None:
    """The arguments that differ, if they all do so in step."""
    values = {tuple(fact.value for fact in column) for column in varying}
    if len(values) != 1:
        return None
    names = dict.fromkeys(column[0].name for column in varying)
    return Variation(tuple(names), tuple(map(str, values.pop())))


def _size_variation(varying: list[_Facts]) -> Variation | None:
    """The one size that differs, if everything else that does follows from it."""
    columns = [[fact.value for fact in column] for column in varying]
    widths = [
        (column[0].rank, number)
        for number, column in enumerate(varying)
        if _is_width(columns[number])
    ]
    if not widths:
        return None
    chosen = min(widths)[1]
    width = columns[chosen]
    if not all(_follows(column, width) for column in columns):
        return None
    # Height and width of an image that change as the channels do are something else.
    activations = [column[0].tensor for column in varying if column[0].rank == _ACTIVATION]
    if len(set(activations)) != len(activations):
        return None
    return Variation((varying[chosen][0].name,), tuple(map(str, width)), of_sizes=True)


def _is_width(column: Sequence[str | int]) -> bool:
    """Whether it can be what differs: a size that is another one in each following copy."""
    if not all(isinstance(value, int) and value > 0 for value in column):
        return False
    return all(one != other for one, other in pairwise(column))


def _follows(column: Sequence[str | int], width: Sequence[str | int]) -> bool:
    """Whether numbers are a multiple of the widths, or of those of the copies before."""
    if not all(isinstance(value, int) for value in column):
        return False
    numbers, widths = [int(value) for value in column], [int(value) for value in width]
    pairs = zip(numbers, widths, strict=True)
    if all(number * widths[0] == numbers[0] * size for number, size in pairs):
        return True
    pairs = zip(numbers[1:], widths, strict=False)
    return all(number * widths[0] == numbers[1] * size for number, size in pairs)


# --- facts

_ACTIVATION = 1  # the rank of an activation's size


def _literals(_outline: Outline, node: Node) -> Iterator[_Fact]:
    """The literal arguments of an op with their names."""
    for argument in node.arguments:
        for value in _parts(argument.value):
            yield _Fact(argument.name, _literal_text(value))


def _sizes(outline: Outline, node: Node) -> Iterator[_Fact]:
    """The arguments of an op, numbers one by one, and every size of its tensors."""
    for argument in node.arguments:
        for value in _parts(argument.value):
            for part in value if isinstance(value, tuple) else (value,):
                number = part if type(part) is int else str(part)
                yield _Fact(argument.name.replace("_", " "), number)
    yield from _held_sizes(outline, node)
    for number, spec in enumerate(node.outputs):
        for size in spec.shape or ():
            yield _Fact("size", size, _ACTIVATION, f"{node.name}:{number}")


def _held_sizes(outline: Outline, node: Node) -> Iterator[_Fact]:
    """Every size of the parameters, buffers and constants that an op reads."""
    word = "channels" if OpFact.CHANNELS in facts_of(node.target) else "features"
    words = ("vocabulary", "width") if torch_name(node.target) == "embedding" else (word, word)
    for ref in node.inputs:
        if outline.graph.by_name[ref.node].kind in HELD_KINDS:
            for place, size in enumerate(outline.graph.spec(ref).shape or ()):
                name = words[place] if place < 2 else "kernel size"
                yield _Fact(name, size, 0 if place == 0 else 2, ref.node)


def _parts(value: Value) -> Iterator[Value]:
    """The literals in an argument; a tuple without tensors is one."""
    if isinstance(value, Ref):
        return
    if not any(True for _ in refs(value)):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, SliceValue):
        for part in (value.start, value.stop, value.step):
            yield from _parts(part)
    elif isinstance(value, Items):
        for _, item in value.items:
            yield from _parts(item)


def _literal_text(value: Value) -> str:
    """One text for ``2`` and ``(2, 2)``: they mean the same to the ops that take both."""
    if isinstance(value, tuple) and value and all(item == value[0] for item in value):
        return _literal_text(value[0])
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal_text, value))})"
    if isinstance(value, SliceValue):
        ends = (value.start, value.stop, *(() if value.step is None else (value.step,)))
        return ":".join("" if end is None else _literal_text(end) for end in ends)
    return str(value)
