"""What flows in a graph: tensors by their description, references to them, and arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

# Bytes an element takes, by the name torch prints for the dtype (without "torch.").
_ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "complex32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is kept of a tensor: everything but its values.

    Attributes:
        shape: Sizes of the dimensions; ``None`` where the tensor has no one shape (nested).
        dtype: torch's name without the prefix, for example ``"float32"``.
        device: For example ``"cpu"`` or ``"cuda:0"``.
        requires_grad: Whether gradients flow to it.
        layout: torch's name without the prefix: ``"strided"``, ``"sparse_coo"``, ...
    """

    shape: tuple[int, ...] | None
    dtype: str
    device: str = "cpu"
    requires_grad: bool = False
    layout: str = "strided"

    @property
    def numel(self) -> int:
        """Number of elements; 0 where the shape is unknown."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of a dense tensor of this shape and dtype."""
        return self.numel * item_bytes(self.dtype)


def item_bytes(dtype: str) -> int:
    """Bytes of one element of ``dtype``; 1 for the 8-bit floats and quantised types."""
    return _ITEM_BYTES.get(dtype, 4 if dtype == "qint32" else 1)


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor in the graph: output number ``index`` of the node called ``node``.

    Attributes:
        node: The name of the node that made it.
        index: Which of its outputs it is.
        shape_only: Of an argument: whether the op asks only for the tensor's shape, dtype and
            device, so that no value flows along this edge (``zeros_like(x)``). It says something
            of the edge, not of the tensor: references to one tensor are equal either way.
    """

    node: str
    index: int = 0
    shape_only: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class PythonText:
    """An argument that JSON has no type for, as its Python text (``torch.float32``, ``nan``)."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class SliceValue:
    """A ``slice`` among the arguments of an indexing op; its parts may be tensors."""

    start: Value = None
    stop: Value = None
    step: Value = None


# What an argument can be. Lists are kept as tuples; dictionaries as `Items`.
Value: TypeAlias = (
    "bool | int | float | str | Ref | PythonText | SliceValue | tuple[Value, ...] | Items | None"
)


@dataclass(frozen=True, slots=True)
class Items:
    """A dictionary among the arguments, in its own order."""

    items: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an op, by the name its function gives it (``args`` for varargs)."""

    name: str
    value: Value


def refs(value: Value) -> Iterator[Ref]:
    """Every tensor inside an argument, in order."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            if type(item) is Ref:  # told first: there are lists of thousands
                yield item
            else:
                yield from refs(item)
    elif isinstance(value, SliceValue):
        for part in (value.start, value.stop, value.step):
            yield from refs(part)
    elif isinstance(value, Items):
        for _, item in value.items:
            yield from refs(item)
