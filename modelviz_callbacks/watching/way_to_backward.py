"""From the end of a model's forward to the backward, where the loss is recorded, too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from modelviz_callbacks.tracing import Capture, modules_under_way, runs_compiled, unwrapped


class WayToBackward:
    """Whether a recording goes on after its forward, and the further calls that it takes in.

    Attributes:
        is_wanted: Whether it is to go on.
    """

    def __init__(self, core: torch.nn.Module, model: torch.nn.Module) -> None:
        """Nothing is on its way.

        Args:
            core: The model that is recorded.
            model: What is called: it, or a wrapper around it.
        """
        self._core, self._model = core, model
        self._depth = 0  # of a further call: the model may call itself
        self._is_on = False
        self.is_wanted = False

    @property
    def is_on(self) -> bool:
        """Whether a recording is on its way."""
        return self._is_on

    def begin(self, capture: Capture, result: Any) -> bool:
        """Goes on with the recording of a forward, or method, that returned.

        Args:
            capture: The recording.
            result: What was returned.

        Returns:
            Whether there is a backward to wait for.
        """
        if not self.is_wanted or runs_compiled(self._model):
            return False
        if any(unwrapped(m) is not self._core for m in modules_under_way(sys._getframe(1))):
            return False  # a part of a larger model: the rest of that would be recorded
        self._is_on, self._depth = capture.go_on_to_backward(result), 0
        return self._is_on

    def takes_call(
        self, capture: Capture | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether a call of the model that begins now is recorded as a part of the step.

        Two pictures that are compared, the steps of an episode: all are, as long as not too much
        has run without a backward.

        Args:
            capture: The recording that is under way, if any.
            args: The call's positional arguments.
            kwargs: Its keyword arguments.
        """
        if not self._is_on or capture is None or not capture.is_here() or capture.saw_backward:
            return False
        if not self._depth and not (capture.forward and capture.forward.begins(args, kwargs)):
            return False
        self._depth += 1
        return True

    def call(
        self,
        capture: Capture | None,
        inner: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Calls a watched method; where `takes_call` took the call, its end is noted."""
        result = None
        try:
            result = inner(*args, **kwargs)
        finally:
            if self._is_on and self._depth and capture is not None and capture.is_here():
                self.call_returned(capture, result)
        return result

    def call_returned(self, capture: Capture, result: Any) -> None:
        """Notes that a call that was taken returned.

        Args:
            capture: The recording.
            result: What the model returned; ``None`` where it raised.
        """
        self._depth = max(0, self._depth - 1)
        if not self._depth and capture.forward is not None:
            capture.forward.ended(result)

    def end(self) -> None:
        """The recording has ended."""
        self._is_on = False
