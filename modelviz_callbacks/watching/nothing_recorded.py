"""What a hook says whose model did not run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modelviz_callbacks.tracing import is_compiled_elsewhere

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
_COMPILED = (
    "What torch.compile made of the model ran in its place: make the GraphHook with that "
    "(compiled = torch.compile(model); GraphHook(compiled))."
)


def why_nothing(model: torch.nn.Module, methods: Sequence[str], copy_ran: bool) -> str:
    """Why there is no recording, and what to do.

    Args:
        model: The one that was watched.
        methods: The methods that were watched instead of the forward.
        copy_ran: Whether a copy of the model ran.
    """
    if copy_ran:
        return _COPY
    if is_compiled_elsewhere(model):
        return _COMPILED
    if methods:
        return _NEVER_CALLED.format(names=" or ".join(methods))
    return _NEVER
