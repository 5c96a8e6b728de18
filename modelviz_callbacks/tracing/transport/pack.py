"""A recording as bytes, for another process to lower.

What is taken along is what lowering looks at: the tape with the facts of its tensors, the model
as a tree of names, classes and signatures, and small constants. Tensors of the model go along
without their values, objects and functions of the user's own by their names only: the other
process must not have to import the user's script.

The bytes are data, see ``container`` and ``value_rows``: reading them runs nothing.
"""

from __future__ import annotations

from array import array
from typing import Any

from modelviz_callbacks.tracing.capture.backward_record import BackwardRecord, GradSpec
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    Leave,
    OpEntry,
    RawEntry,
)
from modelviz_callbacks.tracing.transport.container import join
from modelviz_callbacks.tracing.transport.module_stubs import Stubs
from modelviz_callbacks.tracing.transport.value_rows import ValueRows

# How many fields the entries have that begin with a module.
_ENTER, _LEAVE = len(Enter._fields), len(Leave._fields)
# How many an op has that ran under no transform.
_PLAIN = len(OpEntry._fields) - 1


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
    called = [raw[0] for raw in recording.raw_tape if len(raw) in (_ENTER, _LEAVE)]
    stubs = Stubs.of(recording.model, called, recording.state)
    rows = ValueRows(stubs, with_values)
    tape, integers = _tape_rows(recording.raw_tape, rows, stubs)
    given = {
        "tape": tape,
        "signature": rows.signature(recording.signature),
        "inputs": [[name, rows.value(walked)] for name, walked in recording.inputs.items()],
        "result": rows.value(recording.result),
        "losses": [rows.record(loss) for loss in recording.losses],
        "error": recording.error,
        "is_step": recording.is_step,
        "grad": recording.grad,
        "remarks": recording.remarks,
        "seconds": recording.seconds,
        "fault": recording.fault,
        "backward": _backward_row(recording.backward),
        "modules": rows.module_rows(),
        "state": rows.state_rows(),
        "names": stubs.names,
    }
    rows.finish_origins()
    columns = [array("q", numbers).tobytes() for numbers in (rows.integers, integers)]
    return join({**given, **rows.tables}, [*columns, *rows.blobs])


def _tape_rows(tape: list[RawEntry], rows: ValueRows, stubs: Stubs) -> tuple[list[Any], list[int]]:
    """What the entries hold, and six whole numbers of each op."""
    value, numbers, found = rows.value, rows.records, []
    functions = rows.function_numbers
    integers: list[int] = []
    for raw in tape:
        if len(raw) > _LEAVE:
            func, args, kwargs, result, writes, code, lasti, plumbing, grad, autocast = raw[:10]
            integers += (
                functions[func] if func in functions else rows.function(func),
                -1 if code is None else rows.code(code),
                lasti,
                2 * plumbing + grad,
                *raw[10:12],
            )
            given = value(args)
            known = numbers.get(id(result))
            made = value(result) if known is None else known
            if len(raw) == _PLAIN and not (kwargs or writes or autocast):
                found.append([given, made, kwargs])
            else:
                found.append([given, made, *_rest(raw, rows)])
        elif len(raw) == _LEAVE:
            module, args, kwargs, result, unseen = raw
            number = stubs.module_number(module)
            found.append([number, value(args), value(kwargs), value(result), unseen])
        elif len(raw) == _ENTER:
            found.append([stubs.module_number(raw[0]), raw[1]])
        else:
            found.append([-1 if raw[0] is None else rows.call(raw[0])])
    return found, integers


def _rest(raw: RawEntry, rows: ValueRows) -> list[Any]:
    """What few ops have: keyword arguments, writes, autocast, and layers of transforms."""
    kwargs, writes, autocast = raw[2], raw[4], raw[9]
    row = [
        None if kwargs is None else rows.value(kwargs),
        [rows.record(record) for record in writes],
        None if autocast is None else [[device, str(dtype)] for device, dtype in autocast],
        len(raw) > _PLAIN,
    ]
    if len(raw) > _PLAIN:
        layers = raw[_PLAIN]
        row.append(None if layers is None else [rows.layer(layer) for layer in layers])
    else:
        row.append(None)
    return row


def _backward_row(backward: BackwardRecord | None) -> Any:
    if backward is None:
        return None
    specs: dict[GradSpec, int] = {}
    places: dict[int, int] = {}  # by the ``id``: equal ones are mostly one object

    def place(spec: GradSpec) -> int:
        found = places.get(id(spec))
        if found is None:
            found = places[id(spec)] = specs.setdefault(spec, len(specs))
        return found

    names: dict[str, int] = {}
    nodes = []
    for name, sequence, edges, takes, leaf, saved in backward.nodes:
        number = names.setdefault(name, len(names))
        row = [number, sequence, edges, [place(spec) for spec in takes]]
        if leaf is not None or saved:
            row += [leaf, [(one, place(spec), *rest) for one, spec, *rest in saved]]
        nodes.append(row)
    return [backward.roots, nodes, backward.repacked, backward.is_cut, [*names], [*specs]]
