"""Writes that torch tells no function mode of: ``z.imag = x``, ``y.set_(x)``, ``storage.fill_(0)``.

While something is recorded, `torch.Tensor` and `torch.UntypedStorage` have attributes of their own
in the place of the ones that they inherit from C. They do the same, and tell the recorder of the
thread that runs them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch.overrides import has_torch_function

from modelviz_callbacks.tracing.capture.mode_stack import is_active
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.storage_writes import STORAGE_WRITES
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


def _writing(original: Callable[..., Any]) -> Callable[..., Any]:
    """What stands in the place of a method of storages that writes."""
    write = STORAGE_WRITES[original.__name__]

    @wraps(original)
    def method(self: torch.UntypedStorage, *args: Any, **kwargs: Any) -> Any:
        recorder = _listening()
        if recorder is None or recorder.paused:
            return original(self, *args, **kwargs)
        with no_torch_function():
            try:
                is_done = write(recorder, self, *args, **kwargs)
            except Exception:  # the call itself says what is wrong
                is_done = False
        return self if is_done else original(self, *args, **kwargs)

    return method


def _asking(original: Callable[..., Any]) -> Callable[..., Any]:
    """What stands in the place of the method of tensors that hands out their storage."""

    @wraps(original)
    def untyped_storage(self: torch.Tensor) -> Any:
        storage = original(self)
        for recorder in _recorders:
            record = recorder.known(self)
            if record is not None:
                recorder.origins.storages.note(storage, record)
        return storage

    return untyped_storage


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
    for (kind, name), make in _MADE.items():
        setattr(kind, name, make)


def _take_down() -> None:
    for (kind, name), make in _MADE.items():
        if vars(kind).get(name) is make:
            delattr(kind, name)


def _of_c(kind: type[Any], name: str) -> Any:
    """What a class inherits under a name; ``None`` where it is not C that it inherits from."""
    return None if name in vars(kind) else getattr(kind, name, None)


_MADE: dict[tuple[type[Any], str], Any] = {
    (kind, name): make(_of_c(kind, name))
    for kind, name, make in (
        (torch.Tensor, "imag", _Settable),
        (torch.Tensor, "real", _Settable),
        (torch.Tensor, "set_", _setting),
        (torch.Tensor, "untyped_storage", _asking),
        *((torch.UntypedStorage, name, _writing) for name in STORAGE_WRITES),
    )
    if _of_c(kind, name) is not None
}
