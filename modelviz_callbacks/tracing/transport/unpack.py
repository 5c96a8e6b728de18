"""A recording from bytes: every row is looked at, and nothing is run."""

from __future__ import annotations

import math
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.backward_record import (
    BackwardRecord,
    GradNode,
    GradSpec,
    SavedSpec,
)
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.state_names import StateTensor
from modelviz_callbacks.tracing.capture.tape import Enter, Leave, RawEntry, TensorRecord, Within
from modelviz_callbacks.tracing.capture.torch_internals import fill_module
from modelviz_callbacks.tracing.transport.container import split
from modelviz_callbacks.tracing.transport.module_stubs import Stubs, dead, stub_class, tensor_of
from modelviz_callbacks.tracing.transport.value_reader import (
    MOST_ZEROS_BYTES,
    Row,
    Tables,
    ValueReader,
    as_parameter,
    at,
    dtype_of,
    integer,
    layout_of,
    made_tensor,
    rows_of,
    text,
    truth,
)

# What reading a row that is none ends with.
_FAULTS = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, RuntimeError, TypeError, ValueError),
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
    columns, integers, *values = blobs
    reader = ValueReader(rows, values)
    stubs = _stubs(rows, reader)
    reader.read_records(columns, stubs)
    return Recording(
        at(stubs.modules, 0),
        _tape(rows["tape"], rows_of(integers, 6), reader, stubs),
        at(reader.signatures, rows["signature"]),
        {text(name): reader.value(walked) for name, walked in rows["inputs"]},
        stubs.state(),
        reader.value(rows["result"]),
        text(rows["error"]),
        is_step=truth(rows["is_step"]),
        grad=truth(rows["grad"]),
        losses=[reader.record(loss) for loss in rows["losses"]],
        remarks=[text(remark) for remark in rows["remarks"]],
        backward=_backward(rows["backward"]),
        seconds=float(rows["seconds"]),
        fault=text(rows["fault"]),
    )


def _tape(
    rows: list[Row], integers: list[tuple[int, ...]], reader: ValueReader, stubs: Stubs
) -> list[RawEntry]:
    tape: list[RawEntry] = []
    of_ops = iter(integers)
    for row in rows:
        if len(row) == len(Enter._fields):
            tape.append((at(stubs.modules, row[0]), truth(row[1])))
        elif len(row) == len(Within._fields):
            tape.append((None if row[0] == -1 else at(reader.calls, row[0]),))
        elif len(row) == len(Leave._fields):
            number, args, kwargs, result, unseen = row
            given = _arguments(reader.value(args)), _named(reader.value(kwargs))
            made = reader.value(result), truth(unseen)
            tape.append((at(stubs.modules, number), *given, *made))
        else:
            numbers = next(of_ops, None)
            if numbers is None:
                raise ValueError("an op has no numbers")
            tape.append(_op(row, numbers, reader))
    if next(of_ops, None) is not None:
        raise ValueError("there are numbers of no op")
    return tape


def _op(row: Row, numbers: tuple[int, ...], reader: ValueReader) -> RawEntry:
    func, code, lasti, flags, first, last = numbers
    args, result, kwargs, *rest = row
    writes, autocast, has_layers, layers = rest or ([], None, False, None)
    entry: RawEntry = (
        at(reader.functions, func),
        _arguments(reader.value(args)),
        None if kwargs is None else _named(reader.value(kwargs)),
        reader.value(result),
        tuple([reader.record(record) for record in writes]),
        None if code == -1 else at(reader.codes, code),
        lasti,
        bool(flags & 2),
        bool(flags & 1),
        None if autocast is None else tuple([(text(one), dtype_of(to)) for one, to in autocast]),
        first,
        last,
    )
    if truth(has_layers):
        entry += (None if layers is None else tuple([at(reader.layers, one) for one in layers]),)
    return entry


def _arguments(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError("positional arguments are a list")
    return value


def _named(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("keyword arguments are a table")
    return {text(name): one for name, one in value.items()}


# --- the model


def _stubs(rows: Tables, reader: ValueReader) -> Stubs:
    state = []
    for facts, layout, is_parameter, blob in rows["state"]:
        known = (at(reader.facts, facts), layout_of(layout), truth(is_parameter), reader.blob(blob))
        state.append(known)
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
    modules = [_module(row, reader) for row in rows["modules"]]
    for module, (*_, children, parameters, buffers) in zip(modules, rows["modules"], strict=True):
        tables: list[tuple[Row, list[Any]]] = [
            (children, modules),
            (parameters, tensors),
            (buffers, tensors),
        ]
        found = [{text(name): at(table, one) for name, one in part} for part, table in tables]
        fill_module(module, *found)
    names = [
        StateTensor(text(kind), text(name), tuple(map(text, aliases)))
        for kind, name, aliases in rows["names"]
    ]
    if len(names) > len(tensors):
        raise ValueError("there are more names than parameters and buffers")
    return Stubs(modules, tensors, names, records)


def _module(row: Row, reader: ValueReader) -> torch.nn.Module:
    home, qualname, name, signature, training, *_ = row
    known = None if signature == -1 else at(reader.signatures, signature)
    module = stub_class(text(home), text(qualname), text(name), known)()
    module.training = truth(training)
    return module


# --- the backward


def _backward(row: Any) -> BackwardRecord | None:
    if row is None:
        return None
    roots, nodes, repacked, is_cut, named, described = row
    names, specs = [text(name) for name in named], [_spec(one) for one in described]
    starts = [(text(path), integer(node), integer(number)) for path, node, number in roots]
    if any(not 0 <= node < len(nodes) for _, node, _ in starts):
        raise ValueError("the backward begins at a node that is not there")
    found = [_node(node, names, specs, len(nodes)) for node in nodes]
    return BackwardRecord(tuple(starts), tuple(found), integer(repacked), truth(is_cut))


def _node(row: Row, names: list[str], specs: list[GradSpec], count: int) -> GradNode:
    name, sequence, edges, takes, *rest = row
    leaf, saved = rest or (None, ())
    ways = tuple([(integer(place), integer(number)) for place, number in edges])
    if any(not -1 <= place < count for place, _ in ways):
        raise ValueError("a gradient flows to a node that is not there")
    end = None
    if leaf is not None:
        kind, path = leaf
        end = (text(kind), text(path))
    return GradNode(
        at(names, name),
        integer(sequence),
        ways,
        tuple([at(specs, taken) for taken in takes]),
        end,
        tuple([_saved(one, specs) for one in saved]),
    )


def _spec(row: Row) -> GradSpec:
    shape, dtype, device = row
    sizes = None if shape is None else tuple([integer(size) for size in shape])
    return GradSpec(sizes, text(dtype), text(device))


def _saved(row: Row, specs: list[GradSpec]) -> SavedSpec:
    name, spec, memory, path = row
    return SavedSpec(text(name), at(specs, spec), integer(memory), text(path))
