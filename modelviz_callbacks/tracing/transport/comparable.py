"""A recording as bytes that are the same where the same was recorded again."""

from __future__ import annotations

from dataclasses import replace

from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import OpEntry, RawEntry
from modelviz_callbacks.tracing.transport.pack import pack

# Where an op on the tape has autograd's numbers, which count on from step to step.
_FIRST_NODE = OpEntry._fields.index("first_node")
_LAST_NODE = OpEntry._fields.index("last_node")


def pack_comparable(recording: Recording) -> bytes:
    """A recording as bytes, without what differs from step to step of the same code.

    Args:
        recording: What a capture gave, without its backward.

    Returns:
        What `unpack` reads. Equal bytes: the same ops on tensors of the same sizes, with the same
        arguments, joined alike. Other bytes may still be of the same architecture.

    Raises:
        Exception: Some object in it cannot be described.
    """
    tape = [_without_numbers(raw) for raw in recording.raw_tape]
    return pack(replace(recording, raw_tape=tape, seconds=0.0))


def _without_numbers(raw: RawEntry) -> RawEntry:
    if len(raw) <= _LAST_NODE:
        return raw
    return (*raw[:_FIRST_NODE], 0, 0, *raw[_LAST_NODE + 1 :])
