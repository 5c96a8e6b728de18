"""Torch functions by name, so that another process finds the same ones."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.torch_calls import property_name


def reduced(func: Callable[..., Any]) -> Any:
    """How pickle rebuilds a function: as ``object.__reduce__`` says it.

    Args:
        func: Anything that was called as a torch function.

    Returns:
        A function and its arguments, or a name; a function that only its own process knows
        becomes one that cannot be called, with the same names.
    """
    if isinstance(func, torch._ops.OpOverload):
        name = func._schema.name
        return _operator, (name, func._overloadname, _home_of_op(name))
    if isinstance(func, torch._ops.OpOverloadPacket):
        name = func._qualified_op_name
        return _operator, (name, "", _home_of_op(name))
    if isinstance(func, torch._ops.HigherOrderOperator):
        return _operator, (f"higher_order::{func.__name__}", "", "")
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        owner = property_name(func)
        if getattr(getattr(torch.Tensor, owner, None), name, None) == func:
            return _accessor, (owner, name)
    if _is_importable(func):
        return f"{func.__qualname__}"
    if not inspect.isfunction(func) and _pickles(func):
        return NotImplemented
    path = torch.overrides.resolve_name(func) or ""
    if path.startswith("torch.") and _at(path) is func:
        return _at, (path,)
    return _unknown, _names_of(func)


def _is_importable(func: Any) -> bool:
    """Whether a Python function is found again by its module and name."""
    module = sys.modules.get(getattr(func, "__module__", None) or "")
    if not inspect.isfunction(func) or module is None or module.__name__ == "__main__":
        return False
    found: Any = module
    for part in func.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is func


def _pickles(value: Any) -> bool:
    try:
        return bool(pickle.loads(pickle.dumps(value)) == value)
    except Exception:
        return False


def _home_of_op(name: str) -> str:
    """The module whose import defines a custom op, if it can be told."""
    definition = getattr(sys.modules.get("torch._library.custom_ops"), "OPDEFS", {}).get(name)
    home = getattr(getattr(definition, "_init_fn", None), "__module__", "")
    return "" if home == "__main__" else home


def _names_of(func: Any) -> tuple[str, str, str, tuple[tuple[str, int], ...] | None]:
    from modelviz_callbacks.tracing.signatures import qualified_name

    home, _, last = qualified_name(func).rpartition(".")
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # compiled
        return home, last, getattr(func, "__name__", last), None
    rows = tuple((parameter.name, int(parameter.kind)) for parameter in parameters)
    return home, last, getattr(func, "__name__", last), rows


# --- what the other process calls


def _operator(name: str, overload: str, home: str) -> Any:
    """An op of ``torch.ops``; what defines it is imported if need be."""
    space, _, bare = name.partition("::")
    for module in ("", home, space):
        if module:
            try:
                importlib.import_module(module)
            except Exception:
                continue
        packet = getattr(getattr(torch.ops, space), bare, None)
        if packet is not None:
            return getattr(packet, overload) if overload else packet
    return _unknown(f"torch.ops.{space}", bare, bare, None)


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
