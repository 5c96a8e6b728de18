"""Writes that torch tells no function mode of: ``z.imag = x``, ``z.real = x`` and ``y.set_(x)``.

While something is recorded, `torch.Tensor` has attributes of its own in the place of the ones that
it inherits from C. They do the same, and tell the recorder of the thread that runs them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import has_torch_function

from modelviz_callbacks.tracing.capture.mode_stack import is_active
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function

_STORAGES = (torch.UntypedStorage, torch.TypedStorage)


@contextmanager
def told(recorder: Recorder) -> Iterator[None]:
    """While a recorder is told of these writes.

    Args:
        recorder: One that is on the stack of modes of this thread.
    """
    with _LOCK:
        if not _recorders:
            _put_up()
        _recorders.append(recorder)
    try:
        yield
    finally:
        with _LOCK:
            _recorders.remove(recorder)
            if not _recorders:
                _take_down()


_LOCK = threading.Lock()
_recorders: list[Recorder] = []
_probe = torch.empty(0, device="cpu")


def _listening() -> Recorder | None:
    """The recorder of this thread, if torch would tell it of a call made now."""
    if not has_torch_function((_probe,)):
        return None  # switched off, as where a recorder is at work
    return next((recorder for recorder in reversed(_recorders) if is_active(recorder)), None)


class _Settable:
    """A property of a tensor, as C has it; setting it is told."""

    def __init__(self, original: Any) -> None:
        self._get, self._set = original.__get__, original.__set__
        self._original = original
        self.__doc__ = original.__doc__

    def __get__(self, tensor: torch.Tensor | None, kind: type[Any] | None = None) -> Any:
        return self._original if tensor is None else self._get(tensor, kind)

    def __set__(self, tensor: torch.Tensor, value: Any) -> None:
        recorder = _listening()
        if recorder is None:
            self._set(tensor, value)
        else:
            with no_torch_function():  # no mode is told but this one
                recorder.__torch_function__(self._set, (), (tensor, value))

    def __delete__(self, tensor: torch.Tensor) -> None:
        self._original.__delete__(tensor)


def _setting(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        recorder = _listening()
        if recorder is None:
            return original(self, *args, **kwargs)
        if args and isinstance(args[0], _STORAGES) and not kwargs:
            args = _as_tensor(self, args)
        with no_torch_function():
            return recorder.__torch_function__(original, (), (self, *args), kwargs)

    return set_


def _as_tensor(tensor: torch.Tensor, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tensor on the storage that another one is to lie on: what is on the tape are tensors."""
    storage, *place = args
    try:
        with no_torch_function():
            made = torch.empty(0, dtype=tensor.dtype, device=storage.device)
            return (made.set_(storage, *place),)
    except Exception:  # the call itself says what is wrong
        return args


def _put_up() -> None:
    for name, make in _MADE.items():
        setattr(torch.Tensor, name, make)


def _take_down() -> None:
    for name, make in _MADE.items():
        if vars(torch.Tensor).get(name) is make:
            delattr(torch.Tensor, name)


def _of_c(name: str) -> Any:
    """What a tensor inherits under a name; ``None`` where it is not C that it inherits from."""
    return None if name in vars(torch.Tensor) else getattr(torch.Tensor, name, None)


_MADE: dict[str, Any] = {
    name: make(_of_c(name))
    for name, make in (("imag", _Settable), ("real", _Settable), ("set_", _setting))
    if _of_c(name) is not None
}
