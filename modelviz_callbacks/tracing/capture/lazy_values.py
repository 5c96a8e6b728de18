"""What computes only when somebody takes values out of it: what it is, and where it lies."""

from __future__ import annotations

import contextlib
import gc
import itertools
import types
from collections.abc import Iterator
from inspect import CO_ITERABLE_COROUTINE, getattr_static
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.object_parts import PLAIN_TYPES

# How deep a result is searched, and in how many of its parts.
_MAX_DEPTH = 4
_MOST_PARTS = 1_000

# Iterators of Python's own that may compute. Others (of a list, a file, a cursor) never become
# something else: they have nothing to record, and more to them than their values.
ITERATORS: tuple[type[Any], ...] = (
    map,
    filter,
    zip,
    enumerate,
    *(one for one in vars(itertools).values() if isinstance(one, type)),
)
_COMPUTING = (
    types.GeneratorType,
    types.CoroutineType,
    types.AsyncGeneratorType,
    *ITERATORS,
)


def is_lazy(result: Any) -> bool:
    """Whether a result computes while values are taken out of it; not if that cannot be told."""
    try:
        return _computes(result)
    except Exception:  # a metaclass of somebody's; the forward goes on
        return False


def _computes(result: Any) -> bool:
    # By the class alone: asking a proxy, or a class whose own class is somebody's, may raise.
    kind = type(result)
    if any(kind is one for one in _COMPUTING):
        # A generator that may be awaited stays: another one may not.
        flags = result.gi_code.co_flags if kind is types.GeneratorType else 0
        return not flags & CO_ITERABLE_COROUTINE
    known = {name for one in type.mro(kind) for name in type.__getattribute__(one, "__dict__")}
    # One with more to it (a length, items, a file) is there already.
    if "__iter__" not in known or not known.isdisjoint(("__len__", "__getitem__", "fileno")):
        return False
    return isinstance(getattr_static(kind, "__next__", None), types.FunctionType)


def lazy_parts(result: Any, path: str = "out") -> list[str]:
    """Where in a result something computes only later, each with what it is.

    Args:
        result: What a forward returned; nothing is taken out of what it holds.
        path: What to call it.
    """
    waiting, found, seen = [(result, path, 0)], list[str](), set[int]()
    while waiting and len(seen) < _MOST_PARTS:
        value, path, depth = waiting.pop(0)
        kind = type(value)
        if issubclass(kind, (torch.Tensor, torch.nn.Module, *PLAIN_TYPES)) or id(value) in seen:
            continue
        seen.add(id(value))
        if is_lazy(value) or kind is types.GeneratorType:
            if _may_compute(value, 0):
                found.append(f"{path} ({kind.__name__})")
        elif depth < _MAX_DEPTH:
            waiting += [(part, f"{path}{step}", depth + 1) for step, part in _parts(value)]
    return found


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What lies directly in a value, found without calling any code of its class."""
    kind = type(value)
    if issubclass(kind, dict):
        yield from ((f"[{key}]", part) for key, part in dict.items(value) if type(key) is str)
        return
    if issubclass(kind, (tuple, list)):
        base: Any = tuple if issubclass(kind, tuple) else list
        yield from ((f"[{place}]", part) for place, part in enumerate(base.__iter__(value)))
        return
    if not issubclass(kind, (types.FunctionType, types.MethodType, types.ModuleType)):
        with contextlib.suppress(AttributeError, TypeError):
            attributes = object.__getattribute__(value, "__dict__")
            yield from ((f".{name}", part) for name, part in dict.items(attributes))


def _may_compute(value: Any, depth: int) -> bool:
    """Whether more may run in something lazy than handing on what is there already."""
    kind = type(value)
    if kind is types.GeneratorType:
        return value.gi_frame is not None  # it has not come to its end
    if kind is types.CoroutineType:
        return value.cr_frame is not None
    if not issubclass(kind, (*ITERATORS, tuple)):
        is_called = any("__call__" in vars(one) for one in type.mro(kind))
        return is_lazy(value) or (is_called and not issubclass(kind, type))
    # A `zip` of lists computes nothing, a `map` calls something.
    return depth < _MAX_DEPTH and any(
        _may_compute(part, depth + 1) for part in gc.get_referents(value) if part is not kind
    )
