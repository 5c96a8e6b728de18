"""Arrays that a model had before its forward ran: what the forward reads did not go into them.

How an array was made is out of torch's sight, so one that turns up in a forward that reads values
may hold what was made of these. It does not where it, or the memory it shows, was an attribute of
a module or a global of a module's file before, and still holds the same bytes.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from modelviz_callbacks.tracing.capture.module_paths import modules_of
from modelviz_callbacks.tracing.capture.pytree import Leaf
from modelviz_callbacks.tracing.capture.shared_memory import elements_of, is_foreign

# Copied before the forward, and compared in it. Data sets are larger, normalisations and kernels
# are not.
_MOST_BYTES = 2**20
_MOST_BYTES_OF_ALL = 2**24
_MOST_COMPARED_BYTES = 2**28
# Of a list or dict of arrays.
_MOST_ITEMS = 64

# Their files have many globals and hardly an array.
_NO_ARRAYS = ("torch.", "lightning.", "transformers.")
# Of a module, these hold state, which is known by its names.
_STATE = ("_parameters", "_buffers", "_modules")
# What most attributes are: asked first, as a model has many thousands.
_OTHERS = frozenset({bool, int, float, str, type(None), OrderedDict})


class WasThere(Leaf):
    """An array that was there before the forward, in the place of an argument."""

    __slots__ = ()


class _Piece(NamedTuple):
    """Memory that an array or a tensor shows.

    Attributes:
        holder: Has it; no more is kept, as numpy resizes no array that anybody else refers to.
        key: Where in the holder it is.
        start: Its address.
        before: What lay there.
    """

    holder: Any
    key: Any
    start: int
    before: bytes | bytearray

    def is_unchanged(self) -> bool:
        """Whether it is still there, and holds the same bytes."""
        try:
            owner = self.holder[self.key]
        except LookupError:
            return False
        if not issubclass(type(owner), (torch.Tensor, sys.modules["numpy"].ndarray)):
            return False
        is_there = _is_readable(owner) and _address(owner) == self.start
        return is_there and _bytes_of(owner) == self.before


class EarlierArrays:
    """Knows the arrays that the modules of a model have when it is made."""

    def __init__(self, model: torch.nn.Module | None) -> None:
        """Looks at every module, and copies the small arrays that it finds."""
        self._pieces: list[_Piece] = []
        self._left = _MOST_COMPARED_BYTES
        self._kinds: tuple[type, ...] = ()
        numpy = sys.modules.get("numpy")
        if model is None or numpy is None:
            return
        self._kinds = (torch.Tensor, numpy.ndarray)
        left, seen = _MOST_BYTES_OF_ALL, set[int]()
        for holder, key in _places_of(modules_of(model), self._kinds):
            value = holder[key]
            if id(value) in seen or not _is_readable(value):
                continue
            seen.add(id(value))
            if 0 < value.nbytes <= min(_MOST_BYTES, left):
                self._pieces.append(_Piece(holder, key, _address(value), _bytes_of(value)))
                left -= value.nbytes

    def holds(self, value: Any) -> bool:
        """Whether an array, or a tensor on an array's memory, was there with what it holds now.

        Args:
            value: Anything.
        """
        if not self._pieces or not issubclass(type(value), self._kinds) or not _is_readable(value):
            return False
        start = _address(value)
        for piece in self._pieces:
            size = len(piece.before)
            if piece.start <= start and start + value.nbytes <= piece.start + size:
                self._left -= size
                return self._left >= 0 and piece.is_unchanged()
        return False


def _places_of(
    modules: list[torch.nn.Module], wanted: tuple[type, ...]
) -> Iterator[tuple[Any, Any]]:
    """Where arrays are among the attributes of modules and the globals of their files."""
    files = dict.fromkeys(type(module).__module__ for module in modules)
    own = [name for name in files if not name.startswith(_NO_ARRAYS)]
    tables = [vars(module) for module in modules if type(module).__module__ in own]
    tables += [vars(sys.modules[name]) for name in own if name in sys.modules]
    for table in tables:
        for name, value in [*table.items()]:
            kind = type(value)
            if kind in _OTHERS:
                continue
            if issubclass(kind, wanted):
                yield table, name
            elif kind in (list, tuple, dict) and len(value) <= _MOST_ITEMS and name not in _STATE:
                keys = [*value] if kind is dict else range(len(value))
                yield from ((value, key) for key in keys if issubclass(type(value[key]), wanted))


def _is_readable(value: Any) -> bool:
    """Whether all that an array or a foreign tensor shows lies in one piece."""
    if not isinstance(value, torch.Tensor):
        return value.dtype.kind in "biufc" and value.flags.c_contiguous
    if type(value) is not torch.Tensor or value.layout is not torch.strided:
        return False
    return is_foreign(value) and value.is_contiguous()


def _address(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    return int(value.__array_interface__["data"][0])


def _bytes_of(value: Any) -> bytes | bytearray:
    return elements_of(value) if isinstance(value, torch.Tensor) else value.tobytes()
