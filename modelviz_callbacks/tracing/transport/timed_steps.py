"""A timed step as bytes, for another process: JSON, since it is plain data."""

from __future__ import annotations

import json
from typing import Any

from modelviz_callbacks.tracing.capture.timed_step import Span, TimedCall, TimedOp, TimedStep


def pack_timed(step: TimedStep) -> bytes:
    """A timed step as bytes.

    Args:
        step: From a `StepTimer`.

    Returns:
        What `unpack_timed` reads.
    """
    given = {
        "calls": [[*call[:-1], call.span] for call in step.calls],
        "ops": [[*op[:-1], op.span] for op in step.ops],
        "aliases": dict(step.aliases),
        "remarks": list(step.remarks),
    }
    return json.dumps(given).encode()


def unpack_timed(data: bytes) -> TimedStep:
    """The timed step that `pack_timed` was given.

    Args:
        data: Its result.

    Raises:
        ValueError: It is something else.
    """
    try:
        given = json.loads(data)
        return TimedStep(
            tuple(TimedCall._make([*call[:-1], _span(call[-1])]) for call in given["calls"]),
            tuple(TimedOp._make([*op[:-1], Span(*op[-1])]) for op in given["ops"]),
            given["aliases"],
            tuple(given["remarks"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"This is no timed step: {error!r}.") from error


def _span(given: Any) -> Span | None:
    return None if given is None else Span(*given)
