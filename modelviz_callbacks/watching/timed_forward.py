"""The forward of a loop that is timed (``profile_step``), counted as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import StepTimer, calls_under_way
from modelviz_callbacks.watching.timed_backward import TimedBackward


class TimedForward:
    """Starts the timer at the forward that the options name, and stops it at its end."""

    def __init__(
        self, run: Run, core: torch.nn.Module, model: torch.nn.Module, over: Callable[[], None]
    ) -> None:
        """No forward has begun yet.

        Args:
            run: Gets the times.
            core: The model that was recorded.
            model: What is called: it, or a wrapper around it.
            over: Called when no further forward is to be told of.
        """
        self._run, self._core, self._model, self._over = run, core, model, over
        self._left = run.options.profile_step
        self._timer: StepTimer | None = None
        self._backward = TimedBackward(run, over)
        self._depth = 0

    @property
    def is_over(self) -> bool:
        """Whether no further forward is to be told of."""
        return self._left is None and not self._backward.is_waiting

    @property
    def is_timing(self) -> bool:
        """Whether a forward is being timed."""
        return self._timer is not None

    def give_up(self, why: str) -> None:
        """No forward will be timed.

        Args:
            why: The reason, for the report.
        """
        if self._left is not None:
            self._left = None
            self._run.not_timed(why)

    def before(self) -> None:
        """A forward begins that is not the recorded one."""
        self._backward.step_begins()
        timer = self._timer
        if timer is not None and timer.is_here() and self._calls() <= self._depth:
            self._drop()
            self.give_up("its forward was interrupted")
        if self._timer is not None or self._left is None:
            return  # the model calls itself
        self._left -= 1
        if self._left:
            return
        with self._run.guarded("the times"):
            timer = StepTimer(self._core, self._model)
            if timer.start(inside_model=self._model is self._core):
                self._timer, self._depth = timer, self._calls()
            else:
                self._run.timed(timer)  # it says why
        if self._timer is None:
            self.give_up("the timer could not be started")

    def after(self, result: Any) -> bool:
        """A forward ends.

        Args:
            result: What it returned.

        Returns:
            Whether a forward is being timed in this thread, or was until now.
        """
        timer = self._timer
        if timer is None or not timer.is_here():
            return False
        if self._calls() <= self._depth:
            self._timer = self._left = None
            with self._run.guarded("the times"):
                timer.stop(result)
                self._backward.wait(timer)
        return True

    def close(self) -> None:
        """Stops a timer whose forward was interrupted, and hands on what was timed."""
        self._backward.close()
        self._drop()

    def _drop(self) -> None:
        """Takes a timer down whose forward never came to its end."""
        timer, self._timer = self._timer, None
        if timer is not None:
            with self._run.guarded("the times"):
                timer.stop()
                timer.end_backward()

    def _calls(self) -> int:
        return calls_under_way(self._model, sys._getframe(1))
