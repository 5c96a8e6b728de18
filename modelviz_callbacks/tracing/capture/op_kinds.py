"""What the recorder must know about a torch function before calling it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import Any

from modelviz_callbacks.graph.op_facts import OpFact
from modelviz_callbacks.tracing.capture.torch_internals import (
    OpOverload,
    OpOverloadPacket,
    is_mutable,
    set_grad_enabled,
)
from modelviz_callbacks.tracing.op_facts import facts_of, parameters_of, torch_name


class CallKind(IntEnum):
    """How a torch function is treated while recording."""

    SKIP = 0  # tells something about a tensor (shape, dtype): no node
    PURE = 1  # makes new tensors from its arguments
    WRITE = 2  # writes to its first argument
    CHECK = 3  # may write to an argument: compare version counters
    READ = 4  # hands a tensor's values to Python
    GRADIENT = 6  # reads .grad or switches requires_grad
    DUAL = 7  # makes a dual number of forward-mode differentiation, or takes one apart
    HOOK = 8  # lets autograd call a function: of the forward where that takes gradients itself
    NODE = 9  # gives a node of autograd, whose hooks are put up unseen; no node of the graph
    SIZE = 10  # tells how large a tensor is: no node, but what the forward does may hang on it
    BACKWARD = 5  # runs the autograd engine: nothing in it belongs to the forward


_KINDS = (
    (OpFact.BACKWARD, CallKind.BACKWARD),
    (OpFact.GRADIENT, CallKind.GRADIENT),
    (OpFact.READS_VALUE, CallKind.READ),
    (OpFact.HOOKS, CallKind.HOOK),
    (OpFact.NODE, CallKind.NODE),
    (OpFact.DUAL, CallKind.DUAL),
    (OpFact.TELLS_SIZE, CallKind.SIZE),
    (OpFact.ASKS, CallKind.SKIP),
    (OpFact.WRITES, CallKind.WRITE),
)


@cache
def classify(func: Any) -> CallKind:
    """How to treat a function; only depends on the function."""
    if func is set_grad_enabled:
        return CallKind.SKIP  # each op says whether it ran with gradients
    name, facts = torch_name(func), facts_of(func)
    if not name:
        return CallKind.CHECK  # somebody's own, which may do anything, whatever it is called
    for fact, kind in _KINDS:
        if fact in facts:
            return kind
    if name.endswith(".__get__"):
        is_tensor = facts & (OpFact.GIVES_TENSOR | OpFact.LAYOUT)
        return CallKind.PURE if is_tensor else CallKind.SKIP
    if name.endswith(".__set__"):
        return CallKind.SKIP
    if isinstance(func, OpOverload):
        return CallKind.CHECK
    if name.endswith("_") and not name.endswith("__"):
        return CallKind.WRITE
    # torch's own compiled functions write only where their names say so. Those written in
    # Python (`F.relu(x, inplace=True)`, batch norm's running statistics), and what is called
    # by its ATen name, may.
    if inspect.isfunction(func) or isinstance(func, OpOverloadPacket):
        return CallKind.CHECK
    return CallKind.CHECK if OpFact.MAY_WRITE in facts else CallKind.PURE


@cache
def gives_values(func: Any) -> bool:
    """Whether Python gets hold of values by a function, or may: an op of somebody's own."""
    if classify(func) is CallKind.READ:
        return True
    return isinstance(func, (OpOverload, OpOverloadPacket)) and not torch_name(func)


@cache
def keeps_values(func: Any) -> bool:
    """Whether a function of the kind `CallKind.WRITE` leaves the values as they are."""
    return OpFact.KEEPS_VALUES in facts_of(func)


def written_state(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    """The arguments among which a `CallKind.CHECK` function may find state to write to.

    The recorder keeps the old values of those that are state of the model, so that the
    program can be run again from the same state.

    Args:
        func: The function.
        args: Its positional arguments, encoded or not.
        kwargs: Its keyword arguments, likewise.
    """
    if _declares_writes(func):
        return (*args, *kwargs.values())
    places = _state_places(func)
    if _MAX_NORM in places and _argument(args, kwargs, places[_MAX_NORM], _MAX_NORM) is None:
        return ()
    return [_argument(args, kwargs, place, name) for name, place in places.items()]


# Given this, functions that look embeddings up scale the rows of their weight down.
_MAX_NORM = "max_norm"


@cache
def _declares_writes(func: Any) -> bool:
    if isinstance(func, OpOverloadPacket):
        func = getattr(func, "default", None)
    return isinstance(func, OpOverload) and is_mutable(func)


@cache
def _state_places(func: Any) -> Mapping[str, int]:
    """The parameters of a function that may be state it writes to, with their positions."""
    facts = facts_of(func)
    if OpFact.STATISTICS in facts:
        wanted = ("running_mean", "running_var")
    elif OpFact.RENORMALISES in facts and _MAX_NORM in parameters_of(func):
        wanted = ("weight", _MAX_NORM)
    else:
        return {}
    return {name: place for place, name in enumerate(parameters_of(func)) if name in wanted}


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)
