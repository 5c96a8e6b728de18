"""The table of op facts bound to function objects.

A function is torch's own by what it is, never by its name: an op of one of torch's own
libraries, a compiled function or method of torch, or a Python function whose code is torch's.
A user's ``torch.ops.mylib.item``, a Python function called ``item`` and a method of a tensor
subclass are none of these, whatever ``functools.wraps`` has made them look like.
"""

from __future__ import annotations

import inspect
import types
from functools import cache
from typing import Any

import torch

from modelviz_callbacks.graph.op_facts import OP_FACTS, TORCH_LIBRARIES, OpFact
from modelviz_callbacks.tracing.capture.torch_internals import (
    OpOverload,
    OpOverloadPacket,
    packet_name,
    schema_name,
    schema_of,
)

_SLOTS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)


@cache
def facts_of(func: Any) -> OpFact:
    """What is known about a function; nothing if it is not torch's own.

    Args:
        func: Anything that was called as a torch function.
    """
    return OP_FACTS.get(torch_name(func), OpFact.NONE)


@cache
def torch_name(func: Any) -> str:
    """The name under which a function of torch is in the table.

    Args:
        func: Anything that was called as a torch function.

    Returns:
        ``view``, ``__getitem__``, ``T.__get__``; ``""`` for what is not torch's own.
    """
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        library, _, name = op_of(func).partition("::")
        return name if library in TORCH_LIBRARIES else ""
    name = getattr(func, "__name__", "")
    if isinstance(func, types.MethodWrapperType):
        prop = property_name(func)
        is_own = getattr(torch.Tensor, prop, None) is func.__self__
        return f"{prop}.{name}" if is_own else ""
    return name if _is_torchs(func) else ""


def op_of(func: OpOverload | OpOverloadPacket) -> str:
    """The op with its library: ``aten::view``, without the name of the overload."""
    if isinstance(func, OpOverload):
        return schema_name(func)
    return packet_name(func)


def property_name(func: Any) -> str:
    """The property that a ``__get__`` or ``__set__`` descriptor belongs to (``data``)."""
    owner = getattr(func, "__self__", None)
    return str(getattr(owner, "__name__", getattr(getattr(owner, "fget", None), "__name__", "")))


def home_of(func: Any) -> str | None:
    """The module that a function is from; of one dressed up as torch's the one with its code."""
    home: str | None = getattr(func, "__module__", None)
    if _is_in_torch(home) and isinstance(func, types.FunctionType) and not _code_is_torchs(func):
        code: str = func.__globals__.get("__name__", "")
        return home if code.startswith(_OWN_STUBS) else code
    return home


@cache
def parameters_of(func: Any) -> tuple[str, ...]:
    """The names of the parameters of a function of torch in their order.

    Args:
        func: A Python function, an ATen op, or a compiled function that is one.

    Returns:
        Nothing where they are not known.
    """
    if inspect.isfunction(func):
        try:
            return tuple(inspect.signature(func).parameters)
        except ValueError:  # wrapped around a compiled method
            return ()
    if not isinstance(func, OpOverload):
        func = getattr(getattr(torch.ops.aten, torch_name(func), None), "default", None)
    schema = schema_of(func) if func is not None else None
    return tuple(argument.name for argument in schema.arguments) if schema is not None else ()


# Where functions of the training process are stood in for that this process does not have.
_OWN_STUBS = "modelviz_callbacks."


def _is_torchs(func: Any) -> bool:
    if isinstance(func, types.FunctionType):
        return _is_in_torch(func.__module__) and _code_is_torchs(func)
    if isinstance(func, _SLOTS):
        return issubclass(torch.Tensor, func.__objclass__)
    if isinstance(func, types.BuiltinFunctionType):
        owner = func.__self__ if isinstance(func.__self__, type) else func
        return _is_in_torch(owner.__module__)
    return False


def _code_is_torchs(func: Any) -> bool:
    """Whether torch's code runs, also in each function that this one is wrapped around."""
    while isinstance(func, types.FunctionType):
        if not _is_in_torch(func.__globals__.get("__name__")):
            return False
        func = getattr(func, "__wrapped__", None)
    return True


def _is_in_torch(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "torch"
