"""Functions that a copied model keeps: they must lead to the copy, not to the original."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.writers.onnx.exporter_internals import code_before_compiling

# How deep a function is looked for in what a module keeps.
_MOST_DEPTH = 5


class Functions:
    """Makes functions of a model over for its copy.

    ``copy.deepcopy`` takes a function for something that cannot change, but what it closes over
    (``lambda x: self.norm(x)``), its defaults and what it was compiled from lead to the original.
    """

    def __init__(self, copies: Mapping[int, Any]) -> None:
        """Starts without any.

        Args:
            copies: By the id of an original module or tensor, its copy.
        """
        self._copies = copies
        self._made: dict[int, Any] = {}

    def point_to_copies(self, module: nn.Module) -> None:
        """Puts what is made over in place of what modules keep as attributes and hooks."""
        for part in module.modules():
            kept = vars(part)
            for name, value in list(kept.items()):
                if isinstance(value, dict) and name.endswith("_hooks"):
                    value.update({key: self._over(hook, 1) for key, hook in value.items()})
                elif not isinstance(value, (nn.Module, torch.Tensor)):
                    over = self._over(value, 0)
                    if over is not value:
                        kept[name] = over

    def _over(self, value: Any, depth: int) -> Any:
        """The value for the copy; itself where nothing in it leads to an original."""
        kind = type(value)
        if isinstance(value, (nn.Module, torch.Tensor)):
            return self._copies.get(id(value), value)
        if depth > _MOST_DEPTH:
            return value
        if kind is types.MethodType:
            return self._method(value, depth)
        if kind is types.FunctionType:
            return self._function(value, depth)
        if kind is functools.partial:
            return self._partial(value, depth)
        if kind in (list, tuple):
            items = [self._over(item, depth + 1) for item in value]
            return value if _same(items, value) else kind(items)
        if kind is dict:
            items = [self._over(item, depth + 1) for item in value.values()]
            return value if _same(items, value.values()) else dict(zip(value, items, strict=True))
        return value

    def _method(self, value: types.MethodType, depth: int) -> Any:
        owner = self._over(value.__self__, depth + 1)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)

    def _partial(self, value: Any, depth: int) -> Any:
        parts = (value.func, value.args, value.keywords)
        over = [self._over(part, depth + 1) for part in parts]
        return value if _same(over, parts) else functools.partial(over[0], *over[1], **over[2])

    def _function(self, value: types.FunctionType, depth: int) -> Any:
        if id(value) in self._made:
            return self._made[id(value)]
        before = code_before_compiling(value)
        if before is not None:
            self._made[id(value)] = value
            over = self._over(before, depth + 1)
            self._made[id(value)] = value if over is before else over
            return self._made[id(value)]
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        made = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, None, cells or None
        )
        self._made[id(value)] = made  # it may close over itself
        held = [_content(cell) for cell in value.__closure__ or ()]
        defaults, by_name = value.__defaults__, value.__kwdefaults__
        over = [self._over(part, depth + 1) for part in (*held, defaults, by_name)]
        if _same(
            [None if one is made else one for one in over],
            [None if one is value else one for one in (*held, defaults, by_name)],
        ):
            self._made[id(value)] = value
            return value
        for cell, content in zip(cells, over, strict=False):
            if content is not _EMPTY:
                cell.cell_contents = content
        made.__defaults__, made.__kwdefaults__ = over[-2:]
        functools.update_wrapper(made, value, updated=("__dict__",))
        return made


_EMPTY = object()


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _EMPTY


def _same(items: Any, others: Any) -> bool:
    return all(one is other for one, other in zip(items, others, strict=True))
