"""A recording as bytes, for another process to lower.

What is taken along is what lowering looks at: the tape with the facts of its tensors, the model
as a tree of names, classes and signatures, and small constants. Tensors of the model go along
without their values, objects and functions of the user's own by their names only: the other
process must not have to import the user's script.

The bytes are data, see ``container`` and ``value_rows``: reading them runs nothing.
"""

from __future__ import annotations

from typing import Any

from modelviz_callbacks.tracing.capture.backward_record import BackwardRecord
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import Enter, Leave, OpEntry, RawEntry
from modelviz_callbacks.tracing.transport.container import join
from modelviz_callbacks.tracing.transport.module_stubs import Stubs
from modelviz_callbacks.tracing.transport.value_rows import ValueRows, parameter_rows

# How many fields the entries have that begin with a module.
_ENTER, _LEAVE = len(Enter._fields), len(Leave._fields)
_WITH_LAYERS = len(OpEntry._fields)


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
    given = {
        "tape": _tape_rows(recording.raw_tape, rows, stubs),
        "signature": parameter_rows(recording.signature),
        "inputs": [[name, rows.value(walked)] for name, walked in recording.inputs.items()],
        "result": rows.value(recording.result),
        "losses": [rows.record(loss) for loss in recording.losses],
        "error": recording.error,
        "is_step": recording.is_step,
        "grad": recording.grad,
        "remarks": recording.remarks,
        "seconds": recording.seconds,
        "backward": _backward_row(recording.backward),
        "modules": rows.module_rows(),
        "state": rows.state_rows(),
        "names": stubs.names,
    }
    rows.finish_origins()
    return join({**given, **rows.tables}, rows.blobs)


def _tape_rows(tape: list[RawEntry], rows: ValueRows, stubs: Stubs) -> list[list[Any]]:
    """One row an entry, told apart by their number as the entries themselves are."""
    value, found = rows.value, []
    for raw in tape:
        if len(raw) > _LEAVE:
            found.append(_op_row(raw, rows))
        elif len(raw) == _LEAVE:
            module, args, kwargs, result, unseen = raw
            number = stubs.module_number(module)
            found.append([number, value(args), value(kwargs), value(result), unseen])
        else:
            found.append([stubs.module_number(raw[0]), raw[1]])
    return found


def _op_row(raw: RawEntry, rows: ValueRows) -> list[Any]:
    func, args, kwargs, result, writes, code, lasti, plumbing, grad, autocast, first, last = raw[
        :12
    ]
    value = rows.value
    row = [
        rows.function(func),
        value(args),
        None if kwargs is None else value(kwargs),
        value(result),
        [rows.record(record) for record in writes] if writes else writes,
        None if code is None else rows.code(code),
        lasti,
        plumbing,
        grad,
        None if autocast is None else [[device, str(dtype)] for device, dtype in autocast],
        first,
        last,
    ]
    if len(raw) == _WITH_LAYERS:
        layers = raw[-1]
        row.append(None if layers is None else [rows.layer(layer) for layer in layers])
    return row


def _backward_row(backward: BackwardRecord | None) -> Any:
    # Named tuples of text and numbers: JSON takes them as they are.
    if backward is None:
        return None
    return [backward.roots, backward.nodes, backward.repacked, backward.is_cut]
