"""A recording from bytes: every row is looked at, and nothing is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.backward_record import (
    BackwardRecord,
    GradSpec,
    SavedSpec,
)
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.state_names import StateTensor
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    Leave,
    OpEntry,
    RawEntry,
    TensorRecord,
    Within,
)
from modelviz_callbacks.tracing.capture.torch_internals import fill_module
from modelviz_callbacks.tracing.transport.container import split
from modelviz_callbacks.tracing.transport.module_stubs import Stubs, dead, stub_class, tensor_of
from modelviz_callbacks.tracing.transport.pack import COLUMNS, RECORD_COLUMNS
from modelviz_callbacks.tracing.transport.value_reader import (
    MOST_ZEROS_BYTES,
    Row,
    Tables,
    ValueReader,
    as_parameter,
    at,
    column_of,
    dtype_of,
    flag,
    index_in,
    integer,
    layout_of,
    made_tensor,
    text,
    truth,
)

# What reading a row that is none ends with.
_FAULTS = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, RuntimeError, StopIteration, TypeError, ValueError),
)


def unpack(data: bytes) -> Recording:
    """A recording from `pack`.

    Args:
        data: Its result.

    Returns:
        A recording that lowers to the same graph. Its model is a tree of empty modules, its
        parameters have no values unless they were packed, too.

    Raises:
        ValueError: It is something else.
    """
    try:
        return _recording(*split(data))
    except _FAULTS as error:
        raise ValueError(
            f"These bytes are no recording that this version can read ({error!r}). A recording "
            "is read by the installation that packed it."
        ) from error


def _recording(rows: Tables, blobs: list[memoryview]) -> Recording:
    reader = ValueReader(rows, blobs[len(COLUMNS) :])
    found = zip(COLUMNS, map(column_of, blobs), strict=False)
    columns = dict(found)
    stubs = _stubs(rows, columns, reader)
    reader.read_records([columns[name] for name in RECORD_COLUMNS], stubs)
    return Recording(
        at(stubs.modules, 0),
        _tape(rows["ops"], columns, reader, stubs),
        at(reader.signatures, rows["signature"]),
        {text(name): reader.value(walked) for name, walked in rows["inputs"]},
        stubs.state(),
        reader.value(rows["result"]),
        text(rows["error"]),
        is_step=truth(rows["is_step"]),
        grad=truth(rows["grad"]),
        losses=[reader.record(loss) for loss in rows["losses"]],
        remarks=[text(remark) for remark in rows["remarks"]],
        backward=_backward(rows["backward"], columns["backward"]),
        seconds=float(rows["seconds"]),
        fault=text(rows["fault"]),
        lazy=[text(place) for place in rows["lazy"]],
        died=_deaths(columns["died"], reader.records),
    )


def _deaths(
    column: list[int], records: list[TensorRecord]
) -> Callable[[TensorRecord], int | None] | None:
    if not column:
        return None
    found = zip(records, column, strict=True)
    return {record: position for record, position in found if position >= 0}.get


def _tape(
    rare: list[Row], columns: dict[str, list[int]], reader: ValueReader, stubs: Stubs
) -> list[RawEntry]:
    modules = stubs.modules
    named = ("enter_modules", "enter_training")
    enters = (
        (at(modules, module), flag(training))
        for module, training in zip(*[columns[name] for name in named], strict=True)
    )
    made: dict[int, Iterator[RawEntry]] = {
        len(Enter._fields): enters,
        len(Leave._fields): _leaves(columns, reader, modules),
        len(OpEntry._fields): _ops(rare, columns, reader),
    }
    made[len(Within._fields)] = (
        (None if call == -1 else at(reader.calls, call),) for call in columns["within"]
    )
    made[len(OpEntry._fields) - 1] = made[len(OpEntry._fields)]
    tape = [next(made[kind]) for kind in columns["tape"]]
    for kind, rest in made.items():
        if next(rest, None) is not None:
            raise ValueError(f"the tape has too few entries of {kind} fields")
    return tape


def _leaves(
    columns: dict[str, list[int]], reader: ValueReader, modules: list[torch.nn.Module]
) -> Iterator[RawEntry]:
    names = ("modules", "counts", "named", "results", "unseen")
    given = _cut(columns["leave_arguments"], columns["leave_counts"], reader)
    read = reader.of_number
    for args, module, _, named, result, unseen in zip(
        given, *[columns[f"leave_{name}"] for name in names], strict=True
    ):
        kwargs = {} if named == -1 else _named(read(named))
        yield at(modules, module), args, kwargs, read(result), flag(unseen)


def _ops(rare: list[Row], columns: dict[str, list[int]], reader: ValueReader) -> Iterator[RawEntry]:
    names = (
        "functions",
        "results",
        "codes",
        "lasti",
        "plumbing",
        "grad",
        "first_node",
        "last_node",
    )
    more = {index_in(columns["functions"], place): rest for place, *rest in rare}
    given = _cut(columns["arguments"], columns["counts"], reader)
    found = zip(given, *[columns[name] for name in names], strict=True)
    for place, (args, func, result, code, lasti, plumbing, grad, first, last) in enumerate(found):
        kwargs, writes, autocast, layers = _rare_parts(more.get(place), reader)
        entry: RawEntry = (
            at(reader.functions, func),
            args,
            kwargs,
            reader.of_number(result),
            writes,
            None if code == -1 else at(reader.codes, code),
            lasti,
            flag(plumbing),
            flag(grad),
            autocast,
            first,
            last,
        )
        yield entry if layers == () else (*entry, layers)


def _rare_parts(row: Row | None, reader: ValueReader) -> tuple[Any, ...]:
    """Keyword arguments, writes, autocast and layers of an op; ``()``: it ran under none."""
    if row is None:
        return None, (), None, ()
    named, written, autocast, has_layers, layers = row
    kwargs = None if named is None else _named(reader.value(named))
    writes = tuple([reader.record(record) for record in written])
    cast = None if autocast is None else tuple([(text(one), dtype_of(to)) for one, to in autocast])
    above: Any = ()
    if truth(has_layers):
        above = None if layers is None else tuple([at(reader.layers, one) for one in layers])
    return kwargs, writes, cast, above


def _cut(numbers: list[int], counts: list[int], reader: ValueReader) -> Iterator[tuple[Any, ...]]:
    """The positional arguments of one call after the other."""
    end = 0
    for count in counts:
        start, end = end, end + count
        if not 0 <= count <= len(numbers) - start:
            raise ValueError("arguments are cut off")
        yield tuple(map(reader.of_number, numbers[start:end]))
    if end != len(numbers):
        raise ValueError("there are arguments of no call")


def _named(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("keyword arguments are a table")
    return {text(name): one for name, one in value.items()}


# --- the model


def _stubs(rows: Tables, columns: dict[str, list[int]], reader: ValueReader) -> Stubs:
    state = []
    layouts = {-1 - place: layout_of(layout) for place, layout in rows["layouts"]}
    facts_of, parameters = columns["state_facts"], columns["state_parameters"]
    values_of = columns["state_values"] or [-1] * len(facts_of)
    found = zip(facts_of, parameters, values_of, strict=True)
    for place, (facts, is_parameter, blob) in enumerate(found):
        layout = layouts.get(place, torch.strided)
        state.append((at(reader.facts, facts), layout, flag(is_parameter), reader.blob(blob)))
    records = [TensorRecord.restored(dead, 0, row[0], 0, row[1]) for row in state]
    size = sum(math.prod(facts[0] or ()) * facts[1].itemsize for facts, *_ in state)
    device = "cpu" if size <= MOST_ZEROS_BYTES else "meta"
    # Where values were asked for, zeros in place of those that cannot be read would be false.
    without = "meta" if any(values is not None for *_, values in state) else device
    tensors: list[torch.Tensor] = []
    for (shape, dtype, _, requires_grad, *_), _, is_parameter, values in state:
        if values is None:
            made = tensor_of(None, shape, dtype, without)
        else:
            made = made_tensor(values, shape, dtype)
        tensors.append(as_parameter(made, requires_grad) if is_parameter else made)
    modules = _modules(rows, columns["modules"], tensors, reader)
    for number, attributes in rows["attributes"]:
        vars(at(modules, number)).update(_numbers(attributes))
    named = [
        StateTensor(
            text(kind),
            text(name),
            tuple(map(text, aliases)),
            None if packed is None else integer(packed),
        )
        for kind, name, aliases, packed in rows["names"]
    ]
    if len(named) > len(tensors):
        raise ValueError("there are more names than parameters and buffers")
    return Stubs(modules, tensors, named, records)


def _modules(
    rows: Tables, numbers: list[int], tensors: list[torch.Tensor], reader: ValueReader
) -> list[torch.nn.Module]:
    """Every module, with what it consists of."""
    classes = [_class(row, reader) for row in rows["classes"]]
    labels = [text(label) for label in rows["labels"]]
    waiting = iter(numbers)
    modules: list[torch.nn.Module] = []
    parts: list[list[dict[str, int]]] = []
    for kind in waiting:
        module = at(classes, kind)()
        module.training = flag(next(waiting))
        counts = [next(waiting) for _ in range(3)]
        if min(counts) < 0 or max(counts) > len(numbers):
            raise ValueError("a module has more parts than there are")
        held = []
        for count in counts:
            held.append({at(labels, next(waiting)): next(waiting) for _ in range(count)})
        modules.append(module)
        parts.append(held)
    for module, (children, parameters, buffers) in zip(modules, parts, strict=True):
        fill_module(
            module,
            {name: at(modules, number) for name, number in children.items()},
            {name: at(tensors, number) for name, number in parameters.items()},
            {name: at(tensors, number) for name, number in buffers.items()},
        )
    return modules


def _class(row: Row, reader: ValueReader) -> type[torch.nn.Module]:
    home, qualname, name, signature = row
    known = None if signature == -1 else at(reader.signatures, signature)
    return stub_class(text(home), text(qualname), text(name), known)


def _numbers(rows: Row) -> dict[str, Any]:
    """Attributes that are numbers; no name among them means anything to a module."""
    found: dict[str, Any] = {}
    for name, value in rows:
        if text(name).startswith("_") or not name.isidentifier() or hasattr(torch.nn.Module, name):
            raise ValueError(f"{name!r} is no attribute of a module's own")
        parts = value if isinstance(value, list) else [value]
        if not all(type(part) in (int, float) for part in parts):
            raise ValueError(f"{name!r} is no number")
        found[name] = tuple(parts) if isinstance(value, list) else value
    return found


# --- the backward


def _backward(row: Any, numbers: list[int]) -> BackwardRecord | None:
    if row is None:
        return None
    roots, named, described, ends, kept, repacked, is_cut, has_hooks = row
    specs = [_spec(one) for one in described]
    saved = {integer(place): tuple([_saved(one, specs) for one in found]) for place, found in kept}
    record = BackwardRecord(
        tuple([(text(path), integer(node), integer(number)) for path, node, number in roots]),
        numbers,
        [text(name) for name in named],
        specs,
        [(text(kind), text(path)) for kind, path in ends],
        saved,
        integer(repacked),
        truth(is_cut),
        truth(has_hooks),
    )
    count = len(record.nodes)  # which looks at each
    if any(not 0 <= node < count for _, node, _ in record.roots):
        raise ValueError("the backward begins at a node that is not there")
    if any(not -1 <= place < count for node in record.nodes for place, _ in node.edges):
        raise ValueError("a gradient flows to a node that is not there")
    return record


def _spec(row: Row) -> GradSpec:
    shape, dtype, device = row
    sizes = None if shape is None else tuple([integer(size) for size in shape])
    return GradSpec(sizes, text(dtype), text(device))


def _saved(row: Row, specs: list[GradSpec]) -> SavedSpec:
    name, spec, memory, path = row
    return SavedSpec(text(name), at(specs, spec), integer(memory), text(path))
