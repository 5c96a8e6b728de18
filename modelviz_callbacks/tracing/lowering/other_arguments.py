"""What a replay is given beside tensors: numbers and texts are part of a recording."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.object_parts import PLAIN_TYPES
from modelviz_callbacks.tracing.capture.pytree import Leaf, TreeSpec
from modelviz_callbacks.tracing.capture.recording import (
    Recording,
    named_inputs,
    paths_of_arguments,
)
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function

_ABSENT: Any = object()
# Longer texts and arrays are not told.
_LONGEST = 40


def difference_of_arguments(
    recording: Recording, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """What is another value than when the forward was recorded, as a clause; ``""``: nothing.

    The values that Python calculates with (numbers, flags, arrays, whatever structure they are in)
    cannot be changed in a recording. Texts are compared where they are arguments themselves
    (``mode="sum"``): deeper ones are names of files and the like. A tensor that was handed in
    under two names must be one again.

    Args:
        recording: A whole one.
        args: Arguments of a replay.
        kwargs: Likewise.
    """
    given = named_inputs(recording.signature, args, kwargs, lambda tensor: tensor)
    before = dict(_values(recording.inputs))
    now = dict(_values(given))
    defaults = {
        parameter.name: parameter.default
        for parameter in recording.signature.parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    for path in (*before, *(path for path in now if path not in before)):
        was = before.get(path, defaults.get(path, _ABSENT))
        is_now = now.get(path, defaults.get(path, _ABSENT))
        if not _same(was, is_now):
            return f"{path} is {_told(is_now)} and was {_told(was)}"
    return _parted(recording, given)


def _values(arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The plain values among named, walked arguments, each with its path."""
    for name, value in arguments.items():
        yield from _values_in(value, name, 0)


def _values_in(walked: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(walked, TreeSpec):
        for step, child in zip(walked.steps, walked.children, strict=True):
            yield from _values_in(child, path + step, depth + 1)
    elif isinstance(walked, Leaf):
        value = walked.value
        if isinstance(value, (str, bytes)):
            if depth == 0:
                yield path, value
        elif isinstance(value, (*PLAIN_TYPES, enum.Enum)) or _is_of_numpy(value):
            yield path, value


def _is_of_numpy(value: Any) -> bool:
    kind = type(value)
    return kind.__module__ == "numpy" and hasattr(kind, "tobytes")


def _same(was: Any, now: Any) -> bool:
    if was is now:
        return True
    arrays = (_is_of_numpy(was), _is_of_numpy(now))
    if all(arrays):
        kept = (was.dtype, was.shape) == (now.dtype, now.shape)
        return bool(kept and was.tobytes() == now.tobytes())
    if any(arrays):
        return False
    if was is _ABSENT or now is _ABSENT:
        return was is None or now is None  # nothing was handed in, one way or the other
    return bool(was == now or (was != was and now != now))


def _told(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    if _is_of_numpy(value) and value.shape:
        return f"an array of {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _parted(recording: Recording, given: dict[str, Any]) -> str:
    """Whether what was one tensor under two names is two with other values now."""
    tensors = dict(paths_of_arguments(given))
    first: dict[Any, str] = {}
    for path, record in paths_of_arguments(recording.inputs):
        name = first.setdefault(record, path)
        one, other = tensors.get(name), tensors.get(path)
        if one is None or other is None or one is other:
            continue
        if not _equal(one, other):
            return f"{path} is another tensor than {name} and was the same"
    return ""


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    try:
        with torch.no_grad(), no_torch_function():
            return bool(((one == other) | ((one != one) & (other != other))).all())
    except (RuntimeError, TypeError, NotImplementedError):  # of a kind that is not compared
        return False
