"""What was measured in later steps as bytes, for another process: JSON, since it is plain data."""

from __future__ import annotations

import json
from typing import Any

from modelviz_callbacks.tracing.steps.inspected_step import (
    InspectedStep,
    SeenOutput,
    SeenParameter,
    TensorHealth,
)
from modelviz_callbacks.tracing.steps.measured import Measured
from modelviz_callbacks.tracing.steps.timed_step import (
    Span,
    TimedCall,
    TimedNode,
    TimedOp,
    TimedStep,
)


def pack_measured(measured: Measured) -> bytes:
    """What was measured as bytes.

    Args:
        measured: Steps that were timed or looked into.

    Returns:
        What `unpack_measured` reads.
    """
    given = {
        "timed": None if measured.timed is None else _timed_as_json(measured.timed),
        "inspected": [_inspected_as_json(step) for step in measured.inspected],
        "optimizer_bytes": dict(measured.optimizer_bytes),
    }
    return json.dumps(given).encode()


def unpack_measured(data: bytes) -> Measured:
    """What `pack_measured` was given.

    Args:
        data: Its result.

    Raises:
        ValueError: It is something else.
    """
    try:
        given = json.loads(data)
        timed = given["timed"]
        return Measured(
            None if timed is None else _timed(timed),
            tuple(_inspected(step) for step in given["inspected"]),
            given["optimizer_bytes"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"This is nothing that was measured: {error!r}.") from error


def _timed_as_json(step: TimedStep) -> dict[str, Any]:
    return {
        "calls": step.calls,
        "ops": step.ops,
        "aliases": dict(step.aliases),
        "remarks": list(step.remarks),
        "backward": step.backward,
        "threads": step.threads,
    }


def _timed(given: dict[str, Any]) -> TimedStep:
    return TimedStep(
        tuple(
            call._replace(span=_span(call.span)) for call in map(TimedCall._make, given["calls"])
        ),
        tuple(op._replace(span=Span(*op.span)) for op in map(TimedOp._make, given["ops"])),
        given["aliases"],
        tuple(given["remarks"]),
        tuple(
            run._replace(span=Span(*run.span)) for run in map(TimedNode._make, given["backward"])
        ),
        given["threads"],
    )


def _span(given: Any) -> Span | None:
    return None if given is None else Span(*given)


def _inspected_as_json(step: InspectedStep) -> dict[str, Any]:
    return {
        "number": step.number,
        "outputs": step.outputs,
        "parameters": step.parameters,
        "aliases": dict(step.aliases),
        "remarks": list(step.remarks),
    }


def _inspected(given: dict[str, Any]) -> InspectedStep:
    outputs = [SeenOutput._make(row) for row in given["outputs"]]
    parameters = [SeenParameter._make(row) for row in given["parameters"]]
    return InspectedStep(
        given["number"],
        tuple(row._replace(shape=tuple(row.shape), health=_health(row.health)) for row in outputs),
        tuple(
            row._replace(shape=tuple(row.shape), gradient=_health(row.gradient))
            for row in parameters
        ),
        given["aliases"],
        tuple(given["remarks"]),
    )


def _health(given: Any) -> TensorHealth | None:
    return None if given is None else TensorHealth(*given)
