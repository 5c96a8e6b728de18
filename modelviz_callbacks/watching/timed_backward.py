"""Waits for the backward of what was timed, and hands the times on when it is over."""

from __future__ import annotations

from collections.abc import Callable

from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import StepTimer

# Forwards that may come between the timed one and its backward: a loss is made of several.
_MOST_FORWARDS = 8
_NONE_RAN = (
    "The backward of step {number} was not timed: none ran through what was timed before {what}."
)


class TimedBackward:
    """A timer whose forward has ended."""

    def __init__(self, run: Run, over: Callable[[], None] = lambda: None) -> None:
        """There is no such timer yet.

        Args:
            run: Gets the times.
            over: Called when they were handed on.
        """
        self._run, self._over = run, over
        self._timer: StepTimer | None = None
        self._forwards = 0

    @property
    def is_waiting(self) -> bool:
        """Whether there are times that were not handed on."""
        return self._timer is not None

    def wait(self, timer: StepTimer) -> None:
        """The timed forward has ended.

        Args:
            timer: It was stopped.
        """
        self._timer, self._forwards = timer, 0
        if not timer.is_watching_backward:
            self._hand_on()

    def step_begins(self) -> None:
        """Another forward of the model begins: the backward is over, or is still to come."""
        if self._timer is None:
            return
        self._forwards += 1
        if not self._timer.waits_for_backward or self._forwards >= _MOST_FORWARDS:
            self._hand_on(f"{self._forwards} more forwards had begun")

    def close(self) -> None:
        """Training has ended."""
        if self._timer is not None:
            self._hand_on("training ended")

    def _hand_on(self, before_what: str = "") -> None:
        timer, self._timer = self._timer, None
        if timer is None:
            return
        with self._run.guarded("the times"):
            if timer.waits_for_backward:
                number = self._run.options.profile_step
                self._run.remark(_NONE_RAN.format(number=number, what=before_what))
            timer.end_backward()
            self._run.timed(timer)
        self._over()
