"""What a call has computed with that nobody saw: its arguments, and what its functions close over.

torch's higher-order ops (``cond``, ``flex_attention``) take functions, and compile them. Where
autograd is off, nothing else tells what their results come from.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.argument_encoding import Encoder
from modelviz_callbacks.tracing.capture.pytree import walk


def name_unseen(call: tuple[Any, tuple[Any, ...], dict[str, Any], Any], recorder: Encoder) -> None:
    """Says what a call's results were made of: all that it was given, and what autograd tells.

    Args:
        call: What was called, with which arguments, and the result.
        recorder: Knows the tensors.
    """
    function, args, kwargs, result = call
    name = str(getattr(function, "__qualname__", type(function).__name__)).partition(".")[0]
    given = [recorder.record(one) for one in tensors_behind((*args, *kwargs.values()))]
    for tensor in tensors_behind([result]):
        if recorder.known(tensor) is not None or recorder.is_state(tensor):
            continue
        origin = recorder.record(tensor).origin
        if origin is None or origin.alias_of is not None:
            continue
        origin.sources = tuple(dict.fromkeys((*origin.sources, *given)))
        if origin.sources:
            origin.made_by, origin.value = name.strip("_"), None


def tensors_behind(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors that a call of these arguments can reach.

    Of a module that a function closes over, only the parts whose names are in the function's code.

    Args:
        values: Arguments: tensors, containers of them, functions, modules.
    """
    return list({id(tensor): tensor for tensor in _Search().through(values)}.values())


class _Search:
    """One search; it looks at no function twice."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def through(self, values: Iterable[Any]) -> Iterator[torch.Tensor]:
        for value in values:
            yield from self._of(value, None)

    def _of(self, value: Any, names: frozenset[str] | None) -> Iterator[torch.Tensor]:
        """Those of one value; of a module, the parts with these names, ``None``: all."""
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, torch.nn.Module):
            yield from self._of_module(value, names)
        elif isinstance(value, functools.partial):
            yield from self.through((value.func, *value.args, *value.keywords.values()))
        elif isinstance(value, types.MethodType):
            names = _names_in(value.__func__)
            yield from self._of(value.__self__, names)
            yield from self._of(value.__func__, None)
        elif isinstance(value, types.FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, (tuple, list, dict)):
            yield from self.through(value.values() if isinstance(value, dict) else value)
        else:
            found: list[torch.Tensor] = []
            walk(value, found.append)
            yield from found

    def _of_function(self, function: types.FunctionType) -> Iterator[torch.Tensor]:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        names = _names_in(function)
        for cell in function.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # not set yet
                continue
            yield from self._of(inside, names)
        yield from self.through(function.__defaults__ or ())

    def _of_module(
        self, module: torch.nn.Module, names: frozenset[str] | None
    ) -> Iterator[torch.Tensor]:
        for part in (module.named_parameters, module.named_buffers):
            for path, tensor in part():
                if names is None or path.partition(".")[0] in names:
                    yield tensor


def _names_in(function: Any) -> frozenset[str]:
    """The names that a function's code has, and the functions in it."""
    waiting, names = [getattr(function, "__code__", None)], set[str]()
    while waiting:
        code = waiting.pop()
        if isinstance(code, types.CodeType):
            names.update(code.co_names)
            waiting += code.co_consts
    return frozenset(names)
