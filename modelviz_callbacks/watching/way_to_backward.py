"""From the end of a model's forward to the backward, where the loss is recorded, too."""

from __future__ import annotations

import sys
from typing import Any

import torch

from modelviz_callbacks.tracing import Capture, modules_under_way, runs_compiled, unwrapped

# Calls of the model that are recorded on the way: of two pictures that are compared, of a few
# steps in time. With more the first is all that is recorded.
_MOST_CALLS = 8


class WayToBackward:
    """Whether a recording goes on after its forward, and how many further calls it takes in.

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
        self._calls_left = 0
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
        self._is_on, self._calls_left = capture.go_on_to_backward(result), _MOST_CALLS
        return self._is_on

    def takes_call(self, capture: Capture | None) -> bool:
        """Whether a call of the model that begins now is recorded as a part of the step.

        Args:
            capture: The recording that is under way, if any.
        """
        if not self._is_on or capture is None or not capture.is_here() or capture.saw_backward:
            return False
        self._calls_left -= 1
        return self._calls_left > 0

    def end(self) -> None:
        """The recording has ended."""
        self._is_on = False
