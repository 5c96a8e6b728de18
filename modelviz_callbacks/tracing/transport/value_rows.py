"""What stands on a tape, as rows of JSON.

``None``, truth values, fractions and text are themselves. A whole number is that of a record: there
are more of these than of anything else. What else there is is a list that begins as `TAGS` says.
What may stand in several places (a record, a tensor, a layer, a function) is a row of a table of
its own and named by its number.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

import torch
from torch import nn

from modelviz_callbacks.tracing.capture.functorch_levels import Layer
from modelviz_callbacks.tracing.capture.pytree import Foreign, Leaf, TreeSpec, python_text
from modelviz_callbacks.tracing.capture.tape import Facts, FunctionCall, Origin, TensorRecord
from modelviz_callbacks.tracing.capture.torch_internals import functorch
from modelviz_callbacks.tracing.transport.function_names import name_of
from modelviz_callbacks.tracing.transport.module_stubs import Stubs, bytes_of

TAGS: Final = {
    "i": "int",
    "l": "list",
    "t": "tuple",
    "d": "dict: keys and values in turn",
    "s": "set",
    "fs": "frozenset",
    "sl": "slice",
    "r": "range",
    "c": "complex",
    "b": "bytes, a character each",
    "e": "Ellipsis",
    "sz": "torch.Size",
    "dt": "torch.dtype",
    "dv": "torch.device",
    "ly": "torch.layout",
    "mf": "torch.memory_format",
    "ge": "torch.Generator of the processor, with its state",
    "tr": "TreeSpec: class, steps, children",
    "lf": "Leaf",
    "fo": "Foreign",
    "te": "a tensor",
    "st": "a parameter or buffer",
    "mo": "a module",
    "la": "a layer of transforms",
    "fu": "a function",
    "ty": "a class",
    "ar": "an array of numpy",
    "nu": "a number of numpy",
}

# A constant larger than this goes along without its values: pictures need none.
_MAX_CONSTANT_BYTES = 64 * 1024

# Classes from here mean the same in any process.
SHARED = frozenset(("builtins", "collections", "inspect", "numpy", "torch", "modelviz_callbacks"))

_ITSELF = frozenset((type(None), bool, float, str))
_NAMED = {torch.dtype: "dt", torch.device: "dv", torch.layout: "ly", torch.memory_format: "mf"}
_CONTAINERS: dict[type[Any], str] = {
    list: "l",
    tuple: "t",
    set: "s",
    frozenset: "fs",
    torch.Size: "sz",
}
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_BASES: tuple[Any, ...] = (int, float, complex, str, bytes, list, tuple, set, frozenset, dict)

Row = list[Any]


class ValueRows:
    """Writes values as rows, and the tables they name.

    Attributes:
        tables: Rows by the name of their table.
        blobs: The raw values of tensors and arrays.
        integers: Four of each record: facts, when it was made, storage, the version before.
        records: The number of each record, by its ``id``.
        function_numbers: The number of each function.
    """

    def __init__(self, stubs: Stubs, with_values: bool) -> None:
        """Starts with empty tables.

        Args:
            stubs: The modules and the state, numbered.
            with_values: Whether copies of the state go along with their values.
        """
        self._stubs = stubs
        self._with_values = with_values
        self._without_values: set[int] = set()
        self.blobs: list[bytes] = []
        names = "more facts origins layers tensors functions codes calls signatures"
        self.tables: dict[str, list[Row]] = {name: [] for name in names.split()}
        self.integers: list[int] = []
        self._tensor_numbers = stubs.tensor_numbers
        self.records: dict[int, int] = {}
        self._facts: dict[Facts, int] = {}
        self._numbers: dict[int, int] = {}  # of what is in the other tables, by its ``id``
        self.function_numbers: dict[Any, int] = {}
        self._origins: list[Origin] = []

    def value(self, value: Any) -> Any:
        """One value."""
        kind = value.__class__
        if kind is TensorRecord:
            number = self.records.get(id(value))
            return self.record(value) if number is None else number
        if kind in _ITSELF:
            return value
        if kind is int:
            return ["i", value]
        if kind is tuple or kind is list:
            known, row = self.records, list[Any](("t" if kind is tuple else "l",))
            for item in value:
                number = known.get(id(item))  # of no other object: all of them are alive
                row.append(self.value(item) if number is None else number)
            return row
        if kind is dict:
            return ["d", *[self.value(part) for item in value.items() for part in item]]
        if kind is slice:
            return ["sl", *[self.value(part) for part in (value.start, value.stop, value.step)]]
        if kind is Leaf:
            return ["lf", self.value(value.value)]
        if kind is TreeSpec:
            children = [self.value(child) for child in value.children]
            return ["tr", self._class(value.kind), list(value.steps), *children]
        tag = _NAMED.get(kind)
        if tag is not None:
            return [tag, str(value)]
        return self._rare(value, kind)

    def _rare(self, value: Any, kind: type[Any]) -> Any:
        if kind in _CONTAINERS and not (kind is torch.Size and _has_symbols(value)):
            return [_CONTAINERS[kind], *[self.value(item) for item in value]]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind is bytes:
            return ["b", value.decode("latin-1")]
        if kind is range:
            return ["r", value.start, value.stop, value.step]
        if value is Ellipsis:
            return ["e"]
        if kind is Foreign or isinstance(value, _SYMBOLS):
            return ["fo", value.text if kind is Foreign else str(value)]
        if kind is Layer:
            return ["la", self.layer(value)]
        if isinstance(value, torch.Tensor):
            number = self._stubs.tensor_number(value)
            return ["te", self._tensor(value)] if number is None else ["st", number]
        if isinstance(value, nn.Module):
            number = self._stubs.module_number(value)
            return ["fo", python_text(value)] if number is None else ["mo", number]
        return self._of_python(value)

    def _of_python(self, value: Any) -> Any:
        """Classes, functions and whatever else there is."""
        if isinstance(value, type):
            known = self._class(value)
            return ["fo", python_text(value)] if known is None else ["ty", known]
        for base in _BASES:
            if isinstance(value, base):  # enumerations, named tuples, other subclasses
                return self.value(base(value))
        if callable(value) and hasattr(value, "__name__"):
            return ["fu", self.function(value)]
        if isinstance(value, torch.Generator) and value.device.type == "cpu":
            return ["ge", self._blob(value.get_state().numpy().tobytes())]
        return self._of_numpy(value) or ["fo", python_text(value)]

    def _of_numpy(self, value: Any) -> Row | None:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
            return None
        if type(value).__module__ != "numpy" or value.dtype.kind not in "biufc":
            return None
        if value.nbytes > _MAX_CONSTANT_BYTES:
            return None
        blob = self._blob(value.tobytes())
        tag = "ar" if isinstance(value, numpy.ndarray) else "nu"
        return [tag, value.dtype.str, list(value.shape), blob]

    def _class(self, kind: type[Any]) -> Row | None:
        """A class that means the same in any process; ``None`` for any other."""
        shared = kind.__module__.partition(".")[0] in SHARED
        return [kind.__module__, kind.__qualname__] if shared else None

    # --- what may stand in several places

    def record(self, record: TensorRecord) -> int:
        """The number of a record."""
        known = self.records.get(id(record))
        if known is not None:
            return known
        previous = record.previous
        if previous is None:
            return self._add_record(record, -1)
        new = [record]
        while previous is not None and id(previous) not in self.records:
            new.append(previous)
            previous = previous.previous
        before = -1 if previous is None else self.records[id(previous)]
        for one in reversed(new):
            before = self._add_record(one, before)
        return before

    def _add_record(self, record: TensorRecord, previous: int) -> int:
        number = self._tensor_numbers.get(id(record.ref()), -1)
        origin, layout = record.origin, record.layout
        place = self.records[id(record)] = len(self.records)
        try:
            facts = self._facts[record.facts]
        except (KeyError, TypeError, RuntimeError):
            facts = self.facts(record)
        self.integers += (facts, record.created_at, record.storage, previous)
        if number >= 0 or origin is not None or layout is not torch.strided:
            source = -1 if origin is None else self._origin(origin)
            if origin is not None and origin.written and number >= 0 and not self._with_values:
                self._without_values.add(id(origin.value))  # a copy of state
            self.tables["more"].append([place, number, source, _layout_name(layout)])
        return place

    def facts(self, record: TensorRecord) -> int:
        """The number of a record's plain facts."""
        try:
            known = self._facts.get(record.facts)
        except (TypeError, RuntimeError):  # a size that is a symbol
            return self._add_facts(record)
        if known is None:
            known = self._facts[record.facts] = self._add_facts(record)
        return known

    def _add_facts(self, record: TensorRecord) -> int:
        sizes, dtype, device, requires_grad, stride, offset = record.plain_facts()
        rows = self.tables["facts"]
        rows.append([sizes, str(dtype), str(device), requires_grad, stride, offset])
        return len(rows) - 1

    def _origin(self, origin: Origin) -> int:
        number = self._numbers.get(id(origin))
        if number is None:
            number = self._numbers[id(origin)] = len(self._origins)
            self._origins.append(origin)
        return number

    def finish_origins(self) -> None:
        """Writes the origins, after the records: they may lead to further records."""
        rows = self.tables["origins"]
        while len(rows) < len(self._origins):
            origin = self._origins[len(rows)]
            alias = -1 if origin.alias_of is None else self.record(origin.alias_of)
            flags = [origin.written, origin.was_lazy, origin.passes, origin.gathered]
            sources = [self.record(source) for source in origin.sources]
            rows.append([self.value(origin.value), flags, sources, alias, origin.made_by])

    def layer(self, layer: Layer) -> int:
        """The number of a layer."""
        return self._row("layers", layer, _layer_row)

    def function(self, func: Any) -> int:
        """The number of a function."""
        known = self.function_numbers.get(func)
        if known is None:
            rows = self.tables["functions"]
            known = self.function_numbers[func] = len(rows)
            rows.append(name_of(func))
        return known

    def code(self, code: CodeType) -> int:
        """The number of a code object."""
        return self._row("codes", code, _code_row)

    def call(self, call: FunctionCall) -> int:
        """The number of a function's call; those around it come before it."""
        around = -1 if call.parent is None else self.call(call.parent)
        names = call.name, call.qualified_name
        return self._row("calls", call, lambda _: [*names, call.is_own, around])

    def _tensor(self, tensor: torch.Tensor) -> int:
        return self._row("tensors", tensor, self._tensor_row)

    def _row(self, table: str, value: Any, write: Callable[[Any], Row]) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            rows = self.tables[table]
            number = self._numbers[id(value)] = len(rows)
            rows.append(write(value))
        return number

    def _tensor_row(self, tensor: torch.Tensor) -> Row:
        leaves_values = not self._with_values and id(tensor) in self._without_values
        if not leaves_values and _is_small(tensor):
            return [str(tensor.dtype), list(tensor.shape), self._blob(bytes_of(tensor))]
        record = TensorRecord(tensor, 0)
        return [str(record.dtype), record.sizes, -1]

    def _blob(self, values: bytes | None) -> int:
        if values is None:
            return -1
        self.blobs.append(values)
        return len(self.blobs) - 1

    def module_rows(self) -> list[Row]:
        """The rows of the stubs' modules."""
        return [
            [*names, -1 if signature is None else self.signature(signature), *rest]
            for *names, signature, rest in self._stubs.module_rows()
        ]

    def signature(self, signature: inspect.Signature) -> int:
        """The number of a signature."""
        return self._row("signatures", signature, parameter_rows)

    def state_rows(self) -> list[Row]:
        """The rows of the stubs' parameters and buffers."""
        rows = []
        for tensor in self._stubs.tensors:
            record = TensorRecord(tensor, 0)
            values = bytes_of(tensor) if self._with_values else None
            is_parameter = type(tensor) is not torch.Tensor and isinstance(tensor, nn.Parameter)
            facts, layout = self.facts(record), _layout_name(record.layout)
            rows.append([facts, layout, is_parameter, self._blob(values)])
        return rows


def parameter_rows(signature: inspect.Signature) -> list[Row]:
    """The parameters of a signature: name, kind, whether it has a default."""
    return [
        [name, int(parameter.kind), parameter.default is not parameter.empty]
        for name, parameter in signature.parameters.items()
    ]


def _layout_name(layout: torch.layout) -> str | None:
    return None if layout is torch.strided else str(layout)


def _layer_row(layer: Layer) -> Row:
    return [layer.kind, layer.level, layer.batch_size, layer.randomness, layer.grad]


def _code_row(code: CodeType) -> Row:
    return [code.co_filename, code.co_name, code.co_firstlineno, list(code.co_lines())]


def _has_symbols(size: torch.Size) -> bool:
    return any(type(one) is not int for one in size)


def _is_small(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not _is_wrapped(tensor)
        and tensor.numel() * tensor.element_size() <= _MAX_CONSTANT_BYTES
    )


def _is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether it is inside a function transform, where its values cannot be read."""
    if functorch is not None:
        return bool(functorch.is_functorch_wrapped_tensor(tensor))
    return TensorRecord(tensor, 0).stride is None
