"""What a recorded program calls besides torch, and how names become code."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from typing import Any

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.pytree import TreeSpec

# The module of those methods of tensors that are written in Python.
_TENSOR_METHODS = torch.Tensor.backward.__module__


class Builder:
    """Puts a walked container together again from its tensors."""

    def __init__(self, branch: TreeSpec) -> None:
        self._branch = branch

    def __call__(self, *tensors: torch.Tensor) -> Any:
        """The container with these tensors in it."""
        waiting = iter(tensors)
        return self._branch.rebuild(lambda _: next(waiting))


def is_method(func: Any, name: str) -> bool:
    """Whether a function is a method of tensors, to be reached through the tensor.

    Some have no other home: torch wraps them in functions that no module holds by name.
    """
    if not hasattr(torch.Tensor, name):
        return False
    homes = (getattr(torch.Tensor, name), getattr(torch.Tensor.__base__, name, None))
    return func in homes or getattr(func, "__module__", None) == _TENSOR_METHODS


def call(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls what only the program's own state holds (a scripted module, a builder)."""
    return target(*args, **kwargs)


def item(value: Any, step: str) -> Any:
    """The part of a container that a step of a path (``[0]``, ``['loss']``) leads to."""
    key = step[1:-1]
    return value[int(key)] if key.lstrip("-").isdigit() else value[key.strip("'")]


def fresh(value: torch.Tensor, requires_grad: bool) -> torch.Tensor:
    """A copy of kept state, for the program to write to."""
    return value.clone().requires_grad_(requires_grad)


def unreplayable(reason: str) -> torch.Tensor:
    """Stands where nobody saw what happened.

    Raises:
        ReplayError: Always.
    """
    raise ReplayError(
        f"This recording cannot be run again: {reason}, which leaves nothing to repeat. "
        "The graph and the pictures are complete; only replay and ONNX need the program."
    )


def as_recorded(found: complex, recorded: complex, op: str) -> None:
    """Goes on only where Python reads the number, or the answer, that it read.

    Raises:
        ReplayError: It is another one.
    """
    are_none = found != found and recorded != recorded  # both are no number
    if found != recorded and not are_none:
        raise _differs(f"what Python reads at {op} was {recorded} and is {found} now")


def as_large(
    tensor: torch.Tensor, places: tuple[int, ...], recorded: tuple[int, ...], op: str
) -> None:
    """Goes on only where a tensor is as large as Python was told, in some dimensions.

    Raises:
        ReplayError: It is not.
    """
    found = tuple(tensor.shape[place] for place in places)
    if found != recorded:
        was, now = (", ".join(map(str, sizes)) for sizes in (recorded, found))
        raise _differs(f"the size that Python reads of {op} was {was} and is {now} now")


def as_many(results: Sequence[Any], recorded: int, op: str) -> None:
    """Goes on only where an op gives as many results as Python took apart.

    Raises:
        ReplayError: It gives more or fewer.
    """
    if len(results) != recorded:
        raise _differs(f"the results of {op} were {recorded} and are {len(results)} now")


def _differs(what: str) -> ReplayError:
    return ReplayError(
        f"The recording cannot be run on these inputs: {what}, and what the forward does then is "
        "not recorded. Call trace() with the new inputs."
    )


def is_python(name: str) -> bool:
    """Whether a qualified name can be written as a chain of attributes."""
    return all(
        part.isdigit() or (part.isidentifier() and not keyword.iskeyword(part))
        for part in name.split(".")
    )


def identifier(path: str, index: int) -> str:
    """A name for an input in Python code, like its path."""
    cleaned = "".join(char if char.isalnum() else "_" for char in path).strip("_")
    return cleaned if is_python(cleaned) else f"input_{index}"
