"""What a hook says whose model did not run."""

from __future__ import annotations

from collections.abc import Sequence

_NEVER = (
    "No forward of it ran in training mode, or with gradients, between the making of the hook and "
    "its end. Make the hook before the loop, call the module itself rather than its forward(), "
    "and call model.train(). Where another method is trained, name it: GraphHook(model, "
    'method="loss"); trace(model, x) records one call at once. Where a function around the model '
    "is compiled, compile the model instead."
)
_NEVER_CALLED = (
    "The method {names} was not called between the making of the hook and its end. Name in "
    "method= what the loop calls, or record one call with trace(model.{names}, ...)."
)
_COPY = (
    "A copy of the model ran in its place (copy.deepcopy, or a trainer that copies): make the "
    "GraphHook with the copy, or record it with trace(copy, x)."
)


def why_nothing(methods: Sequence[str], copy_ran: bool) -> str:
    """Why there is no recording, and what to do.

    Args:
        methods: The methods that were watched instead of the forward.
        copy_ran: Whether a copy of the model ran.
    """
    if copy_ran:
        return _COPY
    if methods:
        return _NEVER_CALLED.format(names=" or ".join(methods))
    return _NEVER
