"""What people call a torch function, and what its arguments are called.

Functions written in Python say so themselves; for compiled ones the names are those of the
ATen schema that fits the arguments (``aten::conv2d(Tensor input, Tensor weight, ...)``), which
is also what the documentation uses. Where neither is known the arguments are ``arg0``, ...
"""

from __future__ import annotations

import inspect
import types
from functools import cache
from typing import Any

import torch

from modelviz_callbacks.graph.op_facts import OP_FACTS, OpFact
from modelviz_callbacks.tracing.capture.tape import TensorRecord
from modelviz_callbacks.tracing.capture.torch_internals import (
    OpOverload,
    OpOverloadPacket,
    packet_name,
    schema_name,
    schema_of,
    schemas_of,
)
from modelviz_callbacks.tracing.op_facts import property_name, torch_name

_OPERATORS = {
    "__getitem__": ("input", "index"),
    "__setitem__": ("input", "index", "value"),
    "__get__": ("input",),
    "__set__": ("input", "value"),
}
_NUMBERS = (int, float, complex, bool)

# Operators that have an in-place form: ``add`` of ``__iadd__``.
_INPLACE = frozenset(
    name[3:-2]
    for name, facts in OP_FACTS.items()
    if OpFact.WRITES in facts and name.startswith("__i")
)


@cache
def op_name(func: Any) -> str:
    """What people call it: ``conv2d``, ``add``, ``getitem``, ``data``."""
    if isinstance(func, OpOverload):
        return schema_name(func).rpartition("::")[2]
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":
        return property_name(func)
    if name == "__set__":
        return f"set_{property_name(func)}"
    if name.startswith("__") and name.endswith("__"):
        bare = name[2:-2]
        return f"{bare[1:]}_" if bare.startswith("i") and bare[1:] in _INPLACE else bare
    return name.strip("_") + ("_" if name.endswith("_") else "") or name


def named_arguments(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Any]]:
    """The arguments of a call, each with its name, in the order of the call.

    Args:
        func: The torch function called.
        args: Its positional arguments as they stand on the tape.
        kwargs: Its keyword arguments likewise.

    Returns:
        Pairs of name and value; sizes given one by one (``x.view(2, 3)``) become one tuple.
    """
    names, collects_rest = _positional_names(func, args)
    if collects_rest and len(args) >= len(names):
        args = (*args[: len(names) - 1], _rest(args[len(names) - 1 :]))
    pairs = [
        (names[index] if index < len(names) else f"arg{index}", value)
        for index, value in enumerate(args)
    ]
    return pairs + list(kwargs.items())


def _rest(values: tuple[Any, ...]) -> Any:
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        return values[0]
    return values


def _positional_names(func: Any, args: tuple[Any, ...]) -> tuple[tuple[str, ...], bool]:
    is_accessor = isinstance(func, types.MethodWrapperType)
    name = func.__name__ if is_accessor else torch_name(func)
    if name in _OPERATORS:
        return _OPERATORS[name], False
    if inspect.isfunction(func):
        names, collects = _python_names(func)
        testing = torch.overrides.get_testing_overrides().get(func)
        # `max_pool2d(*args)` only picks one of two functions: torch's own table knows better.
        if names not in ((), ("args",)):
            return names, collects
        if testing is not None:
            return _python_names(testing)
    kinds = tuple(_kind(value) for value in args)
    return _schema_names(func, kinds)


@cache
def _python_names(func: Any) -> tuple[tuple[str, ...], bool]:
    try:
        found = inspect.signature(func).parameters.values()
    except ValueError:  # a wrapper around a compiled method
        return (), False
    names = [
        "input" if parameter.name == "self" else parameter.name
        for parameter in found
        if parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    collects = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in found)
    return tuple(names), collects


def _kind(value: Any) -> str:
    """What a schema would call an argument's type."""
    if isinstance(value, TensorRecord):
        return "Tensor"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, _NUMBERS):
        return "int" if isinstance(value, int) else "float"
    if isinstance(value, (tuple, list)):
        inner = {_kind(item) for item in value}
        if inner <= {"int"}:
            return "int[]"
        return "Tensor[]" if "Tensor" in inner else "list"
    if isinstance(value, torch.dtype):
        return "dtype"
    return "str" if isinstance(value, str) else "None" if value is None else "other"


@cache
def _schema_names(func: Any, kinds: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    best: tuple[int, tuple[str, ...], bool] = (-1, (), False)
    for schema in _schemas(func):
        positional = [argument for argument in schema.arguments if not argument.kwarg_only]
        types = [str(argument.type) for argument in positional]
        collects = _collects(types, kinds)
        if len(kinds) > len(types) and not collects:
            continue
        score = sum(
            _fits(kind, types[min(index, len(types) - 1)]) for index, kind in enumerate(kinds)
        )
        if score > best[0]:
            names = [argument.name for argument in positional]
            used = names[: names.index(names[len(types) - 1]) + 1] if collects else names
            best = (score, tuple("input" if n == "self" else n for n in used), collects)
    if best[0] >= 0:
        return best[1], best[2]
    testing = torch.overrides.get_testing_overrides().get(func)
    return _python_names(testing) if inspect.isfunction(testing) else ((), False)


def _collects(types: list[str], kinds: tuple[str, ...]) -> bool:
    """Whether the last arguments are sizes given one by one for a list at the end."""
    if not types or not types[-1].startswith(("List[int]", "List[SymInt]")):
        return False
    tail = kinds[len(types) - 1 :]
    return len(tail) > 0 and all(kind in ("int", "Tensor") for kind in tail)


def _fits(kind: str, declared: str) -> int:
    wanted = {
        "Tensor": ("Tensor", "Optional[Tensor]"),
        "Tensor[]": ("List[Tensor]", "List[Optional[Tensor]]"),
        "int": ("int", "number", "List[int]", "Optional[int]", "Optional[List[int]]", "float"),
        "float": ("float", "number", "Optional[float]", "Optional[number]"),
        "bool": ("bool", "Optional[bool]"),
        "int[]": ("List[int]", "Optional[List[int]]", "List[SymInt]"),
        "str": ("str", "Optional[str]"),
        "dtype": ("int", "Optional[int]"),
        "None": (),
    }.get(kind, ())
    if kind == "None":
        return 2 if declared.startswith("Optional") else 0
    return 3 if declared in wanted else 0


def _schemas(func: Any) -> list[Any]:
    if isinstance(func, OpOverload):
        return [schema for schema in (schema_of(func),) if schema is not None]
    if isinstance(func, OpOverloadPacket):
        return list(schemas_of(packet_name(func)))
    name = torch_name(func)
    if not name:
        return []  # somebody's own, which the schema of torch's function of that name does not fit
    bare = name[2:-2] if name.startswith("__") and name.endswith("__") else name
    found: list[Any] = list(schemas_of(f"aten::{name}"))
    if not found and bare != name:
        bare = f"{bare[1:]}_" if bare[1:] in _INPLACE and bare[0] == "i" else bare
        bare = bare[1:] if bare[0] == "r" and bare[1:] in _INPLACE else bare
        found = list(schemas_of(f"aten::{bare}"))
    return found
