"""A hook around the steps of all optimizers that may be taken down while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.hooks import RemovableHandle


class StepHook:
    """Calls a function at each step of every optimizer, until it is removed.

    torch goes through its table of these hooks while it calls them, and fails if an entry goes
    meanwhile that is not the last: such a hook stays as one that does nothing.
    """

    def __init__(
        self, register: Callable[[Any], RemovableHandle], call: Callable[..., None]
    ) -> None:
        """Registers it.

        Args:
            register: torch's function for it.
            call: Called as torch calls such a hook.
        """
        self._call: Callable[..., None] | None = call
        self._running = False
        self._handle = register(self._run)

    def _run(self, *args: Any) -> None:
        if self._call is None:
            return
        self._running = True
        try:
            self._call(*args)
        finally:
            self._running = False

    def remove(self) -> bool:
        """Calls nothing any more; safe to call again, and from the function that is called.

        Returns:
            Whether it is gone; else it is to be removed again when it does not run.
        """
        self._call = None
        table = self._handle.hooks_dict_ref()
        if self._running and table and next(reversed(table)) != self._handle.id:
            return False
        self._handle.remove()
        return True
