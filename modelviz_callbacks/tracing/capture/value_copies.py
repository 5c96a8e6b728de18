"""Copies of tensors with their values, for code that does not run on tensors without data.

Code that runs a second time may write to what is its own alone: to the copies, and to what it
makes itself.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from modelviz_callbacks.tracing.capture.mutation import tensors_in
from modelviz_callbacks.tracing.capture.object_copies import CannotStandInError
from modelviz_callbacks.tracing.capture.torch_internals import (
    dispatch_mode_class,
    is_mutable,
    schema_name,
    schema_of,
    storage_address,
)

# More than this is not copied: it costs time and memory in the middle of a training step.
MOST_BYTES = 2**30
# More than this is not copied before each call of compiled code.
MOST_BYTES_BEFORE = 2**26

# A tensor that is a small part of its memory is copied without the rest of it.
_LARGEST_PART = 8
_SMALL_BYTES = 2**20

_PLAIN = (torch.Tensor, torch.nn.Parameter)

# torch's kernels of these write to the running statistics, and their schemas do not say so.
_SILENT_WRITERS = "batch_norm"
# What ``torch.tensor`` calls on the memory that it has just filled.
_MAKES_ITS_ARGUMENT = "aten::lift_fresh"


class ValueCopies:
    """Copies tensors with their values, and runs what they were copied for.

    Attributes:
        said: What the code ran on, for a person.
    """

    said = "on copies of its tensors, as it does not run on tensors without data"

    def __init__(self) -> None:
        """Nothing is copied yet.

        Raises:
            CannotStandInError: The code may not run a second time.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # This process alone would begin a collective call, and wait for the others for ever.
            raise CannotStandInError("other processes take part in it")
        self._memory: dict[int, torch.UntypedStorage] = {}
        self._bytes = 0

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy, a leaf like the tensor itself.

        Args:
            tensor: A leaf.

        Raises:
            CannotStandInError: All of them would take too much memory.
        """
        if is_lazy(tensor) or type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            self._count(_bytes_of(tensor))
            return copy.deepcopy(tensor)
        with torch.no_grad():
            made = self._plain(tensor)
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(made, tensor.requires_grad)
        return made.requires_grad_(tensor.requires_grad)

    def running(self) -> contextlib.AbstractContextManager[None]:
        """While the code runs on the copies."""
        return DroppedValues().while_running()

    def _plain(self, tensor: torch.Tensor) -> torch.Tensor:
        """On a copy of the memory, so that what was on the same is again."""
        memory = tensor.untyped_storage()
        size = memory.nbytes()
        is_part = size > max(_LARGEST_PART * tensor.nbytes, _SMALL_BYTES)
        if is_part or tensor.is_conj() or tensor.is_neg():
            self._count(tensor.nbytes)
            return tensor.detach().clone()
        address = storage_address(tensor)
        if address not in self._memory:
            self._count(size)
            self._memory[address] = copy.copy(memory)
        made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        made.set_(self._memory[address], tensor.storage_offset(), tensor.shape, tensor.stride())
        return made

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MOST_BYTES:
            raise CannotStandInError(f"its tensors take more than {MOST_BYTES >> 30} GB to copy")


class BeforeCopies:
    """Copies what code may write to before it runs: all but parameters, as far as it is small."""

    def __init__(self) -> None:
        """Nothing is copied yet."""
        self._left = MOST_BYTES_BEFORE

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy, or the tensor itself.

        Args:
            tensor: A leaf.
        """
        is_plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided
        if not is_plain or tensor.nbytes > self._left:
            return tensor
        self._left -= tensor.nbytes
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _bytes_of(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.nbytes)
    except (RuntimeError, NotImplementedError, ValueError):  # lazy, or of a layout of its own
        return 0


@contextlib.contextmanager
def only_own_writes(copies: Iterable[torch.Tensor]) -> Iterator[None]:
    """Lets torch write to nothing that was there before, but to the copies.

    Args:
        copies: What it may write to.

    Raises:
        CannotStandInError: Something was about to be written to, or torch cannot tell.
    """
    kind = _guard_class()
    if kind is None:
        raise CannotStandInError("this torch does not tell what is written to")
    with kind(set(map(_address, copies))):
        yield


@cache
def _guard_class() -> Any:
    base = dispatch_mode_class()
    if base is None:
        return None

    class Guard(base):  # type: ignore[misc, valid-type]
        """Sees every small op of one thread before it runs."""

        def __init__(self, own: set[int]) -> None:
            super().__init__()
            self._own = own

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            given = set(map(_address, tensors_in((args, kwargs))))
            if schema_name(func) == _MAKES_ITS_ARGUMENT:
                self._own |= given
            if any(_address(one) not in self._own for one in _written(func, args, kwargs)):
                raise CannotStandInError("it writes to a tensor that is neither its own nor given")
            result = func(*args, **kwargs)
            self._own.update(set(map(_address, tensors_in((result,)))) - given)
            return result

    return Guard


def _address(tensor: torch.Tensor) -> int:
    try:
        return storage_address(tensor)
    except (RuntimeError, NotImplementedError):  # it has no memory of its own
        return 0


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """What an op may write to."""
    if _SILENT_WRITERS in schema_name(func) and "backward" not in schema_name(func):
        return tensors_in((args[1:], kwargs))
    if not is_mutable(func):
        return []
    schema = schema_of(func)
    if schema is None:
        return tensors_in((args, kwargs))
    found = [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return tensors_in(found)


class _Kept:
    """What autograd keeps for a backward, while it may be asked for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor: torch.Tensor | None = tensor


class DroppedValues:
    """Lets autograd's graph keep its tensors while the code runs, and none behind it.

    The graph is read then, and no backward runs through it.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._kept: list[_Kept] = []

    def pack(self, tensor: torch.Tensor) -> _Kept:
        """Keeps a tensor."""
        self._kept.append(_Kept(tensor))
        return self._kept[-1]

    def __call__(self, kept: _Kept) -> torch.Tensor:
        """Gives it back.

        Raises:
            CannotStandInError: It was dropped.
        """
        if kept.tensor is None:
            raise CannotStandInError("the values of this graph were dropped")
        return kept.tensor

    @contextlib.contextmanager
    def while_running(self) -> Iterator[None]:
        """Keeps what the code inside makes autograd keep, until it ends."""
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.pack, self):
                yield
        finally:
            for kept in self._kept:
                kept.tensor = None
            self._kept.clear()
