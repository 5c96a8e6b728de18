"""The steps of a run that are recorded again (``watch_changes``), counted as they come."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch

from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import Capture, compiled_parts, is_lazy

_COMPILED = (
    "torch.compile has its hands on {names}, and another recording would run it eagerly once more"
)
_LAZY = "what the forward returns computes later"


class WatchedSteps:
    """Records each step whose number the interval divides, or the next one that it can.

    What a trainer and a hook have in common; each knows by itself when a step begins.
    """

    def __init__(self, run: Run, stage: str = "", over: Callable[[], None] = lambda: None) -> None:
        """No step has begun yet.

        Args:
            run: Gets what was recorded.
            stage: Which further recording of the run it is; ``""``: the run's own, and only its
                steps are recorded again.
            over: Called when no further step is to be told of.
        """
        self._run = run
        self._over = over
        self._every = None if stage else run.options.watch_changes
        self._number = 0
        self._is_due = False
        self._capture: Capture | None = None
        self._handled: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether no further step is to be told of."""
        return self._every is None

    def give_up_if_compiled(self, model: torch.nn.Module) -> None:
        """Records no more where something of a model is compiled, which is left alone.

        Args:
            model: What is called.
        """
        names = compiled_parts(model) if self._every is not None else []
        if names:
            self.give_up(_COMPILED.format(names=", ".join(names[:3])))

    def give_up(self, why: str) -> None:
        """Records no more.

        Args:
            why: The reason, for the report.
        """
        if self._every is None:
            return
        self._every = None
        self._run.remark(f"Later steps were not compared with the recorded one: {why}.")
        self._over()

    def is_next(self, model: torch.nn.Module, is_busy: bool) -> bool:
        """A step begins that is not the recorded one.

        Args:
            model: What is called.
            is_busy: Whether it is timed or looked into, which another recording would disturb.

        Returns:
            Whether it is to be recorded.
        """
        if self._every is None:
            return False
        self._number += 1
        self._is_due = self._is_due or self._number % self._every == 0
        if not self._is_due or is_busy or not torch.is_grad_enabled():
            return False
        self.give_up_if_compiled(model)
        return self._every is not None

    def before(
        self,
        core: torch.nn.Module,
        model: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        signature: inspect.Signature | None = None,
        is_step: bool | None = None,
    ) -> None:
        """The code that is recorded begins; `after` is to be called at its end.

        Args:
            core: The model that was recorded.
            model: What is called: it, or a wrapper around it.
            args: Positional arguments of the code.
            kwargs: Its keyword arguments.
            signature: Its signature, if it is not the model's forward.
            is_step: As `Capture.start` takes it.
        """
        if self._capture is not None and not self._capture.is_here():
            return  # another thread is at it
        self.close()  # left by a forward that was interrupted
        self._is_due = False
        with self._run.guarded("the recording of a later step"):
            capture = Capture(core, model, keeps_state=False)
            if signature is None:
                capture.end_with_call_of(model)
            capture.start(args, kwargs, signature, is_step)
            if signature is None and model is core:
                capture.enter_model()
            self._capture, self._handled = capture, sys.exc_info()[1]

    def after(self, result: Any) -> None:
        """The code that is recorded has returned, or raised: then nothing is kept of it.

        Args:
            result: What it returned.
        """
        capture = self._capture
        if capture is None or not capture.is_here():
            return
        raised, handled = sys.exc_info()[1], self._handled
        self.close()
        if raised is not None and raised is not handled:
            return
        if is_lazy(result):
            self.give_up(_LAZY)
            return
        with self._run.guarded("the recording of a later step"):
            self._run.recorded_again(capture.finish(result), self._number)

    def close(self) -> None:
        """Takes down what is still up."""
        capture, self._capture, self._handled = self._capture, None, None
        if capture is not None:
            with self._run.guarded("the recording of a later step"):
                capture.stop()
