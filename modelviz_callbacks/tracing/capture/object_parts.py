"""What lies in an object, found without running any code of its class, and whether tensors do."""

from __future__ import annotations

import collections
import contextlib
import functools
import types
from typing import Any

import torch

# Values that hold no tensor and cannot change: kept as they are.
PLAIN_TYPES = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type(Ellipsis),
    type,
    range,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    torch.SymInt,
    torch.SymFloat,
    torch.SymBool,
)


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object keeps in its dictionary and in its slots, past any code of its class."""
    found: dict[str, Any] = {}
    with contextlib.suppress(AttributeError, TypeError):  # has slots only
        found |= object.__getattribute__(value, "__dict__")
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            # Python's own name for a private slot.
            mangled = name.startswith("__") and not name.endswith("__")
            stored = f"_{cls.__name__.lstrip('_')}{name}" if mangled else name
            member = vars(cls).get(stored)
            if isinstance(member, types.MemberDescriptorType):
                try:
                    found.setdefault(stored, member.__get__(value))
                except AttributeError:
                    continue  # not set
    return found


def is_plain_object(value: Any) -> bool:
    """Whether it is an instance that keeps data; no module, class or function."""
    return not issubclass(
        type(value),
        (
            torch.nn.Module,
            type,
            types.ModuleType,
            types.FunctionType,
            types.MethodType,
            types.BuiltinFunctionType,
        ),
    )


# Objects looked at before a structure counts as one without tensors: it may be all of a program.
_MOST_OBJECTS = 5_000


def mentions_tensor(value: Any, depth: int, seen: set[int]) -> bool:
    """Whether a tensor lies a few attributes or items down."""
    kind = type(value)
    if issubclass(kind, torch.Tensor):
        return True
    if depth >= 4 or issubclass(kind, PLAIN_TYPES) or id(value) in seen:
        return False
    seen.add(id(value))
    if len(seen) > _MOST_OBJECTS:
        return False
    return any(mentions_tensor(part, depth + 1, seen) for part in _parts_of(value))


def _parts_of(value: Any) -> list[Any]:
    """What lies directly in a value, found without calling any code of its class."""
    kind = type(value)
    if issubclass(kind, dict):
        return [*dict.values(value), *attributes_of(value).values()]
    if issubclass(kind, tuple):
        return [*tuple.__iter__(value), *attributes_of(value).values()]
    if issubclass(kind, list):
        return [*list.__iter__(value), *attributes_of(value).values()]
    if issubclass(kind, (set, frozenset)):
        return list(value)
    if issubclass(kind, collections.deque):
        return [*collections.deque.__iter__(value), *attributes_of(value).values()]
    if kind is functools.partial:
        return [value.args, value.keywords]
    if kind is types.MappingProxyType:
        return list(value.values())
    return list(attributes_of(value).values()) if is_plain_object(value) else []


def is_harmless(value: Any) -> bool:
    """Whether keeping the value keeps no tensor alive."""
    return not mentions_tensor(value, 0, set())
