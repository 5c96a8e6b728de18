"""Torch functions by name, so that another process finds the same ones.

A function that has come by its name may be called when a program is replayed. So a name is looked
up among what a recorder sees torch call and nowhere else: ops by the dispatcher's registry, and
functions and methods in a fixed list of torch's modules, where they are read from the module's own
table. No name leads to an import, but for the packages in `_LIBRARIES`. Whatever is not found is a
function that has the names of the one recorded and cannot be called.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.util
import inspect
import math
import operator
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture import functorch_levels
from modelviz_callbacks.tracing.capture.internal_names import FUNCTION_HOMES, FUNCTION_MAKERS
from modelviz_callbacks.tracing.capture.qualified_names import name_of_once
from modelviz_callbacks.tracing.capture.torch_internals import (
    OWN_FUNCTIONS,
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    overload_name,
    packet_name,
    schema_name,
)
from modelviz_callbacks.tracing.op_facts import property_name

# Opens a file.
_REFUSED = frozenset(("from_file",))

# Functions of Python that values of torch's own (symbolic sizes) are handed to.
_PYTHON: dict[str, Any] = {
    f"{home.__name__}.{name}": getattr(home, name)
    for home, names in (
        (builtins, "abs all any divmod len max min pow round sum"),
        (math, "ceil floor pow prod sqrt trunc"),
        (
            operator,
            "add and_ eq floordiv ge getitem gt invert le lshift lt matmul mod mul ne neg not_ "
            "or_ pos pow rshift setitem sub truediv xor",
        ),
    )
    for name in names.split()
}

# Functions of ours that stand for what a transform did.
_OWN: dict[str, Any] = {
    func.__name__: func
    for func in (
        functorch_levels.add_batch_dim,
        functorch_levels.as_strided,
        functorch_levels.enter_layer,
        functorch_levels.expand_batch_dims,
        functorch_levels.leave_layer,
        functorch_levels.permute,
        functorch_levels.remove_batch_dim,
        functorch_levels.requires_grad_,
        functorch_levels.unwrap_for_grad,
        functorch_levels.wrap_for_grad,
    )
}

# Libraries of ops: what their ops are named after -> the package that registers them.
_LIBRARIES = {
    "fbgemm": "fbgemm_gpu",
    "pyg": "pyg_lib",
    "torch_cluster": "torch_cluster",
    "torch_scatter": "torch_scatter",
    "torch_sparse": "torch_sparse",
    "torch_spline_conv": "torch_spline_conv",
    "torchaudio": "torchaudio",
    "torchvision": "torchvision",
    "xformers": "xformers.ops",
}

_METHODS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
_COMPILED = (types.BuiltinFunctionType, *_METHODS)

# A row of JSON: what kind of name it is, and the name.
Row = list[Any]


def name_of(func: Callable[..., Any]) -> Row:
    """The name of a function.

    Args:
        func: Anything that was called as a torch function.

    Returns:
        What `function_of` finds it by; a function that only its own process knows becomes one
        that cannot be called, with the same names.
    """
    if isinstance(func, OpOverload):
        return ["op", schema_name(func), overload_name(func)]
    if isinstance(func, OpOverloadPacket):
        return ["op", packet_name(func), ""]
    if isinstance(func, HigherOrderOperator):
        return ["op", f"higher_order::{func.__name__}", ""]
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        owner = property_name(func)
        if _property(owner, name) == func:
            return ["property", owner, name]
    if _OWN.get(name) is func:
        return ["own", name]
    path = f"{getattr(func, '__module__', '')}.{name}".replace("_operator.", "operator.")
    if _PYTHON.get(path) is func:
        return ["python", path]
    if isinstance(func, (types.FunctionType, *_COMPILED)):
        for home, qualname in _possible_places(func):
            if _same(_at(home, qualname), func):
                return ["torch", home, qualname]
    return ["unknown", *_names_of(func)]


def _possible_places(func: Any) -> list[tuple[str, str]]:
    """Where a function of torch may stand: a module and a name in it."""
    name = str(func.__name__)
    home = getattr(func, "__module__", None) or ""
    found = [(home, str(func.__qualname__)), ("torch", name), ("torch", f"Tensor.{name}")]
    path = torch.overrides.resolve_name(func) or ""
    home, _, last = path.rpartition(".")
    return [*found, (home, last), (home.rpartition(".")[0], ".".join(path.split(".")[-2:]))]


def _same(found: Any, func: Any) -> bool:
    return found is func or (isinstance(func, types.BuiltinFunctionType) and bool(found == func))


def _names_of(func: Any) -> tuple[str, str, str, list[list[Any]] | None]:
    home, _, last = name_of_once(func).rpartition(".")
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # compiled
        return home, last, str(getattr(func, "__name__", last)), None
    rows = [[parameter.name, int(parameter.kind)] for parameter in parameters]
    return home, last, str(getattr(func, "__name__", last)), rows


# --- what the other process does


def function_of(row: Row) -> Any:
    """A function by its name.

    Args:
        row: From `name_of`.

    Returns:
        The function, or one that has its names and raises when called.

    Raises:
        ValueError: It is no name.
        TypeError: Likewise.
    """
    kind, *names = row
    if kind == "unknown":
        return _unknown_of(*names)
    if not names or not all(type(name) is str for name in names):
        raise ValueError(f"{kind!r} is followed by no name")
    readers: dict[str, Callable[..., Any]] = {
        "op": _op,
        "property": _property,
        "own": _OWN.get,
        "python": _PYTHON.get,
        "torch": _at,
    }
    found = readers[kind](*names)
    if found is None:
        raise ValueError(f"there is no function {'.'.join(names)} that may be called")
    return found


def _unknown_of(module: Any, qualname: Any, name: Any, rows: Any) -> Any:
    if not all(type(one) is str for one in (module, qualname, name)):
        raise ValueError("the names of a function are text")
    kinds = None if rows is None else tuple([(label, kind) for label, kind in rows])
    return _unknown(module, qualname, name, kinds)


def _op(name: str, overload: str) -> Any:
    """An op of ``torch.ops``, if one of this name is registered."""
    space, _, bare = name.partition("::")
    packet = None if bare in _REFUSED else _registered(space, bare)
    if packet is None and space in _LIBRARIES and _import_library(_LIBRARIES[space]):
        packet = _registered(space, bare)
    if isinstance(packet, OpOverloadPacket) and overload:
        known = overload in packet.overloads()
        packet = getattr(packet, overload) if known else None
    if packet is None:
        return _unknown(f"torch.ops.{space}", bare, bare, None)
    return packet


def _registered(space: str, bare: str) -> Any:
    # What `torch.ops` has by itself (`load_library`) is in its class; the rest are ops.
    if not space.isidentifier() or not bare.isidentifier() or hasattr(type(torch.ops), space):
        return None
    found = getattr(getattr(torch.ops, space), bare, None) if not bare.startswith("__") else None
    return found if isinstance(found, (OpOverloadPacket, HigherOrderOperator)) else None


def _import_library(name: str) -> bool:
    """Imports one of `_LIBRARIES` from where torch itself is installed."""
    root = name.partition(".")[0]
    if root not in sys.modules:
        spec = importlib.util.find_spec(root)
        site = Path(torch.__file__).parents[1]
        if spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(site):
            return False
    with contextlib.suppress(Exception, SystemExit):
        importlib.import_module(name)
        return True
    return False


def _property(name: str, which: str) -> Any:
    """How a property of tensors is read or written; ``None`` where there is none."""
    if which not in ("__get__", "__set__"):
        return None
    found = inspect.getattr_static(torch.Tensor, name, None)
    is_property = isinstance(found, (property, types.GetSetDescriptorType))
    return getattr(found, which) if is_property else None


def _at(home: str, qualname: str) -> Any:
    """What stands at ``torch``, ``Tensor.add``; ``None`` where nothing does that may be called."""
    module = sys.modules.get(home)
    if home not in FUNCTION_HOMES or module is None:
        return None
    owner, _, name = qualname.rpartition(".")
    if owner:
        if owner not in ("Tensor", "TensorBase"):
            return None
        found = inspect.getattr_static(torch.Tensor, name, None)
        if isinstance(found, (staticmethod, classmethod, types.ClassMethodDescriptorType)):
            found = found.__get__(None, torch.Tensor)
    else:
        found = vars(module).get(name)
        if module is torch and not _is_open(found):
            found = getattr(OWN_FUNCTIONS, name, None)  # another library has replaced it
    return found if name not in _REFUSED and _is_open(found) else None


def _is_open(func: Any) -> bool:
    """Whether it is one of torch's own functions on tensors."""
    if isinstance(func, types.FunctionType):
        if func.__module__ == "torch":
            return func.__name__.lstrip("_").startswith("sym_")
        return func.__module__ in FUNCTION_MAKERS
    if isinstance(func, types.BuiltinFunctionType):
        owner = func.__self__
        if isinstance(owner, types.ModuleType):
            return owner.__name__ in FUNCTION_HOMES
        if isinstance(owner, type):  # Tensor._make_subclass
            return issubclass(torch.Tensor, owner)
        # A static method of the class that has torch's functions; others (`fork`) have an owner.
        return owner is None and func.__module__ == "torch"
    return isinstance(func, _METHODS) and issubclass(torch.Tensor, func.__objclass__)


@cache
def _unknown(
    module: str, qualname: str, name: str, rows: tuple[tuple[str, int], ...] | None
) -> Callable[..., Any]:
    """A function that has the names of another one, which this process does not know."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise ReplayError(
            f"{module}.{qualname} is known in the training process only. Pass "
            "background=False to have it called."
        )

    unknown.__module__, unknown.__qualname__, unknown.__name__ = module, qualname, name
    if rows is not None:
        kinds = {int(kind): kind for kind in inspect._ParameterKind}
        parameters = [inspect.Parameter(name, kinds[kind]) for name, kind in rows]
        unknown.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return unknown
