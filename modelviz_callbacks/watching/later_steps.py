"""What a hook does with the forwards after the recorded one: times, looks into, records again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import runs_compiled
from modelviz_callbacks.watching.inspections import Inspections
from modelviz_callbacks.watching.timed_forward import TimedForward
from modelviz_callbacks.watching.watched_steps import WatchedSteps


class LaterSteps:
    """The forwards that options name, counted from the recorded one on."""

    def __init__(
        self, run: Run, core: torch.nn.Module, model: torch.nn.Module, over: Callable[[], None]
    ) -> None:
        """No forward has begun yet.

        Args:
            run: Gets what is found.
            core: The model that is recorded.
            model: What is called: it, or a wrapper around it.
            over: Called when no further forward is to be told of.
        """
        self._core, self._model, self._all_over = core, model, over
        self._timed = TimedForward(run, core, model, over=self.tell_if_over)
        self._inspections = Inspections(run, over=self.tell_if_over)
        self._watched = WatchedSteps(run, over=self.tell_if_over)

    def tell_if_over(self) -> None:
        """Says so where no later forward is waited for."""
        if self._timed.is_over and self._inspections.is_over and self._watched.is_over:
            self._all_over()

    def recorded(self, goes_on: bool) -> None:
        """The recording is made; forwards that follow are counted.

        Args:
            goes_on: Whether it goes on after the forward, to the backward.
        """
        if runs_compiled(self._model):  # our hooks would become a part of the compiled code
            self._timed.give_up("torch.compile fuses the ops of the model")
        self._watched.give_up_if_compiled(self._model)
        if goes_on:  # a forward alone would be another graph each time
            self._watched.give_up("it goes on to the loss, a later step's forward ends before")
        self.tell_if_over()

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward begins.

        Args:
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        self._timed.before()
        self._inspections.before(self._core)
        is_busy = self._timed.is_timing or self._inspections.is_looking
        if self._watched.is_next(self._model, is_busy):
            self._watched.before(self._core, self._model, args, kwargs)
        self.tell_if_over()

    def after_timed(self, result: Any) -> bool:
        """A call of the model ends, maybe one inside of the forward.

        Args:
            result: What it returned.

        Returns:
            Whether a forward is being timed in this thread, or was until now.
        """
        return self._timed.after(result)

    def after(self, result: Any) -> None:
        """A forward has returned, or raised.

        Args:
            result: What it returned.
        """
        self._inspections.end_forward()
        self._watched.after(result)

    def call(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a watched method.

        Args:
            inner: The method.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returned.
        """
        self._inspections.before(self._core)
        if self._watched.is_next(self._core, self._inspections.is_looking):
            named = inspect.signature(inner)
            self._watched.before(self._core, self._core, args, kwargs, named, False)
        try:
            result = inner(*args, **kwargs)
        except BaseException:
            self._watched.close()
            raise
        finally:
            self._inspections.end_forward()
        self._watched.after(result)
        return result

    def close(self) -> None:
        """Training has ended."""
        self._timed.close()
        self._inspections.close()
        self._watched.close()
