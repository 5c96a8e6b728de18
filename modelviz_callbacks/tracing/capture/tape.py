"""The tape: what the recorder appends while a forward runs, and nothing else.

A tape is a list in execution order of

- `OpEntry` for a torch call,
- `Enter` and `Leave` around a module call,
- `Within` where the function around the following ops is another one,

that name tensors by `TensorRecord`: one version of one tensor object, known by a weak reference.
A record holds metadata, so a tape keeps no activation alive.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch

from modelviz_callbacks.tracing.capture.functorch_levels import Layer
from modelviz_callbacks.tracing.capture.torch_internals import (
    AUTOCAST_DEVICES,
    storage_address,
    stored_elements,
)

_weak, _STRIDED = weakref.ref, torch.strided

# Shape, dtype, device, requires_grad, stride and offset of a tensor; of a sparse one the stride
# is ``None``, and how many elements it stores (-1: not known) takes the place of the offset.
Facts = tuple[tuple[int, ...] | None, torch.dtype, torch.device, bool, tuple[int, ...] | None, Any]


class TensorRecord:
    """One version of one tensor. An in-place write gives the same tensor a new record.

    Attributes:
        ref: Weak reference to the tensor object; a strong one to a parameter or buffer.
        created_at: Length of the tape when this version came to be.
        facts: What it looked like then; the properties have names for it.
        layout: ``torch.layout``.
        storage: Address of the storage object, a number to compare; 0 where there is none.
        previous: The version before the write, if this is not the first.
        first: The version before all writes, if this is not the first.
        origin: Where a tensor that no recorded op made comes from; ``None`` for the others.
    """

    __slots__ = ("created_at", "facts", "first", "layout", "origin", "previous", "ref", "storage")

    ref: Callable[[], torch.Tensor | None]
    created_at: int
    facts: Facts
    layout: torch.layout
    storage: int
    previous: TensorRecord | None
    first: TensorRecord | None
    origin: Origin | None

    @classmethod
    def restored(
        cls,
        ref: Callable[[], torch.Tensor | None],
        created_at: int,
        facts: Facts,
        storage: int,
        layout: torch.layout = _STRIDED,
        previous: TensorRecord | None = None,
        origin: Origin | None = None,
    ) -> TensorRecord:
        """A record as another process described it; see the attributes, and `plain_facts`."""
        record = cls()
        record.ref, record.created_at = ref, created_at
        record.facts, record.storage = facts, storage
        record.layout, record.previous, record.first, record.origin = layout, None, None, origin
        if previous is not None:
            record.follow(previous)
        return record

    def hold(self, tensor: torch.Tensor) -> None:
        """Holds what is the model's own: torch refuses to swap what has a weak reference."""
        self.ref = itertools.repeat(tensor).__next__

    def follow(self, previous: TensorRecord) -> None:
        """Makes this the version after another one."""
        self.previous, self.first = previous, previous.first or previous
        self.ref = previous.ref

    def describe_without_strides(self, tensor: torch.Tensor) -> None:
        """Takes down what a sparse, nested or functorch-wrapped tensor has to show."""
        self.layout = tensor.layout
        self.storage = 0
        try:
            shape = torch.Size([int(size) for size in tensor.shape])
        except (RuntimeError, NotImplementedError, TypeError, AttributeError):
            shape = None
        try:
            stored = stored_elements(tensor)
        except (RuntimeError, NotImplementedError, TypeError, AttributeError):
            stored = None
        self.facts = (
            shape,
            tensor.dtype,
            tensor.device,
            tensor.requires_grad,
            None,
            -1 if stored is None else stored,
        )

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Sizes; ``None`` for a nested tensor."""
        return self.facts[0]

    @property
    def has_moved(self) -> bool:
        """Whether what made this version put the tensor on other memory (``.data =``, ``set_``)."""
        return self.previous is not None and 0 != self.storage != self.previous.storage != 0

    @property
    def began_lazy(self) -> bool:
        """Whether its tensor was a lazy module's parameter without a value when first seen."""
        origin = (self.first or self).origin
        return origin is not None and origin.was_lazy

    @property
    def was_fetched(self) -> bool:
        """Whether it is a weight that was put into its module for one call, and taken away."""
        origin = (self.first or self).origin
        return origin is not None and origin.gathered and origin.alias_of is not None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape as plain numbers; ``None`` where one of them is none (a jagged tensor)."""
        return _plain(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the elements."""
        return self.facts[1]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.facts[2]

    @property
    def requires_grad(self) -> bool:
        """As it was right after the version was made."""
        return self.facts[3]

    @property
    def stride(self) -> tuple[int, ...] | None:
        """In elements; ``None`` where the layout has none."""
        return self.facts[4]

    @property
    def offset(self) -> int:
        """Position of the first element in the storage, in elements."""
        return int(self.facts[5])

    @property
    def stored(self) -> int | None:
        """How many elements a sparse tensor stores; ``None`` where that is not known."""
        return self.facts[5] if self.facts[4] is None and self.facts[5] >= 0 else None


def record_of(
    tensor: torch.Tensor, created_at: int, note: Callable[[Any], None] | None = None
) -> TensorRecord:
    """The first version of a tensor.

    A function, which Python calls in half the time of an ``__init__``: this runs once an op.

    Args:
        tensor: Any.
        created_at: Length of the tape.
        note: Takes down when the tensor dies, see ``deaths``.
    """
    record = TensorRecord()
    record.ref, record.created_at, record.layout = _weak(tensor, note), created_at, _STRIDED
    if note is not None:
        note(created_at)
    record.previous = record.first = record.origin = None
    try:
        # One tuple rather than six attributes.
        record.facts = (
            tensor.shape,
            tensor.dtype,
            tensor.device,
            tensor.requires_grad,
            tensor.stride(),
            tensor.storage_offset(),
        )
        record.storage = storage_address(tensor)
    except (RuntimeError, NotImplementedError, AttributeError):
        record.describe_without_strides(tensor)
    return record


def plain_facts(facts: Facts) -> Facts:
    """Facts as plain numbers, which is what `TensorRecord.restored` takes."""
    shape, dtype, device, requires_grad, stride, offset = facts
    return _plain(shape), dtype, device, requires_grad, _plain(stride), int(offset)


def _plain(sizes: tuple[Any, ...] | None) -> tuple[int, ...] | None:
    """Sizes as plain numbers; ``None`` where one of them is none (a jagged tensor)."""
    try:
        return None if sizes is None else tuple([int(size) for size in sizes])
    except (RuntimeError, TypeError, AttributeError):
        return None


def flat_records(value: Any) -> Iterator[TensorRecord]:
    """The records inside an encoded argument or result, in order."""
    if isinstance(value, TensorRecord):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from flat_records(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat_records(item)
    elif isinstance(value, slice):
        yield from flat_records((value.start, value.stop, value.step))
    elif hasattr(value, "children"):
        yield from flat_records(value.children)


class Origin:
    """Where a tensor that no recorded op made comes from.

    Attributes:
        value: The tensor itself where the program needs it again (a constant), or a copy from
            before the first write to it; ``None`` otherwise.
        written: Whether it was written to.
        passes: Whether it is ``alias_of`` under another object (a module's backward hooks
            wrap its arguments so), not something a model does.
        gathered: Whether it is a sharded parameter put together for this one call, or an
            offloaded one fetched for it: then ``alias_of`` is what stands in its place otherwise.
        was_lazy: Whether it was a lazy module's parameter without a value yet.
        is_leaf: Whether autograd leaves its gradient on it: it is to be trained.
        sources: Records it was computed from out of sight; empty for one that was just there.
        alias_of: TensorRecord whose memory it shares.
        made_by: What computed it, as far as autograd knows (``MyFunctionBackward``).
    """

    value: torch.Tensor | None = None
    written = False
    was_lazy = False
    is_leaf = False
    passes = False
    gathered = False
    sources: tuple[TensorRecord, ...] = ()
    alias_of: TensorRecord | None = None
    made_by = ""


# A tensor whose size Python has asked for, by what function, and what else that was given.
ToldSize: TypeAlias = "tuple[TensorRecord, Any, tuple[Any, ...]]"

# What Python may read of a tensor of one element.
SCALARS = (bool, int, float, complex)


class OpEntry(NamedTuple):
    """One torch call.

    Attributes:
        func: The function, method or descriptor called.
        args: Its positional arguments, tensors replaced by records.
        kwargs: Its keyword arguments, likewise.
        result: What it returned, tensors replaced by records, other values left out but for a
            number that Python reads.
        writes: New versions of tensors that it wrote to without returning them.
        code: Code object of the user's frame that the call comes from.
        lasti: Position in that code.
        plumbing: Whether the call comes from a training framework's own frame (logging).
        grad: Whether it ran with gradients enabled.
        autocast: Autocast state it ran under, see `autocast_state`; ``None``: off.
        first_node: Autograd sequence number before the call; ``last_node``: after it.
        layers: The function transforms it ran under, the outermost first; ``None``: those of
            the op that made its first argument, right after which it ran.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] | None
    result: Any
    writes: tuple[TensorRecord, ...]
    code: Any
    lasti: int
    plumbing: bool
    grad: bool
    autocast: tuple[tuple[str, torch.dtype], ...] | None
    first_node: int
    last_node: int
    layers: tuple[Layer, ...] | None = ()

    @property
    def gives_number(self) -> bool:
        """Whether it handed a number, or the answer of a condition, to Python."""
        return type(self.result) in SCALARS


class Enter(NamedTuple):
    """A module call begins."""

    module: torch.nn.Module
    training: bool


class Leave(NamedTuple):
    """A module call ends; arguments and result with tensors replaced by records.

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


class FunctionCall:
    """A call of one of the author's functions, between a module's forward and what runs in it.

    Attributes:
        name: The function's name.
        qualified_name: With the module that it is in: ``nets.rotate_half``.
        is_own: Whether it is a method of the module in whose call it runs.
        parent: The call of a function around it, in the same module call.
    """

    __slots__ = ("is_own", "name", "parent", "qualified_name")

    def __init__(
        self, name: str, qualified_name: str, is_own: bool, parent: FunctionCall | None
    ) -> None:
        self.name, self.qualified_name = name, qualified_name
        self.is_own, self.parent = is_own, parent


class Within(NamedTuple):
    """From here on, in the module call under way, ops run in another function.

    Attributes:
        function: The innermost one; ``None``: in the module's own forward.
    """

    function: FunctionCall | None


Entry = OpEntry | Enter | Leave | Within

# What the hot path appends is the bare fields, told apart by their number.
RawEntry = tuple[Any, ...]
_ENTRY_TYPES: dict[int, type[Entry]] = {
    length: kind
    for kind in (OpEntry, Enter, Leave, Within)
    for length in range(len(kind._fields) - len(kind._field_defaults), len(kind._fields) + 1)
}


def as_entry(raw: RawEntry) -> Entry:
    """An entry of the tape with names for its fields."""
    if type(raw) is not tuple:
        return raw  # type: ignore[return-value]  # has them already
    return _ENTRY_TYPES[len(raw)](*raw)


def only_if_needed(raw: RawEntry) -> RawEntry:
    """The entry, told as one that belongs to the model only where its results depend on it."""
    entry = as_entry(raw)
    return entry._replace(plumbing=True) if isinstance(entry, OpEntry) else raw


def autocast_state() -> tuple[tuple[str, torch.dtype], ...]:
    """The device types under autocast right now, with the dtype each casts to."""
    return tuple(
        (device, torch.get_autocast_dtype(device))
        for device in AUTOCAST_DEVICES
        if torch.is_autocast_enabled(device)
    )
