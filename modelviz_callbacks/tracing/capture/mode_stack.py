"""torch's stack of function modes: on it, off it, wherever on it."""

from __future__ import annotations

import threading

from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture import torch_internals

# The modes that were pushed in this thread, for a torch that does not tell what is on the stack.
_pushed = threading.local()


def push_mode(mode: TorchFunctionMode, below: int = 0) -> None:
    """Puts a mode on this thread's stack, on top of it or below so many others."""
    _pushed.modes = [*_own(), mode]  # before it is there: what fails here leaves nothing behind
    above = [torch_internals.pop_mode() for _ in range(below)]
    torch_internals.push_mode(mode)
    for other in reversed(above):
        torch_internals.push_mode(other)


def is_active(mode: TorchFunctionMode) -> bool:
    """Whether a mode is on this thread's stack."""
    stack = torch_internals.mode_stack()
    return any(other is mode for other in (_own() if stack is None else stack))


def remove_mode(mode: TorchFunctionMode) -> int:
    """Takes one mode off this thread's stack, wherever on it it is.

    Returns:
        How many others were above it.
    """
    above: list[TorchFunctionMode] = []
    if is_active(mode):
        while (top := torch_internals.pop_mode()) is not mode:
            above.append(top)
        for other in reversed(above):
            torch_internals.push_mode(other)
    _pushed.modes = [other for other in _own() if other is not mode]
    return len(above)


def _own() -> list[TorchFunctionMode]:
    return getattr(_pushed, "modes", [])
