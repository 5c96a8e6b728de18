"""torch's stack of function modes: on it, off it, wherever on it."""

from __future__ import annotations

from typing import cast

from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)


def push_mode(mode: TorchFunctionMode) -> None:
    """Puts a mode on top of this thread's stack."""
    _push_mode(mode)  # type: ignore[no-untyped-call]


def is_active(mode: TorchFunctionMode) -> bool:
    """Whether a mode is on this thread's stack."""
    return any(other is mode for other in _stack())


def remove_mode(mode: TorchFunctionMode) -> None:
    """Takes one mode off this thread's stack, wherever on it it is."""
    if not is_active(mode):
        return
    above: list[TorchFunctionMode] = []
    while (top := _pop_mode()) is not mode:  # type: ignore[no-untyped-call]
        above.append(top)
    for other in reversed(above):
        push_mode(other)


def _stack() -> list[TorchFunctionMode]:
    return cast(list[TorchFunctionMode], _get_current_function_mode_stack())  # type: ignore[no-untyped-call]
