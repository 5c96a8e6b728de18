"""What was measured in steps after the recorded one."""

from __future__ import annotations

from dataclasses import dataclass

from modelviz_callbacks.tracing.capture.inspected_step import InspectedStep
from modelviz_callbacks.tracing.capture.timed_step import TimedStep


@dataclass(frozen=True)
class Measured:
    """All that was measured in one run.

    Attributes:
        timed: The step that was timed; ``None``: none was.
        inspected: The steps that were looked into, in order.
    """

    timed: TimedStep | None = None
    inspected: tuple[InspectedStep, ...] = ()
