"""The places in a model where a recording can begin: its call, its methods, its modules' calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from modelviz_callbacks.tracing import (
    compiled_call,
    set_compiled_call,
    watch_method,
    watchable_parts,
)


class AtCalls(NamedTuple):
    """What is called there.

    Attributes:
        before: Before a call of the model, with it, its arguments and those by name.
        after: After it, with its result, too; gives what is to be returned instead, or ``None``.
        around: In the place of a call of a method, with it and its arguments.
        before_part: Before a call of one of the model's own modules, as ``before``.
    """

    before: Callable[..., None]
    after: Callable[..., Any]
    around: Callable[..., Any]
    before_part: Callable[..., None]


class Entrances:
    """What is put into a model to be called, and taken out again."""

    def __init__(self, core: torch.nn.Module, model: torch.nn.Module) -> None:
        """Puts nothing in yet.

        Args:
            core: The model that is recorded.
            model: What is called: it, or a wrapper around it.
        """
        self._core, self._model = core, model
        self._undo: list[Callable[[], None]] = []
        self._undo_parts: list[Callable[[], None]] = []
        self._compiled_call: Any = None
        self._stand_in: Any = None

    @property
    def is_compiled(self) -> bool:
        """Whether it stands around what ``model.compile()`` has put in the place of the call."""
        return self._compiled_call is not None

    def open(self, at_calls: AtCalls, methods: tuple[str, ...]) -> None:
        """Waits for calls.

        Args:
            at_calls: What is called there. A copy of the model takes these along.
            methods: Names of the methods whose calls are waited for, instead of the model's.
        """
        if methods:
            for name in methods:
                self._undo.append(watch_method(self._core, name, at_calls.around))
            return
        model = self._model
        self._compiled_call = compiled_call(model)
        if self._compiled_call is not None:
            # What `model.compile()` has put in the place of the call runs hooks inside compiled
            # code, so there must be none.
            self._stand_in = functools.partial(self._call_compiled, at_calls)
            set_compiled_call(model, self._stand_in)
            return
        for handle in (
            model.register_forward_pre_hook(at_calls.before, prepend=True, with_kwargs=True),
            model.register_forward_hook(at_calls.after, with_kwargs=True, always_call=True),
        ):
            self._undo.append(handle.remove)
        for part in watchable_parts(model, self._core):
            handle = part.register_forward_pre_hook(at_calls.before_part, with_kwargs=True)
            self._undo_parts.append(handle.remove)

    def _call_compiled(self, at_calls: AtCalls, *args: Any, **kwargs: Any) -> Any:
        """Stands in the place of the compiled call until it was recorded, and calls it."""
        model, call = self._model, self._compiled_call
        set_compiled_call(model, call)  # a model that calls itself calls that
        at_calls.before(model, args, kwargs)
        result = None
        try:
            result = call(*args, **kwargs)
        finally:
            at_calls.after(model, args, kwargs, result)
            if self._stand_in is not None:
                set_compiled_call(model, self._stand_in)
        return result

    def close(self) -> None:
        """Waits for nothing any more."""
        _undo_all(self._undo)
        self.close_parts()
        if self._stand_in is not None and compiled_call(self._model) is self._stand_in:
            set_compiled_call(self._model, self._compiled_call)
        self._compiled_call = self._stand_in = None

    def close_parts(self) -> None:
        """Waits for the model's own modules no more."""
        _undo_all(self._undo_parts)


def _undo_all(steps: list[Callable[[], None]]) -> None:
    while steps:
        steps.pop(0)()
