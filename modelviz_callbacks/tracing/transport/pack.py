"""A recording as bytes, for another process to lower.

What is taken along is what lowering looks at: the tape with the facts of its tensors, the model
as a tree of names, classes and signatures, and small constants. Tensors of the model go along
without their values, objects and functions of the user's own by their names only: the other
process must not have to import the user's script.

The bytes are data, see ``container`` and ``value_rows``: reading them runs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.tracing.capture.backward_record import BackwardRecord
from modelviz_callbacks.tracing.capture.module_attributes import numbers_of
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    Leave,
    OpEntry,
    RawEntry,
    TensorRecord,
    Within,
)
from modelviz_callbacks.tracing.capture.tensor_parallel import split_weights
from modelviz_callbacks.tracing.transport.container import join
from modelviz_callbacks.tracing.transport.module_stubs import Stubs
from modelviz_callbacks.tracing.transport.value_rows import ValueRows

# How many fields an entry has.
_ENTER, _LEAVE, _WITHIN = len(Enter._fields), len(Leave._fields), len(Within._fields)
# How many an op has that ran under no transform; the next one are the layers of transforms.
_PLAIN = len(OpEntry._fields) - 1

# Columns of whole numbers, in the order in which they stand before the raw values.
RECORD_COLUMNS = ("facts", "created_at", "storage", "previous", "state", "origin")
COLUMNS = (
    *("tape", "enter_modules", "enter_training", "within"),
    *("leave_modules", "leave_counts", "leave_arguments", "leave_named", "leave_results"),
    "leave_unseen",
    *("functions", "counts", "arguments", "results", "codes", "lasti", "plumbing", "grad"),
    *("first_node", "last_node"),
    *RECORD_COLUMNS,
    *("died", "modules", "state_facts", "state_parameters", "state_values", "backward"),
)


def pack(recording: Recording, with_values: bool = False) -> bytes:
    """A recording as bytes.

    Args:
        recording: What a capture gave.
        with_values: Whether the values of the model's parameters and buffers go along.

    Returns:
        What `unpack` reads.

    Raises:
        Exception: Some object in it cannot be described.
    """
    with paused_collector():
        return _packed(recording, with_values)


def _packed(recording: Recording, with_values: bool) -> bytes:
    tape = recording.raw_tape
    enters = [raw for raw in tape if len(raw) == _ENTER]
    leaves = [raw for raw in tape if len(raw) == _LEAVE]
    ops = [raw for raw in tape if len(raw) > _LEAVE]
    stubs = Stubs.of(recording.model, [raw[0] for raw in enters + leaves], recording.state)
    rows = ValueRows(stubs, with_values)
    split = split_weights(stubs.modules)
    given = {
        "ops": _rare_parts(ops, rows),
        "signature": rows.signature(recording.signature),
        "inputs": [[name, rows.value(walked)] for name, walked in recording.inputs.items()],
        "result": rows.value(recording.result),
        "losses": [rows.records[loss] for loss in recording.losses],
        "error": recording.error,
        "is_step": recording.is_step,
        "grad": recording.grad,
        "remarks": recording.remarks,
        "seconds": recording.seconds,
        "fault": recording.fault,
        "lazy": recording.lazy,
        "backward": _backward_row(recording.backward),
        "names": stubs.names,
        "attributes": [
            [number, numbers]
            for number, module in enumerate(stubs.modules)
            if (numbers := numbers_of(module) + split.get(id(module), ()))
        ],
    }
    backward: list[int] = [] if recording.backward is None else recording.backward.numbers
    columns: tuple[Sequence[int], ...] = (
        [*map(len, tape)],
        *_enter_columns(enters, stubs),
        [-1 if raw[0] is None else rows.call(raw[0]) for raw in tape if len(raw) == _WITHIN],
        *_leave_columns(leaves, rows, stubs),
        *_op_columns(ops, rows),
        *_record_columns(rows, recording.backward is not None),
        _deaths(recording, rows),
        rows.module_numbers(),
        *rows.state_columns(),
        backward,
    )
    packed = [struct.pack(f"={len(numbers)}q", *numbers) for numbers in columns]
    return join({**given, **rows.tables}, [*packed, *rows.blobs])


def _enter_columns(enters: list[RawEntry], stubs: Stubs) -> tuple[list[int], ...]:
    numbers = stubs.module_numbers
    return [numbers[id(raw[0])] for raw in enters], [raw[1] for raw in enters]


def _leave_columns(leaves: list[RawEntry], rows: ValueRows, stubs: Stubs) -> tuple[list[int], ...]:
    number, known = rows.number, stubs.module_numbers
    modules, args, named, results, unseen = _transposed(leaves, _LEAVE)
    return (
        [known[id(module)] for module in modules],
        [*map(len, args)],
        _numbers_of(chain.from_iterable(args), rows),
        [number(one) if one else -1 for one in named],
        _numbers_of(results, rows),
        [*unseen],
    )


def _op_columns(ops: list[RawEntry], rows: ValueRows) -> tuple[list[int], ...]:
    numbers = rows.functions
    func, args, _, results, _, codes, lasti, plumbing, grad, _, first, last = _transposed(
        ops, _PLAIN
    )
    return (
        [numbers[one] for one in func],
        [*map(len, args)],
        _numbers_of(chain.from_iterable(args), rows),
        _numbers_of(results, rows),
        rows.codes(codes),
        *([*column] for column in (lasti, plumbing, grad, first, last)),
    )


def _record_columns(rows: ValueRows, with_addresses: bool) -> Iterator[list[int]]:
    """The columns of the records; addresses that no backward is told by become numbers."""
    for name, column in zip(RECORD_COLUMNS, rows.record_columns(), strict=True):
        if name == "storage" and not with_addresses:
            known = {0: 0}
            yield [known.setdefault(address, len(known)) for address in column]
        else:
            yield column


def _deaths(recording: Recording, rows: ValueRows) -> list[int]:
    """Where the tensor of each record died, -1: nowhere; empty where nobody has looked."""
    if recording.died is None:
        return []
    found = map(recording.died, rows.records.rows)
    return [-1 if position is None else position for position in found]


def _transposed(entries: list[RawEntry], fields: int) -> tuple[tuple[Any, ...], ...]:
    """The first fields of entries, a tuple for each."""
    return (*zip(*entries, strict=False),)[:fields] if entries else ((),) * fields


def _numbers_of(values: Iterable[Any], rows: ValueRows) -> list[int]:
    records, number = rows.records, rows.number
    return [records[one] if one.__class__ is TensorRecord else number(one) for one in values]


def _rare_parts(ops: list[RawEntry], rows: ValueRows) -> list[Any]:
    """What few ops have: keyword arguments, writes, autocast, and layers of transforms."""
    found = []
    for place, raw in enumerate(ops):
        kwargs, writes, autocast = raw[2], raw[4], raw[9]
        if not (kwargs or writes or autocast or len(raw) > _PLAIN):
            continue
        layers = raw[_PLAIN] if len(raw) > _PLAIN else None
        found.append(
            [
                place,
                rows.value(kwargs) if kwargs else None,
                [rows.records[record] for record in writes],
                autocast and [[device, str(dtype)] for device, dtype in autocast],
                len(raw) > _PLAIN,
                None if layers is None else [rows.layer(layer) for layer in layers],
            ]
        )
    return found


def _backward_row(backward: BackwardRecord | None) -> Any:
    """All but the numbers, which are a column."""
    if backward is None:
        return None
    specs = [*backward.specs]
    known = {spec: place for place, spec in enumerate(specs)}
    saved = []
    for place, kept in backward.saved.items():
        found = [(one, known[spec], *rest) for one, spec, *rest in kept]
        saved.append([place, found])
    return [
        *(backward.roots, backward.names, specs, backward.leaves, saved),
        *(backward.repacked, backward.is_cut, backward.has_hooks),
    ]
