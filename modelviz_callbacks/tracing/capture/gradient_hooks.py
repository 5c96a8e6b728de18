"""Functions that a forward lets autograd call, which may change a gradient that it takes itself.

``h.register_hook(clip)`` is of no matter to a forward, until it calls ``torch.autograd.grad``: what
that gives is then made by the hook, too. The call that put it up is on the tape either way, as
one that belongs to the forward only where it has such a use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.hidden_calls import tensors_behind
from modelviz_callbacks.tracing.capture.pytree import Leaf
from modelviz_callbacks.tracing.capture.tape import OpEntry, RawEntry, as_entry

GRAD = torch.autograd.grad


class GradientHooks:
    """The hooks that one forward has put up."""

    def __init__(self) -> None:
        """None are up."""
        self._found: list[tuple[int, Any]] = []

    def note(self, position: int, handle: Any) -> None:
        """Remembers one.

        Args:
            position: Of the call that put it up, on the tape.
            handle: What the call returned.
        """
        self._found.append((position, handle))

    def settle(self, tape: list[RawEntry]) -> None:
        """Lets those that are up at a call of ``torch.autograd.grad`` belong to the forward.

        Args:
            tape: With the calls that put them up, each as none of the forward's.
        """
        for position, handle in self._found:
            entry = as_entry(tape[position]) if position < len(tape) else None
            if isinstance(entry, OpEntry) and _is_up(handle):
                tape[position] = entry._replace(plumbing=False)


def _is_up(handle: Any) -> bool:
    try:
        hooks = handle.hooks_dict_ref()
        return hooks is not None and handle.id in hooks
    except AttributeError:  # another version's: it is taken for one that is
        return True


def replayable(walked: Any, is_state: Callable[[torch.Tensor], bool]) -> Callable[..., Any]:
    """The function that a hook calls, if it is the same one whatever goes into the model.

    Args:
        walked: What `register_hook` was given, walked.
        is_state: Whether a tensor is a parameter or buffer.

    Returns:
        One that refuses where the function can reach values of the recorded forward.
    """
    hook = walked.value if isinstance(walked, Leaf) else None
    if callable(hook) and all(map(is_state, tensors_behind([hook]))):
        return hook  # type: ignore[no-any-return]
    return refuse


def refuse(_: torch.Tensor) -> torch.Tensor:
    """Stands for a hook that cannot be called again.

    Raises:
        ReplayError: Always.
    """
    raise ReplayError(
        "This recording cannot be run again: register_hook was given a function that holds values "
        "of the recorded forward, and a gradient that the forward takes is made by it."
    )
