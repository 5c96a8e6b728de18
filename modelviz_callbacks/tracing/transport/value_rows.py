"""What stands on a tape, as rows of JSON.

``None``, truth values, fractions and text are themselves. A whole number is that of a record: there
are more of these than of anything else. What else there is is a list that begins as `TAGS` says.
What may stand in several places (a record, a tensor, a layer, a function) is a row of a table of
its own and named by its number. What there is thousands of (arguments, records, modules) is columns
of whole numbers, in which a number below 0 is that of a row among the values.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, Final

import torch
from torch import nn

from modelviz_callbacks.tracing.capture.earlier_arrays import WasThere
from modelviz_callbacks.tracing.capture.functorch_levels import Layer
from modelviz_callbacks.tracing.capture.pytree import Foreign, Leaf, TreeSpec, python_text
from modelviz_callbacks.tracing.capture.recording import forward_signature
from modelviz_callbacks.tracing.capture.shared_memory import elements_of
from modelviz_callbacks.tracing.capture.tape import FunctionCall, Origin, TensorRecord, record_of
from modelviz_callbacks.tracing.capture.torch_internals import (
    buffers_of,
    children_of,
    functorch,
    is_compiled,
    parameters_of,
    storage_address,
)
from modelviz_callbacks.tracing.capture.wrappers import class_of, has_forward
from modelviz_callbacks.tracing.transport.function_names import name_of
from modelviz_callbacks.tracing.transport.module_stubs import Stubs, bytes_of
from modelviz_callbacks.tracing.transport.numbering import FactNumbers, Numbers, RecordNumbers

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
    "wa": "WasThere",
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
# What is equal to another one of its class stands among the values once.
_COMPARED = frozenset((type(None), bool, int, str, torch.dtype, torch.device))
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


# Of a tuple of these it is known what it is equal to.
_ONLY_INTEGERS = {int}


class ValueRows:
    """Writes values as rows, and the tables they name.

    Attributes:
        tables: Rows by the name of their table.
        blobs: The raw values of tensors and arrays.
        records: The number of each record.
        functions: The number of each function.
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
        self.blobs: list[bytes | bytearray] = []
        self.tables: dict[str, list[Any]] = {
            name: []
            for name in (
                *("values", "layouts", "facts", "origins", "layers", "tensors", "functions"),
                *("codes", "calls", "signatures", "classes", "labels"),
            )
        }
        self.records = RecordNumbers()
        self.functions = Numbers[Any](self.tables["functions"], name_of)
        self._facts = FactNumbers(self.tables["facts"])
        self._numbers: dict[int, int] = {}  # of what is in the other tables, by its ``id``
        # Of the last record of each parameter or buffer, by the number of that.
        self._last_facts: dict[int, tuple[int, TensorRecord]] = {}
        self._alive: list[Any] = []
        self._known: dict[tuple[type[Any], Any], int] = {}
        self.number(None)  # is -1

    def number(self, value: Any) -> int:
        """The number of a value: of its record, or below 0 of its row among the values."""
        kind = value.__class__
        if kind is TensorRecord:
            return self.records[value]
        if kind is float:  # 0.0 and -0.0 are equal
            key = kind, repr(value)
        elif kind in _COMPARED or (kind is tuple and {*map(type, value)} == _ONLY_INTEGERS):
            key = kind, value
        else:
            return self._add_value(value)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._add_value(value)
        return known

    def _add_value(self, value: Any) -> int:
        row, rows = self.value(value), self.tables["values"]
        rows.append(row)
        return -len(rows)

    def value(self, value: Any) -> Any:
        """One value."""
        kind = value.__class__
        if kind is TensorRecord:
            return self.records[value]
        if kind in _ITSELF:
            return value
        if kind is int:
            return ["i", value]
        if kind is tuple or kind is list:
            return ["t" if kind is tuple else "l", *[self.value(item) for item in value]]
        if kind is dict:
            return ["d", *[self.value(part) for item in value.items() for part in item]]
        if kind is slice:
            return ["sl", *[self.value(part) for part in (value.start, value.stop, value.step)]]
        if kind is Leaf or kind is WasThere:
            return ["lf" if kind is Leaf else "wa", self.value(value.value)]
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
            return ["fu", self.functions[value]]
        if isinstance(value, torch.Generator) and value.device.type == "cpu":
            return ["ge", self._blob(elements_of(value.get_state()))]
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

    def record_columns(self) -> tuple[list[int], ...]:
        """Six whole numbers of each record, column by column, when all else is written.

        Returns:
            Number of its facts, when it was made, storage, number of the version before, of the
            parameter or buffer that it is of, of its origin; -1: there is none.
        """
        states, origins = self._states_and_origins()
        rows, numbers, layouts = self.records.rows, self.records, self.tables["layouts"]
        for place, record in enumerate(rows):
            if record.layout is not torch.strided:
                layouts.append([place, str(record.layout)])
        facts = self._facts.of(rows)
        self._last_facts = dict(zip(states, zip(facts, rows, strict=True), strict=True))
        return (
            facts,
            [record.created_at for record in rows],
            [record.storage for record in rows],
            [-1 if one.previous is None else numbers[one.previous] for one in rows],
            states,
            origins,
        )

    def _states_and_origins(self) -> tuple[list[int], list[int]]:
        """Two columns of the records, and a row of each origin, which may lead to more records."""
        known, numbers = self._stubs.tensor_numbers, Numbers[Origin | None]([], lambda one: one)
        rows, written = self.records.rows, self.tables["origins"]
        states, origins = list[int](), list[int]()
        while len(origins) < len(rows):
            new = rows[len(origins) :]
            found = [known.get(id(record.ref()), -1) for record in new]
            states += found
            origins += [-1 if one.origin is None else numbers[one.origin] for one in new]
            made = numbers.rows[len(written) :]
            if not self._with_values and any(origin.written for origin in made):
                copies = zip(new, found, strict=True)
                kept = [one.origin for one, state in copies if state >= 0 and one.origin]
                self._without_values.update(id(one.value) for one in kept if one.written)
            written += [self._origin_row(origin) for origin in made]
        return states, origins

    def _origin_row(self, origin: Origin) -> Row:
        alias = -1 if origin.alias_of is None else self.records[origin.alias_of]
        flags = [origin.written, origin.was_lazy, origin.passes, origin.gathered, origin.is_leaf]
        sources = [self.records[source] for source in origin.sources]
        return [self.value(origin.value), flags, sources, alias, origin.made_by]

    def layer(self, layer: Layer) -> int:
        """The number of a layer."""
        return self._row("layers", layer, _layer_row)

    def codes(self, codes: Iterable[CodeType | None]) -> list[int]:
        """The numbers of code objects, -1 for none; asking one for its hash takes long."""
        known = {id(code): code for code in codes}
        numbers = {
            place: -1 if code is None else self._row("codes", code, _code_row)
            for place, code in known.items()
        }
        return [numbers[id(code)] for code in codes]

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
            self._alive.append(value)  # or another one might get its ``id``
            rows.append(write(value))
        return number

    def _tensor_row(self, tensor: torch.Tensor) -> Row:
        leaves_values = not self._with_values and id(tensor) in self._without_values
        if not leaves_values and _is_small(tensor):
            return [str(tensor.dtype), list(tensor.shape), self._blob(bytes_of(tensor))]
        record = record_of(tensor, 0)
        return [str(record.dtype), record.sizes, -1]

    def _blob(self, values: bytes | bytearray | None) -> int:
        if values is None:
            return -1
        self.blobs.append(values)
        return len(self.blobs) - 1

    def module_numbers(self) -> list[int]:
        """Of each of the stubs' modules a few whole numbers, one module after the other.

        Returns:
            Its class, whether it is in training mode, how many children, parameters and buffers
            it has; and two of each of these, its label and the number of what it stands for.
        """
        found: list[int] = []
        label = Numbers[str](self.tables["labels"], str)
        modules, tensors = self._stubs.module_numbers, self._stubs.tensor_numbers
        parts = (children_of, modules), (parameters_of, tensors), (buffers_of, tensors)
        classes: dict[type[nn.Module], int] = {}
        for module in self._stubs.modules:
            number = classes.get(type(module))
            if number is None or "forward" in vars(module):
                number = self._class_number(module, classes)
            found += (number, module.training, 0, 0, 0)
            place = len(found) - len(parts)
            for table_of, numbers in parts:
                table = table_of(module)
                if table:
                    before = len(found)
                    for name, part in table.items():
                        if part is not None:
                            found += (label[name], numbers[id(part)])
                    found[place] = (len(found) - before) // 2
                place += 1
        return found

    def _class_number(self, module: nn.Module, classes: dict[type[nn.Module], int]) -> int:
        """What the class of a module tells of it; written once for each, unless it is its own."""
        number = len(self.tables["classes"])
        self.tables["classes"].append(self._class_row(module))
        if "forward" not in vars(module) and not is_compiled(module):
            classes[type(module)] = number
        return number

    def _class_row(self, module: nn.Module) -> Row:
        cls = class_of(module)
        signature = self.signature(forward_signature(module)) if has_forward(module) else -1
        return [cls.__module__, cls.__qualname__, cls.__name__, signature]

    def signature(self, signature: inspect.Signature) -> int:
        """The number of a signature."""
        return self._row("signatures", signature, parameter_rows)

    def state_columns(self) -> tuple[list[int], ...]:
        """Three whole numbers of each of the stubs' parameters and buffers, column by column.

        Returns:
            Number of its facts, whether it is a parameter, and number of its values or -1, where
            values go along at all.
        """
        tensors, layouts = self._stubs.tensors, self.tables["layouts"]
        facts = []
        for place, tensor in enumerate(tensors):
            number, record = self._last_facts.get(place, (-1, None))
            if record is None or not _is_as_recorded(tensor, record):
                record = record_of(tensor, 0)
                number = self._facts.of([record])[0]
            facts.append(number)
            if record.layout is not torch.strided:
                layouts.append([-1 - place, str(record.layout)])
        values = map(bytes_of, tensors) if self._with_values else ()
        return (
            facts,
            [_is_parameter(tensor) for tensor in tensors],
            [self._blob(one) for one in values],
        )


def _is_as_recorded(tensor: torch.Tensor, record: TensorRecord) -> bool:
    """Whether a parameter or buffer is still as its last record has it, to spare a new one."""
    if record.storage == 0 or tensor.requires_grad is not record.facts[3]:
        return False
    return tensor.shape == record.facts[0] and storage_address(tensor) == record.storage


def _is_parameter(tensor: torch.Tensor) -> bool:
    return type(tensor) is not torch.Tensor and isinstance(tensor, nn.Parameter)


def parameter_rows(signature: inspect.Signature) -> list[Row]:
    """The parameters of a signature: name, kind, whether it has a default."""
    return [
        [name, int(parameter.kind), parameter.default is not parameter.empty]
        for name, parameter in signature.parameters.items()
    ]


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
    return record_of(tensor, 0).stride is None
