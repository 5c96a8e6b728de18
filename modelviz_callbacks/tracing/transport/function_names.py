"""Torch functions by name, so that another process finds the same ones."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import pickle
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.capture.torch_internals import (
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    home_of_custom_op,
    overload_name,
    packet_name,
    schema_name,
)
from modelviz_callbacks.tracing.op_facts import property_name

# The room whose functions both processes have.
_TRACING = __package__.rpartition(".")[0]

_COMPILED = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)


def reduced(func: Callable[..., Any]) -> Any:
    """How pickle rebuilds a function: as ``object.__reduce__`` says it.

    Args:
        func: Anything that was called as a torch function.

    Returns:
        A function and its arguments, or a name; a function that only its own process knows
        becomes one that cannot be called, with the same names.
    """
    if isinstance(func, OpOverload):
        name = schema_name(func)
        return _operator, (name, overload_name(func), _home_of_op(name))
    if isinstance(func, OpOverloadPacket):
        name = packet_name(func)
        return _operator, (name, "", _home_of_op(name))
    if isinstance(func, HigherOrderOperator):
        return _operator, (f"higher_order::{func.__name__}", "", "")
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        owner = property_name(func)
        if getattr(getattr(torch.Tensor, owner, None), name, None) == func:
            return _accessor, (owner, name)
    if getattr(func, "__module__", "").startswith(_TRACING):
        return NotImplemented  # what the bytes themselves are read with
    if inspect.isfunction(func) and _is_installed(func.__module__) and _found(func) is func:
        home, qualname = func.__module__, func.__qualname__
        # How a call of it would look matters only where it cannot be imported.
        return _imported, (home, qualname, *(() if _is_torchs(home) else _names_of(func)))
    if isinstance(func, _COMPILED) and _owner_is_shared(func) and _pickles(func):
        return NotImplemented
    path = torch.overrides.resolve_name(func) or ""
    if path.startswith("torch.") and _at(path) is func:
        return _at, (path,)
    return _unknown, _names_of(func)


def _is_torchs(name: str) -> bool:
    return name.partition(".")[0] == "torch"


def _is_installed(name: str) -> bool:
    """Whether a module is a library's: importing it again elsewhere does what it did here."""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    is_here = name.partition(".")[0] == __package__.partition(".")[0]
    return (is_here or _is_torchs(name)) or (
        f"{os.sep}site-packages{os.sep}" in file and not _is_script(name)
    )


def _found(func: Any) -> Any:
    """What stands in a function's module under its name."""
    found: Any = sys.modules[func.__module__]
    for part in func.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def _owner_is_shared(func: Any) -> bool:
    """Whether a compiled function is bound to no object that would have to go along."""
    owner = getattr(func, "__self__", None)
    return owner is None or isinstance(owner, (type, types.ModuleType))


def _pickles(value: Any) -> bool:
    try:
        return bool(pickle.loads(pickle.dumps(value)) == value)
    except Exception:
        return False


def _home_of_op(name: str) -> str:
    """The module whose import defines a custom op, if it can be told; never the user's script."""
    # A library that registers its ops without telling where mostly names them after itself.
    for module in (home_of_custom_op(name), name.partition("::")[0]):
        if module in sys.modules and not _is_script(module):
            return str(module)
    return ""


def _is_script(name: str) -> bool:
    """Whether importing a module would run the program that is running, again."""
    main = sys.modules.get("__main__")
    file, script = (getattr(module, "__file__", None) for module in (sys.modules[name], main))
    return sys.modules[name] is main or (file is not None and file == script)


def _names_of(func: Any) -> tuple[str, str, str, tuple[tuple[str, int], ...] | None]:
    home, _, last = qualified_name(func).rpartition(".")
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # compiled
        return home, last, getattr(func, "__name__", last), None
    rows = tuple((parameter.name, int(parameter.kind)) for parameter in parameters)
    return home, last, getattr(func, "__name__", last), rows


# --- what the other process calls


def _imported(home: str, qualname: str, *names: Any) -> Any:
    """A function of a library; one that is not installed here is one that cannot be called."""
    with contextlib.suppress(Exception, SystemExit):
        found: Any = importlib.import_module(home)
        for part in qualname.split("."):
            found = getattr(found, part)
        return found
    return _unknown(*names)


def _operator(name: str, overload: str, home: str) -> Any:
    """An op of ``torch.ops``; what defines it is imported if need be."""
    space, _, bare = name.partition("::")
    if home:
        with contextlib.suppress(Exception, SystemExit):
            importlib.import_module(home)
    packet = getattr(getattr(torch.ops, space), bare, None)
    if packet is None:
        return _unknown(f"torch.ops.{space}", bare, bare, None)
    return getattr(packet, overload) if overload else packet


def _accessor(name: str, which: str) -> Any:
    return getattr(getattr(torch.Tensor, name), which)


def _at(path: str) -> Any:
    """What stands at ``torch.Tensor.add``; ``None`` where nothing does."""
    home: Any = torch
    for name in path.split(".")[1:]:
        home = getattr(home, name, None)
    return home


@cache
def _unknown(
    module: str, qualname: str, name: str, rows: tuple[tuple[str, int], ...] | None
) -> Callable[..., Any]:
    """A function that has the names of another one, which this process does not know."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise ReplayError(
            f"{module}.{qualname} is known in the training process only. Define it in a module "
            "that can be imported, or pass background=False."
        )

    unknown.__module__, unknown.__qualname__, unknown.__name__ = module, qualname, name
    if rows is not None:
        kinds = {int(kind): kind for kind in inspect._ParameterKind}
        parameters = [inspect.Parameter(name, kinds[kind]) for name, kind in rows]
        unknown.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return unknown
