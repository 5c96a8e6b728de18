"""Copies of objects that code may change while it runs: counters, meters, generators of numbers.

What is not known to be harmless to copy is shared, or stands as something that must not be touched.
"""

from __future__ import annotations

import copy
import enum
import io
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType, SimpleNamespace
from typing import Any

import torch

_Of = Callable[[Any], Any]

# Their state is all that they are.
_EMPTY: tuple[Any, ...] = ((), [], {}, set(), "", b"", range(0), {}.items(), {}.values())
_ITERATORS: tuple[type[Any], ...] = (
    itertools.chain,
    itertools.count,
    itertools.cycle,
    enumerate,
    zip,
    *(type(iter(one)) for one in _EMPTY),
)
_COPIED: tuple[type[Any], ...] = (random.Random, bytearray, *_ITERATORS)
# Nobody can run them twice.
_RUN_ONCE = (GeneratorType, CoroutineType, AsyncGeneratorType, io.IOBase)
_CONTAINERS = (dict, list, set)

# Objects of these packages know more than what stands in them (processes, files, a trainer).
_NOT_OPENED = frozenset(
    {"torch", "lightning", "lightning_fabric", "pytorch_lightning", "modelviz_callbacks"}
    | sys.stdlib_module_names
)
_OPENED = ("abc", "argparse", "builtins", "collections", "torch.distributions", "typing")
# A class that Python code has defined, as CPython marks it.
_HEAP_TYPE = 1 << 9


class CannotStandInError(Exception):
    """Something that the code uses cannot be copied, or must not be; the text says what."""


class Untouchable:
    """Stands for something that cannot be used a second time."""

    def __init__(self, kind: str) -> None:
        """Stands for one object.

        Args:
            kind: Its class.
        """
        self.__dict__["_kind"] = kind

    def _refuse(self, *_: Any) -> Any:
        raise CannotStandInError(f"it uses a {self.__dict__['_kind']}")

    __getattr__ = __setattr__ = __iter__ = __next__ = __call__ = _refuse
    __enter__ = __exit__ = __len__ = __getitem__ = _refuse


def copy_of_object(value: Any, of: _Of, keep: Callable[[Any, Any], Any]) -> Any:
    """A copy of an object, with copies of what it holds.

    Args:
        value: No tensor, no module, no plain container.
        of: Gives the copy of what it holds.
        keep: Notes a copy, to be called before its contents are copied.

    Returns:
        The copy; the object itself where no copy is known to be like it.
    """
    kind = type(value)
    if isinstance(value, _RUN_ONCE):
        return keep(value, Untouchable(kind.__name__))
    try:
        if isinstance(value, torch.Generator):
            made = torch.Generator(device=value.device)
            made.set_state(value.get_state())
            return keep(value, made)
        if isinstance(value, _COPIED):
            return keep(value, copy.copy(value))
        if _is_of_numpy(kind):
            return keep(value, copy.deepcopy(value))
        if not _may_be_opened(kind):
            return value
        made = _empty_like(value)
    except Exception:  # it may be anything: it is shared then
        return value
    if made is value:
        return value
    keep(value, made)
    _fill(value, made, of)
    return made


def _is_of_numpy(kind: type[Any]) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None or not kind.__module__.startswith("numpy"):
        return False
    return issubclass(kind, (numpy.ndarray, numpy.random.Generator, numpy.random.RandomState))


def _may_be_opened(kind: type[Any]) -> bool:
    if issubclass(kind, (type, enum.Enum, BaseException)) or hasattr(kind, "__del__"):
        return False
    return kind is SimpleNamespace or all(map(_is_plain, kind.__mro__))


def _is_plain(base: type[Any]) -> bool:
    home = base.__module__
    return home.partition(".")[0] not in _NOT_OPENED or home.startswith(_OPENED)


def _empty_like(value: Any) -> Any:
    """Another one of its class, not filled yet; itself where Python code does not define all."""
    kind = type(value)
    bases = [base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE]
    inside = [base for base in bases if base is not object]
    if kind is SimpleNamespace:
        return SimpleNamespace()
    if len(inside) == 1 and inside[0] in _CONTAINERS:
        return inside[0].__new__(kind)
    # One without anything in it is known by what it is.
    return value if inside or not any(_attributes(value)) else object.__new__(kind)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for base in type(value).__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            slot = vars(base).get(name)
            if hasattr(type(slot), "__set__") and hasattr(value, name):
                yield name, getattr(value, name)


def _fill(value: Any, made: Any, of: _Of) -> None:
    for name, part in list(_attributes(value)):
        object.__setattr__(made, name, of(part))
    if isinstance(value, dict):
        for key, part in list(dict.items(value)):
            dict.__setitem__(made, key, of(part))
    elif isinstance(value, list):
        list.extend(made, [of(part) for part in list.__iter__(value)])
    elif isinstance(value, set):
        set.update(made, set.__iter__(value))
