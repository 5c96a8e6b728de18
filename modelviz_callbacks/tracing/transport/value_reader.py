"""Reads what ``value_rows`` wrote, and refuses anything else.

Nothing here imports, calls or looks up what a row names, but for dtypes, classes and functions in
fixed tables and in tables of modules that are loaded already.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.tracing.capture.call_site import CodeLines
from modelviz_callbacks.tracing.capture.earlier_arrays import WasThere
from modelviz_callbacks.tracing.capture.functorch_levels import Layer
from modelviz_callbacks.tracing.capture.pytree import Foreign, Leaf, TreeSpec
from modelviz_callbacks.tracing.capture.tape import Facts, FunctionCall, Origin, TensorRecord
from modelviz_callbacks.tracing.transport.function_names import function_of
from modelviz_callbacks.tracing.transport.module_stubs import Stubs, dead, tensor_of
from modelviz_callbacks.tracing.transport.value_rows import SHARED

# State or a constant larger than this gets no memory instead of zeros.
MOST_ZEROS_BYTES = 8 * 2**30

_NAMED: dict[type[Any], dict[str, Any]] = {
    kind: {str(value): value for value in vars(torch).values() if isinstance(value, kind)}
    for kind in (torch.dtype, torch.layout, torch.memory_format)
}

# Classes of Python that a value may name.
_PYTHON_CLASSES = {
    kind.__qualname__: kind
    for kind in (
        *(bool, bytes, complex, dict, float, frozenset, int, list, object, range, set, slice),
        *(str, tuple, type, type(None), type(Ellipsis)),
    )
}

Row = list[Any]
Columns = list[list[int]]
Tables = dict[str, Any]


class ValueReader:
    """Reads values that name the rows of some tables.

    Attributes:
        records: The records, in the order of their table.
    """

    def __init__(self, tables: Tables, blobs: list[memoryview]) -> None:
        """Reads the tables that name no other.

        Args:
            tables: Rows by the name of their table.
            blobs: The raw values.

        Raises:
            ValueError: A row is none. A `KeyError`, `IndexError`, `TypeError`, `RuntimeError` or
                `OverflowError` says the same, here and in all that this class does.
        """
        self._tables = tables
        self._blobs = blobs
        self._stubs = Stubs([], [], [])
        self.facts = [_facts(row) for row in tables["facts"]]
        self.records: list[TensorRecord] = []
        self.functions = [function_of(row) for row in tables["functions"]]
        self.codes = [_code(row) for row in tables["codes"]]
        self.calls: list[FunctionCall] = []
        for row in tables["calls"]:
            self.calls.append(_call(row, self.calls))
        self.layers = [_layer(row) for row in tables["layers"]]
        self.signatures = [signature_of(rows) for rows in tables["signatures"]]
        self._tensors: dict[int, torch.Tensor] = {}
        self._values: list[Any] = []
        self._readers = self._readers_by_tag()

    def _readers_by_tag(self) -> dict[str, Callable[[Row], Any]]:
        return {
            "i": lambda row: _whole(*row),
            "l": lambda row: [self.value(item) for item in row],
            "t": lambda row: tuple([self.value(item) for item in row]),
            "s": lambda row: {self.value(item) for item in row},
            "fs": lambda row: frozenset([self.value(item) for item in row]),
            "d": self._dict,
            "sl": lambda row: slice(*[self.value(item) for item in row]),
            "r": lambda row: range(*map(integer, row)),
            "c": lambda row: complex(*map(_real, row)),
            "b": lambda row: text(*row).encode("latin-1"),
            "e": lambda _: ...,
            "sz": lambda row: torch.Size([integer(self.value(size)) for size in row]),
            "dt": lambda row: dtype_of(*row),
            "dv": lambda row: torch.device(text(*row)),
            "ly": lambda row: layout_of(*row),
            "mf": lambda row: _NAMED[torch.memory_format][text(*row)],
            "ge": self._generator,
            "tr": self._tree,
            "lf": lambda row: Leaf(self.value(*row)),
            "wa": lambda row: WasThere(self.value(*row)),
            "fo": lambda row: Foreign(text(*row)),
            "te": lambda row: self._tensor(*row),
            "st": lambda row: at(self._stubs.tensors, *row),
            "mo": lambda row: at(self._stubs.modules, *row),
            "la": lambda row: at(self.layers, *row),
            "fu": lambda row: at(self.functions, *row),
            "ty": lambda row: _class(row[0]),
            "ar": self._array,
            "nu": lambda row: self._array(row)[()],
        }

    def read_records(self, columns: Columns, stubs: Stubs) -> None:
        """Reads the records, the origins of tensors, and the values.

        Args:
            columns: As `ValueRows.record_columns` gives them.
            stubs: The modules and the state.
        """
        self._stubs = stubs
        layouts = {place: layout_of(layout) for place, layout in self._tables["layouts"]}
        *known, origin_numbers = columns
        for facts, created_at, storage, previous, number in zip(*known, strict=True):
            # Only one before it: a chain of versions has an end.
            before = None if previous == -1 else at(self.records, previous)
            record = TensorRecord.restored(
                dead if number == -1 else stubs.reference(index_in(stubs.tensors, number)),
                created_at,
                at(self.facts, facts),
                storage,
                layouts.get(len(self.records), torch.strided),
                before,
            )
            self.records.append(record)
        origins = [self._origin(row) for row in self._tables["origins"]]
        for record, source in zip(self.records, origin_numbers, strict=True):
            record.origin = None if source == -1 else at(origins, source)
        self._values = [self.value(row) for row in self._tables["values"]]

    def of_number(self, number: int) -> Any:
        """The value of a number: a record, or below 0 a row of the values."""
        if number >= 0:
            return at(self.records, number)
        return at(self._values, -1 - number)

    def record(self, number: Any) -> TensorRecord:
        """The record of a number."""
        return self.records[index_in(self.records, number)]

    def value(self, row: Any) -> Any:
        """One value."""
        if type(row) is list:
            return self._readers[row[0]](row[1:])
        if type(row) is int:
            return at(self.records, row)
        if isinstance(row, dict):
            raise ValueError("a value is no table")
        return row

    def _origin(self, row: Row) -> Origin:
        value, flags, sources, alias, made_by = row
        origin = Origin()
        kept = self.value(value)
        if kept is not None and not isinstance(kept, torch.Tensor):
            raise ValueError("what an origin keeps is no tensor")
        written, was_lazy, passes, gathered, is_leaf = map(truth, flags)
        origin.value, origin.written, origin.was_lazy = kept, written, was_lazy
        origin.passes, origin.gathered, origin.is_leaf = passes, gathered, is_leaf
        origin.sources = tuple([self.record(source) for source in sources])
        origin.alias_of = None if alias == -1 else self.record(alias)
        origin.made_by = text(made_by)
        return origin

    def blob(self, number: Any) -> memoryview | None:
        """Raw values; ``None`` for the number -1."""
        return None if number == -1 else at(self._blobs, number)

    def _tensor(self, number: Any) -> torch.Tensor:
        if number not in self._tensors:
            dtype, sizes, blob = at(self._tables["tensors"], number)
            self._tensors[number] = made_tensor(self.blob(blob), _sizes(sizes), dtype_of(dtype))
        return self._tensors[number]

    def _dict(self, row: Row) -> dict[Any, Any]:
        parts = [self.value(part) for part in row]
        return dict(zip(parts[::2], parts[1::2], strict=True))

    def _tree(self, row: Row) -> TreeSpec:
        named, steps, *children = row
        kind = object if named is None else _class(named)
        if len(steps) != len(children):
            raise ValueError("a container has a step for each child")
        build = kind if kind in (list, tuple) else _cannot_build
        return TreeSpec(kind, tuple(map(text, steps)), [self.value(one) for one in children], build)

    def _array(self, row: Row) -> Any:
        import numpy

        kind, sizes, blob = row
        dtype = numpy.dtype(text(kind))
        if dtype.kind not in "biufc" or dtype.fields is not None:
            raise ValueError("an array of numpy holds numbers")
        values = self.blob(blob)
        return numpy.frombuffer(bytearray(values or b""), dtype).reshape(_sizes(sizes))

    def _generator(self, row: Row) -> torch.Generator:
        made = torch.Generator()
        state = self.blob(*row)
        size = 0 if state is None else len(state)
        made.set_state(tensor_of(state, (size,), torch.uint8))
        return made


def _cannot_build(_: list[Any]) -> Any:
    raise TypeError("the class of this container is known in the training process only")


def at(table: list[Any], number: Any) -> Any:
    """A row of a table.

    Raises:
        ValueError: There is no such row.
    """
    return table[index_in(table, number)]


def index_in(table: list[Any], number: Any) -> int:
    """A number that is the place of a row.

    Raises:
        ValueError: There is no such row.
    """
    if type(number) is not int or not 0 <= number < len(table):
        raise ValueError(f"there is no row {number!r} in a table of {len(table)}")
    return number


def integer(value: Any) -> int:
    """A whole number that 64 bits hold.

    Raises:
        ValueError: It is none.
    """
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def column_of(numbers: memoryview) -> list[int]:
    """Whole numbers of 64 bits.

    Raises:
        TypeError: They are cut off.
    """
    return numbers.cast("q").tolist()


def truth(value: Any) -> bool:
    """``True`` or ``False``.

    Raises:
        ValueError: It is neither.
    """
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def flag(number: int) -> bool:
    """``True`` or ``False`` in a column.

    Raises:
        ValueError: It is neither.
    """
    if number not in (0, 1):
        raise ValueError(f"{number} is neither true nor false")
    return number == 1


def text(value: Any) -> str:
    """Text.

    Raises:
        ValueError: It is none.
    """
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def _real(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _sizes(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = tuple([integer(size) for size in value])
    if any(size < 0 for size in sizes):
        raise ValueError("a size is below 0")
    return sizes


def dtype_of(name: Any) -> torch.dtype:
    """A dtype of torch by its name.

    Raises:
        KeyError: There is none of this name.
    """
    found: torch.dtype = _NAMED[torch.dtype][text(name)]
    return found


def layout_of(name: Any) -> torch.layout:
    """A layout of torch by its name; ``None`` is that of most.

    Raises:
        KeyError: There is none of this name.
    """
    found: torch.layout = _NAMED[torch.layout][text("torch.strided" if name is None else name)]
    return found


def _facts(row: Row) -> Facts:
    sizes, dtype, device, requires_grad, stride, offset = row
    strides = None if stride is None else tuple([integer(step) for step in stride])
    where = torch.device(text(device))
    known = dtype_of(dtype)
    return _sizes(sizes), known, where, truth(requires_grad), strides, integer(offset)


def _code(row: Row) -> CodeLines:
    filename, name, first_line, lines = row
    found = []
    for start, end, line in lines:
        found.append((integer(start), integer(end), None if line is None else integer(line)))
    return CodeLines(text(filename), text(name), integer(first_line), found)


def _call(row: Row, before: list[FunctionCall]) -> FunctionCall:
    name, qualified_name, is_own, around = row
    parent = None if around == -1 else at(before, around)
    return FunctionCall(text(name), text(qualified_name), truth(is_own), parent)


def _layer(row: Row) -> Layer:
    kind, level, batch_size, randomness, grad = row
    return Layer(text(kind), integer(level), integer(batch_size), text(randomness), truth(grad))


def _class(row: Row) -> type[Any]:
    """A class that means the same in any process; ``object`` for one that is not loaded here."""
    home, qualname = map(text, row)
    root = home.partition(".")[0]
    if root not in SHARED:
        raise ValueError(f"{home} is none of the packages that classes are named from")
    if root == "builtins":
        return _PYTHON_CLASSES.get(qualname, object)
    found: Any = sys.modules.get(home)
    for part in qualname.split("."):
        # What stands in the table: no `__getattr__` of a module or class is asked.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else object


def made_tensor(
    values: memoryview | None, sizes: tuple[int, ...] | None, dtype: torch.dtype
) -> torch.Tensor:
    """A tensor of raw values; without them one of zeros.

    Raises:
        ValueError: The values are not as many as the sizes say.
    """
    size = math.prod(sizes or ()) * dtype.itemsize
    if values is not None and len(values) != size:
        raise ValueError(f"{len(values)} bytes are no tensor of {size}")
    return tensor_of(values, sizes, dtype, "cpu" if size <= MOST_ZEROS_BYTES else "meta")


def signature_of(rows: Any) -> inspect.Signature:
    """A signature.

    Args:
        rows: From ``value_rows.parameter_rows``.

    Raises:
        ValueError: It is none.
    """
    kinds = {int(kind): kind for kind in inspect._ParameterKind}
    empty = inspect.Parameter.empty
    found = []
    for name, kind, has_default in rows:
        default = None if truth(has_default) else empty
        found.append(inspect.Parameter(text(name), kinds[integer(kind)], default=default))
    return inspect.Signature(found)


def as_parameter(tensor: torch.Tensor, requires_grad: bool) -> nn.Parameter:
    """A tensor as a parameter, which needs gradients only where its dtype can have them."""
    can_train = tensor.dtype.is_floating_point or tensor.dtype.is_complex
    return nn.Parameter(tensor, requires_grad and can_train)
