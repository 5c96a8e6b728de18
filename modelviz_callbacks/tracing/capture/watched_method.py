"""Puts something around the calls of one object's method, for a while."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any
from weakref import ref

import torch

from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.tracing.capture.frames import first_argument
from modelviz_callbacks.tracing.capture.torch_internals import MODULE_CALL

# Around one call of a method: gets the bound method, its arguments, and gives its result.
Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

# Where a wrapper of ours has its layer.
_MARK = "_modelviz_layer"
_NOTHING = object()


def watch_method(model: Any, name: str, around: Around) -> Callable[[], None]:
    """Puts something around the calls of a method of one object, mostly a model.

    The class gets the wrapper where the method is the class's: on the object it would go along
    into copies of it, which then called the method of the original.

    Args:
        model: Whose method; of a class, that of all its objects, which come as first arguments.
        name: The method's name.
        around: Called in the place of the method when it is this model's.

    Returns:
        Undoes it; safe to call again.

    Raises:
        TypeError: Its class is one of Python's own, which cannot be changed.
    """
    own = getattr(model, "__dict__", {}).get(name)
    if own is not None:
        return _watch_own(model, name, own, around)
    cls = type(model)
    inner = inspect.getattr_static(cls, name)
    layer = _Layer(inner if name in vars(cls) else _NOTHING, around)
    function = getattr(cls, name)
    try:  # what is forgotten meanwhile goes when it would go
        watched_one: Callable[[], Any] = ref(model)
    except TypeError:
        watched_one = functools.partial(_same, model)

    @functools.wraps(function)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound, around = inner.__get__(self, type(self)), layer.around
        if around is None or self is not watched_one():
            return bound(*args, **kwargs)
        return around(bound, args, kwargs)

    layer.mark(watched)
    setattr(cls, name, watched)
    return functools.partial(_take_off, cls, name, layer)


def _same(model: Any) -> Any:
    return model


def _watch_own(
    model: torch.nn.Module, name: str, own: Callable[..., Any], around: Around
) -> Callable[[], None]:
    layer = _Layer(own, around)

    def watched(*args: Any, **kwargs: Any) -> Any:
        around = layer.around
        return own(*args, **kwargs) if around is None else around(own, args, kwargs)

    layer.mark(watched)
    if isinstance(model, type):
        setattr(model, name, watched)
    else:
        vars(model)[name] = watched
    return functools.partial(_take_off, model, name, layer)


class _Layer:
    """What was put around a method, maybe with others around or within.

    Attributes:
        beneath: What was there before; ``_NOTHING``: the method is a base class's.
        around: ``None`` once it was undone.
    """

    def __init__(self, beneath: Any, around: Around) -> None:
        self.beneath = beneath
        self.around: Around | None = around
        self._wrapper: Any = None

    def mark(self, wrapper: Any) -> None:
        """Makes a wrapper known as this layer."""
        self._wrapper = wrapper
        vars(wrapper)[_MARK] = self

    @staticmethod
    def of(function: Any) -> _Layer | None:
        """The layer that a function is; ``None``: it is none of ours."""
        layer = getattr(function, "__dict__", {}).get(_MARK)
        # What somebody else has put around one of ours may have a copy of its attributes.
        return layer if layer is not None and layer._wrapper is function else None


def _take_off(owner: Any, name: str, layer: _Layer) -> None:
    """Undoes one layer, and takes all that are undone off the method as far as they are on top.

    Of two that watch one method the first may be undone first: it goes with the second.
    """
    layer.around = None
    top = _Layer.of(vars(owner).get(name))
    while top is not None and top.around is None:
        if top.beneath is _NOTHING:
            delattr(owner, name)
        elif isinstance(owner, type):
            setattr(owner, name, top.beneath)
        else:
            vars(owner)[name] = top.beneath
        top = _Layer.of(vars(owner).get(name))


def method_under_way(model: torch.nn.Module) -> str:
    """The name of the outermost method of a model that this thread is in; ``""``: of none."""
    frame, found = sys._getframe(1), ""
    while frame is not None:
        code = frame.f_code
        name = code.co_name
        own = inspect.getattr_static(type(model), name, None)
        is_first = first_argument(frame) is model
        if is_first and getattr(own, "__code__", None) is code and not name.startswith("_"):
            found = name
        frame = frame.f_back  # type: ignore[assignment]
    return found


def modules_under_way(frame: FrameType | None) -> list[torch.nn.Module]:
    """The modules that a frame is inside the calls of, the innermost first.

    Args:
        frame: That of a hook around a call, or of a forward.
    """
    found: list[torch.nn.Module] = []
    while frame is not None and MODULE_CALL is not None:
        if frame.f_code is MODULE_CALL:
            module = first_argument(frame)
            if isinstance(module, torch.nn.Module):
                found.append(module)
        frame = frame.f_back
    return found


def method_names(model: torch.nn.Module, wanted: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the methods to watch, checked.

    Args:
        model: Whose methods they are.
        wanted: One name or several; ``None``: none.

    Raises:
        OptionError: The model has no such method, or none is named.
    """
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
    if wanted is not None and not names:
        raise OptionError(
            f"Option method={wanted!r} cannot be used: it names no method. Leave it out to record "
            "the model's forward."
        )
    for name in names:
        if not callable(getattr(model, name, None)):
            raise OptionError(
                f"Option method={wanted!r} cannot be used: {type(model).__name__} has no method "
                f"{name!r}. Name a method of the model handed over."
            )
    return names
