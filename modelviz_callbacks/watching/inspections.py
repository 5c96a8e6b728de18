"""The steps of a run that are looked into (``inspect_step``), counted as they come."""

from __future__ import annotations

from collections.abc import Callable

import torch

from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import InspectedStep, StepInspector


class Inspections:
    """Starts looking when a step begins that the options name, and ends it.

    What a trainer and a hook have in common; each knows by itself when a step begins.
    """

    def __init__(self, run: Run, stage: str = "", over: Callable[[], None] = lambda: None) -> None:
        """No step has begun yet.

        Args:
            run: Gets what was seen.
            stage: Which further recording of the run it is; ``""``: the run's own, and only its
                steps are looked into.
            over: Called when no further step is to be told of.
        """
        self._run = run
        self._over = over
        self._waiting = [] if stage else list(run.options.steps_to_inspect)
        self._number = 0
        self._inspector: StepInspector | None = None
        self._last: StepInspector | None = None

    @property
    def is_over(self) -> bool:
        """Whether no further step is to be told of."""
        return not self._waiting and self._inspector is None

    @property
    def is_looking(self) -> bool:
        """Whether a step is being looked into, which lasts until the optimizer's."""
        return self._inspector is not None

    def before(self, model: torch.nn.Module) -> bool:
        """A step begins that is not the recorded one.

        Args:
            model: The model that was recorded.

        Returns:
            Whether it is looked into, so that `end_forward` is to be called.
        """
        self._number += 1
        self._remove_the_last()
        with self._run.guarded("the look into a step"):
            if self._inspector is not None:
                self._inspector.next_forward()
            if not self._waiting or self._waiting[0] != self._number:
                return False
            if self._inspector is not None:
                self._inspector.close()
            self._waiting.pop(0)
            self._inspector = StepInspector(model, self._number, self._take)
            self._inspector.start()
            return True
        return False

    def _remove_the_last(self) -> None:
        """What ended while torch went through its hooks may have left one that does nothing."""
        if self._last is not None:
            self._last.remove_hooks()
            self._last = None

    def _take(self, seen: InspectedStep) -> None:
        self._last, self._inspector = self._inspector, None
        self._run.inspected(seen)
        if self.is_over:
            self._over()

    def end_forward(self) -> None:
        """What is looked into has returned, or raised."""
        if self._inspector is not None:
            with self._run.guarded("the look into a step"):
                self._inspector.end_forward()

    def close(self) -> None:
        """Training has ended: hands on what was seen, and says what was not."""
        if self._inspector is not None:
            with self._run.guarded("the look into a step"):
                self._inspector.close()
        self._remove_the_last()
        if self._waiting:
            numbers = ", ".join(map(str, self._waiting))
            self._waiting = []
            self._run.remark(f"Not looked into, since training ended before: step {numbers}.")
