"""What a `GraphHook` does after the recorded forward: one is timed, some are looked into."""

from __future__ import annotations

from collections.abc import Callable

import torch

from modelviz_callbacks.inspections import Inspections
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import StepTimer


class LaterSteps:
    """Counts the forwards of training steps and watches those that the options name."""

    def __init__(
        self, run: Run, core: torch.nn.Module, called: torch.nn.Module, over: Callable[[], None]
    ) -> None:
        """No step has begun yet.

        Args:
            run: Gets what was measured.
            core: The author's model.
            called: The wrapper around it that is called, or the model itself.
            over: Called when no further step is to be told of.
        """
        self._run = run
        self._core = core
        self._called = called
        self._over = over
        self._steps_to_timing = run.options.profile_step
        self._timer: StepTimer | None = None
        self._depth = 0
        self._inspections = Inspections(run, over=self._end_if_over)

    @property
    def is_over(self) -> bool:
        """Whether no further step is to be told of."""
        return self._steps_to_timing is None and self._inspections.is_over

    def _end_if_over(self) -> None:
        if self.is_over:
            self._over()

    def refuse_timing(self, reason: str) -> None:
        """Times no step, and says why if one was to be timed.

        Args:
            reason: A sentence's end.
        """
        if self._steps_to_timing is not None:
            self._run.not_timed(reason)
            self._steps_to_timing = None

    def before(self, depth: int) -> None:
        """The forward of a training step begins.

        Args:
            depth: How many calls of the model are under way.
        """
        self._count_down(depth)
        self.before_method()

    def before_method(self) -> None:
        """A call of a watched method begins, which is looked into but not timed."""
        self._inspections.before(self._core)
        self._end_if_over()

    def after(self, depth: int) -> None:
        """A call of the model ends, or of a watched method.

        Args:
            depth: As for `before`.
        """
        timer = self._timer
        if timer is None or not timer.is_here():
            if depth <= 1:
                self._inspections.end_forward()
        elif depth <= self._depth:
            self._timer, self._steps_to_timing = None, None
            self._end_if_over()
            with self._run.guarded("the times"):
                timer.stop()
                self._run.timed(timer)

    def close(self) -> None:
        """Training has ended, maybe in the middle of a forward."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self._inspections.close()

    def _count_down(self, depth: int) -> None:
        if self._timer is not None or self._steps_to_timing is None:
            return
        self._steps_to_timing -= 1
        if self._steps_to_timing:
            return
        with self._run.guarded("the times"):
            timer = StepTimer(self._core, self._called)
            if timer.start(inside_model=self._called is self._core):
                self._timer, self._depth = timer, depth
            else:
                self._run.timed(timer)  # it says why
        if self._timer is None:
            self._run.not_timed("the timer could not be started")
            self._steps_to_timing = None
