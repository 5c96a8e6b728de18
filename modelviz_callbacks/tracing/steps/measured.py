"""What was measured from the first change of the weights on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelviz_callbacks.tracing.steps.inspected_step import InspectedStep
from modelviz_callbacks.tracing.steps.timed_step import TimedStep


@dataclass(frozen=True)
class Measured:
    """All that was measured in one run.

    Attributes:
        timed: The step that was timed; ``None``: none was.
        inspected: The steps that were looked into, in order.
        optimizer_bytes: What optimizers keep for parameters, by the parameters' qualified names;
            empty: not known.
    """

    timed: TimedStep | None = None
    inspected: tuple[InspectedStep, ...] = ()
    optimizer_bytes: Mapping[str, int] = field(default_factory=dict)
