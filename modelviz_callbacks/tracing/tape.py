"""The tape: what the recorder appends while a forward runs, and nothing else.

A tape is a list in execution order of

- `OpEntry` for a torch call,
- `Enter` and `Leave` around a module call,

that name tensors by `Slot`: one version of one tensor object, known by a weak reference.
A slot holds metadata, so a tape keeps no activation alive.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch


class Slot:
    """One version of one tensor. An in-place write gives the same tensor a new slot.

    Attributes:
        ref: Weak reference to the tensor object.
        birth: Length of the tape when this version came to be.
        shape: ``torch.Size``; ``None`` for a nested tensor.
        dtype: ``torch.dtype``.
        device: ``torch.device``.
        requires_grad: As it was right after the version was made.
        layout: ``torch.layout``.
        storage: Address of the storage object, a number to compare; 0 where there is none.
        offset: Position of the first element in the storage, in elements.
        stride: In elements; ``None`` where the layout has none.
        previous: The version before the write, if this is not the first.
        origin: Where a tensor that no recorded op made comes from; ``None`` for the others.
    """

    __slots__ = (
        "__weakref__",
        "birth",
        "device",
        "dtype",
        "layout",
        "offset",
        "origin",
        "previous",
        "ref",
        "requires_grad",
        "shape",
        "storage",
        "stride",
    )

    def __init__(self, tensor: torch.Tensor, birth: int) -> None:
        self.ref = weakref.ref(tensor)
        self.birth = birth
        self.dtype = tensor.dtype
        self.device = tensor.device
        self.requires_grad = tensor.requires_grad
        self.previous: Slot | None = None
        self.origin: Origin | None = None
        try:
            self.shape: torch.Size | None = tensor.shape
            self.stride: tuple[int, ...] | None = tensor.stride()
            self.offset = tensor.storage_offset()
            self.storage = torch._C._storage_address(tensor)
            self.layout = torch.strided
        except (RuntimeError, NotImplementedError, AttributeError):
            self._describe_without_strides(tensor)

    def _describe_without_strides(self, tensor: torch.Tensor) -> None:
        # Sparse, nested and functorch-wrapped tensors have no strides or no storage to show.
        self.layout = tensor.layout
        self.stride, self.offset, self.storage = None, 0, 0
        try:
            self.shape = torch.Size([int(size) for size in tensor.shape])
        except (RuntimeError, NotImplementedError, TypeError):
            self.shape = None


class Origin:
    """Where a tensor that no recorded op made comes from.

    Attributes:
        value: The tensor itself where the program needs it again (a constant, or the state
            of a parameter or buffer before the first write to it); ``None`` otherwise.
        sources: Slots it was computed from out of sight; empty for one that was just there.
        alias_of: Slot whose memory it shares.
        kept: Whether ``value`` is a copy of our own.
        was_lazy: Whether it was a lazy module's parameter without a value yet.
        made_by: What computed it, as far as autograd knows (``MyFunctionBackward``).
    """

    __slots__ = ("alias_of", "kept", "made_by", "sources", "value", "was_lazy")

    def __init__(self) -> None:
        self.kept = False
        self.was_lazy = False
        self.value: torch.Tensor | None = None
        self.sources: tuple[Slot, ...] = ()
        self.alias_of: Slot | None = None
        self.made_by = ""


class OpEntry(NamedTuple):
    """One torch call.

    Attributes:
        func: The function, method or descriptor called.
        args: Its positional arguments, tensors replaced by slots.
        kwargs: Its keyword arguments, likewise.
        result: What it returned, tensors replaced by slots, other values left out.
        writes: New versions of tensors that it wrote to without returning them.
        code: Code object of the user's frame that the call comes from.
        lasti: Position in that code.
        plumbing: Whether the call comes from a training framework's own frame (logging).
        grad: Whether it ran with gradients enabled.
        autocast: Autocast state it ran under, see `autocast_state`; ``None``: off.
        first_node: Autograd sequence number before the call; ``last_node``: after it.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] | None
    result: Any
    writes: tuple[Slot, ...]
    code: Any
    lasti: int
    plumbing: bool
    grad: bool
    autocast: tuple[tuple[str, torch.dtype], ...] | None
    first_node: int
    last_node: int


class Enter(NamedTuple):
    """A module call begins."""

    module: torch.nn.Module
    training: bool


class Leave(NamedTuple):
    """A module call ends; arguments and result with tensors replaced by slots.

    Attributes:
        module: The module.
        args: Positional arguments.
        kwargs: Keyword arguments.
        result: What it returned.
        unseen: Whether some tensor of the result was made by no recorded op.
    """

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    unseen: bool


Entry = OpEntry | Enter | Leave


def autocast_state() -> tuple[tuple[str, torch.dtype], ...]:
    """The device types under autocast right now, with the dtype each casts to."""
    return tuple(
        (device, torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda", "mps", "xpu", "hpu")
        if torch.is_autocast_enabled(device)
    )
