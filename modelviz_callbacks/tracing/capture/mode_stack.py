"""torch's stack of function modes: on it, off it, wherever on it."""

from __future__ import annotations

import threading

from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture import torch_internals

# The modes that were pushed in this thread, for a torch that does not tell what is on the stack.
_pushed = threading.local()


def push_mode(mode: TorchFunctionMode) -> None:
    """Puts a mode on top of this thread's stack."""
    torch_internals.push_mode(mode)
    _pushed.modes = [*_own(), mode]


def is_active(mode: TorchFunctionMode) -> bool:
    """Whether a mode is on this thread's stack."""
    stack = torch_internals.mode_stack()
    return any(other is mode for other in (_own() if stack is None else stack))


def remove_mode(mode: TorchFunctionMode) -> None:
    """Takes one mode off this thread's stack, wherever on it it is."""
    _pushed.modes, was_pushed = [other for other in _own() if other is not mode], is_active(mode)
    if not was_pushed:
        return
    above: list[TorchFunctionMode] = []
    while (top := torch_internals.pop_mode()) is not mode:
        above.append(top)
    for other in reversed(above):
        torch_internals.push_mode(other)


def _own() -> list[TorchFunctionMode]:
    return getattr(_pushed, "modes", [])
