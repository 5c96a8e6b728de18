"""Waits for the first step of an optimizer."""

from __future__ import annotations

from typing import Any

from torch.optim import optimizer as optimizer_hooks

from modelviz_callbacks.tracing import StepHook


class FirstUpdate:
    """Whether any optimizer has made a step since this was made.

    Attributes:
        has_come: That.
    """

    def __init__(self) -> None:
        """Begins to wait."""
        self.has_come = False
        self._hook = StepHook(optimizer_hooks.register_optimizer_step_post_hook, self._note)

    def _note(self, *_: Any) -> None:
        self.has_come = True

    def close(self) -> None:
        """Waits no more; safe to call again."""
        self._hook.remove()
