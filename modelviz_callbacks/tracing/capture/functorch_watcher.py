"""Follows tensors into function transforms and out of them again.

``torch.func`` wraps and unwraps tensors without a torch call that could be recorded. So when an
op hands out a wrapped tensor, what is inside is noted; when a tensor turns up that nothing
recorded has made, it is looked for there, and the wrapping or unwrapping is put on the tape as an
op like any other. A fault in here costs the connection through the transform, not the recording.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.multiprocessing import reductions

from modelviz_callbacks.tracing.capture.functorch_levels import (
    Layer,
    add_batch_dim,
    as_strided,
    depth,
    expand_batch_dims,
    permute,
    remove_batch_dim,
    unwrap_for_grad,
    wrap_for_grad,
)
from modelviz_callbacks.tracing.capture.tape import (
    OpEntry,
    RawEntry,
    TensorRecord,
    as_entry,
    record_of,
)
from modelviz_callbacks.tracing.capture.tape_interface import TapeOwner
from modelviz_callbacks.tracing.capture.torch_internals import (
    dual_level,
    functorch,
    make_dual,
    storage_address,
    unpack_dual,
)

_KINDS = {"Vmap": "vmap", "Grad": "grad", "Jvp": "jvp"}

_NOTHING = torch.zeros((), device="cpu")
# Tells whether a storage is still there without keeping its memory.
_StorageWeakRef: Any = reductions.StorageWeakRef


class _Open(NamedTuple):
    """A transform under way; its witness is a wrapper that dies with it."""

    layer: Layer
    witness: torch.Tensor


class _Inside(NamedTuple):
    """A tensor inside a wrapped one, which an op may take out."""

    wrapper: TensorRecord
    func: Any
    facts: tuple[Any, ...]


class _Shown(NamedTuple):
    """How a tensor lies in its storage, seen through its wrappers."""

    record: TensorRecord
    levels: tuple[int, ...]
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class _DualLevel:
    """A level of forward-mode differentiation and the stretch of the tape that needs it."""

    def __init__(self, layer: Layer, start: int, below: tuple[Layer, ...]) -> None:
        self.layer = layer
        self.start = self.end = start
        self.below = below
        self.jvp = next((one for one in below if one.kind == "jvp"), None)
        # Forgets its tangent when the level ends.
        self.witness = None if self.jvp else make_dual(torch.zeros(()), torch.zeros(()), level=0)

    def goes_on(self, layers: tuple[Layer, ...]) -> bool:
        if self.witness is None:
            return self.jvp in layers
        return unpack_dual(self.witness, level=0)[1] is not None


class TransformWatcher:
    """Knows the transforms under way, and what is inside the wrapped tensors of one recorder.

    Attributes:
        seen: Whether a wrapped tensor was seen so far.
        fault: What made it give up, if something did.
    """

    def __init__(self, recorder: TapeOwner) -> None:
        """Watches for one recorder.

        Args:
            recorder: On whose tape the wrapping is put.
        """
        self.seen = False
        self.fault: Exception | None = None
        self._recorder = recorder
        self._outside = depth()
        self._open: list[_Open] = []
        self._layers_at: dict[int, tuple[Layer, ...] | None] = {}
        self._inside: dict[int, TensorRecord] = {}
        self._ways_out: dict[TensorRecord, _Inside] = {}
        self._shown: dict[int, list[_Shown]] = {}
        self._storages: dict[int, Any] = {}
        self._duals: list[_DualLevel] = []

    # --- what the recorder tells and asks

    def is_on(self) -> bool:
        """Whether a transform is under way, or was in this recording."""
        return self.seen or depth() > self._outside

    def note_result(self, tensor: torch.Tensor, record: TensorRecord) -> None:
        """An op that is about to be appended made or wrote a tensor without a storage."""
        if functorch is None or self.fault or not functorch.is_functorch_wrapped_tensor(tensor):
            return
        try:
            self._layers_at[len(self._recorder.tape)] = self._layers()
            self._look_inside(tensor, record)
        except Exception as error:
            self.fault = error

    def note_dual(self) -> None:
        """An op that is about to be appended makes a dual number or takes one apart."""
        if self.fault or dual_level() < 0:
            return
        try:
            position, layers = len(self._recorder.tape), self._layers()
            if not self._duals or not self._duals[-1].goes_on(layers):
                layer = Layer("dual", dual_level())
                self._duals.append(_DualLevel(layer, position, layers))
            self._duals[-1].end = position
        except Exception as error:
            self.fault = error

    def explain(self, tensor: torch.Tensor) -> TensorRecord | None:
        """The record of a tensor that a transform has wrapped or unwrapped.

        Args:
            tensor: One that no recorded op made.

        Returns:
            Its record, the op that gives it being on the tape now; ``None`` if it has nothing to
            do with a transform.
        """
        if functorch is None or self.fault:
            return None
        try:
            wrapped = functorch.is_functorch_wrapped_tensor(tensor)
            if not wrapped and (not self.seen or self._recorder.is_state(tensor)):
                return None
            return self._explain(tensor, wrapped)
        except Exception as error:
            self.fault = error
            return None

    def with_layers(self, tape: list[RawEntry]) -> list[RawEntry]:
        """The finished tape, each op with the transforms it ran under."""
        if not self._layers_at and not self._duals:
            return tape
        found = list(tape)
        for position, raw in enumerate(found):
            entry = as_entry(raw)
            if isinstance(entry, OpEntry):
                layers = self._layers_at.get(position, ())
                for dual in self._duals:
                    if layers is not None and dual.start <= position <= dual.end:
                        layers = _with_dual(layers, dual)
                if layers != ():
                    found[position] = entry._replace(layers=layers)
        return found

    # --- which transforms are under way

    def _layers(self) -> tuple[Layer, ...]:
        count = depth() - self._outside
        now = self._open
        if len(now) != count or (now and _is_dead(now[-1])):
            now = [one for one in now[:count] if not _is_dead(one)]
            stack = functorch.get_interpreter_stack() or []
            for interpreter in stack[self._outside + len(now) :]:
                now.append(_opened(interpreter))
            self._open = now
        return tuple([one.layer for one in now])

    # --- what is inside a wrapped tensor

    def _look_inside(self, tensor: torch.Tensor, record: TensorRecord) -> None:
        """Notes what is inside a wrapped tensor, down to the one with the memory."""
        self.seen = True
        recorder = self._recorder
        layers = {layer.level: layer for layer in self._layers()}
        chain = [(tensor, record)]
        while functorch.is_functorch_wrapped_tensor(tensor):
            inner = functorch.get_unwrapped(tensor)
            inner_record = recorder.known(inner)
            if inner_record is None:
                inner_record = record_of(inner, record.created_at, recorder.note)
                func, facts = _way_out(tensor, layers)
                self._inside[id(inner)] = inner_record
                self._ways_out[inner_record] = _Inside(record, func, facts)
            tensor, record = inner, inner_record
            chain.append((tensor, record))
        address = _address(tensor)
        if address and not self._is_kept(address):
            self._storages[address] = _StorageWeakRef(tensor.untyped_storage())
            self._shown[address] = []
        for kept, kept_record in chain:
            if address:
                kept_record.storage = address
                self._shown[address].append(_shown(kept, kept_record, tensor))

    def _is_kept(self, address: int) -> bool:
        """Whether the storage there is the one that was noted; while noted, no other can be."""
        storage = self._storages.get(address)
        return storage is not None and not storage.expired()

    # --- tensors that turn up

    def _explain(self, tensor: torch.Tensor, wrapped: bool) -> TensorRecord | None:
        inside = self._inside_of(tensor)
        if inside is not None:
            return self._on_tape(inside)
        if not wrapped:
            return self._as_view(tensor)
        base = functorch.get_unwrapped(tensor)
        has_history = tensor.grad_fn is not None
        known = self._recorder.known(base) is not None or self._inside_of(base) is not None
        if has_history or not known:
            record = self._as_view(tensor)
            if record is not None:
                self._look_inside(tensor, record)
            if record is not None or has_history:
                return record  # what is freshly wrapped has no history: an op out of sight made it
        return self._wrap(tensor, base)

    def _inside_of(self, tensor: torch.Tensor) -> TensorRecord | None:
        record = self._inside.get(id(tensor))
        return record if record is not None and record.ref() is tensor else None

    def _on_tape(self, record: TensorRecord) -> TensorRecord:
        """The record, after the op that takes it out of its wrapper has been put on the tape."""
        inside = self._ways_out.pop(record, None)
        if inside is None:
            return record
        return self._derive(inside.func, (self._on_tape(inside.wrapper), *inside.facts), record)

    def _wrap(self, tensor: torch.Tensor, base: torch.Tensor) -> TensorRecord | None:
        level = functorch.maybe_get_level(tensor)
        layers = self._layers()
        layer = next((one for one in layers if one.level == level), None)
        if layer is None:
            return None
        base_record = self._recorder.record(base)
        func: Any
        args: tuple[Any, ...]
        if functorch.is_batchedtensor(tensor):
            func, args = add_batch_dim, (base_record, functorch.maybe_get_bdim(tensor), layer)
        else:
            func, args = wrap_for_grad, (base_record, layer)
        record = record_of(tensor, len(self._recorder.tape), self._recorder.note)
        self._layers_at[len(self._recorder.tape)] = layers
        self._recorder.append_derived(func, args, record)
        self._look_inside(tensor, record)
        return record

    def _as_view(self, tensor: torch.Tensor) -> TensorRecord | None:
        """A tensor that shows memory which is known, inside the same wrappers, differently."""
        levels, plain = _levels(tensor)
        address = _address(plain)
        if not address or not self._is_kept(address):
            return None
        record = record_of(tensor, len(self._recorder.tape), self._recorder.note)
        wanted = _shown(tensor, record, plain)
        found = [one for one in self._shown[address] if _alike(one.levels, levels)]
        for shown in reversed(found):
            order = _reordered(shown, wanted)
            if order is not None:
                source = self._on_tape(shown.record)
                sizes = [wanted.shape[order.index(n)] for n in range(len(order) - len(shown.shape))]
                if sizes:
                    return self._derive(expand_batch_dims, (source, tuple(sizes), order), record)
                return self._derive(permute, (source, order), record)
        if found and not levels:
            source = self._on_tape(found[-1].record)
            facts = (wanted.shape, wanted.stride, wanted.offset)
            return self._derive(as_strided, (source, *facts), record)
        return None

    def _derive(self, func: Any, args: tuple[Any, ...], record: TensorRecord) -> TensorRecord:
        """Appends an op that runs wherever the tensor it reads was made."""
        self._layers_at[len(self._recorder.tape)] = None
        self._recorder.append_derived(func, args, record)
        return record


def _opened(interpreter: Any) -> _Open:
    kind = _KINDS[str(interpreter.key()).rpartition(".")[2]]
    level = int(interpreter.level())
    if kind == "vmap":
        vmap = functorch.CVmapInterpreterPtr(interpreter)
        randomness = str(vmap.randomness()).rpartition(".")[2].lower()
        layer = Layer(kind, level, int(vmap.batchSize()), randomness)
    elif kind == "grad":
        layer = Layer(kind, level, grad=functorch.CGradInterpreterPtr(interpreter).prevGradMode())
    else:
        layer = Layer(kind, level, grad=torch.is_grad_enabled())
    return _Open(layer, functorch.wrap_for_grad(_NOTHING, level))


def _is_dead(opened: _Open) -> bool:
    return bool(functorch.is_dead_tensor_wrapper(opened.witness))


def _with_dual(layers: tuple[Layer, ...], dual: _DualLevel) -> tuple[Layer, ...]:
    """The layers of an op in a dual level: those around the level, the level, those in it."""
    return (*dual.below, dual.layer, *layers[len(dual.below) :])


def _way_out(wrapper: torch.Tensor, layers: dict[int, Layer]) -> tuple[Any, tuple[Any, ...]]:
    """The op that takes out what is inside, and its arguments after the wrapper."""
    level = functorch.maybe_get_level(wrapper)
    if functorch.is_batchedtensor(wrapper):
        return remove_batch_dim, (functorch.maybe_get_bdim(wrapper), layers.get(level, level))
    return unwrap_for_grad, (layers.get(level, level),)


def _levels(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.Tensor]:
    """The levels of a tensor's wrappers from the outside in, and what is inside them all."""
    levels = []
    while functorch.is_functorch_wrapped_tensor(tensor):
        levels.append(int(functorch.maybe_get_level(tensor)))
        tensor = functorch.get_unwrapped(tensor)
    return tuple(levels), tensor


def _alike(then: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """Whether the levels can be of the same wrappers: when a transform ends, theirs is lost."""
    return len(then) == len(now) and all(
        first == second or second < 0 for first, second in zip(then, now, strict=True)
    )


def _address(tensor: torch.Tensor) -> int:
    try:
        return storage_address(tensor)
    except (RuntimeError, NotImplementedError):
        return 0  # sparse and the like: nothing to compare


def _shown(tensor: torch.Tensor, record: TensorRecord, memory: torch.Tensor) -> _Shown:
    levels, _ = _levels(tensor)
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    return _Shown(record, levels, tensor.dtype, shape, stride, int(memory.storage_offset()))


def _reordered(source: _Shown, wanted: _Shown) -> tuple[int, ...] | None:
    """How to get one view of a storage from another by permuting and broadcasting.

    Args:
        source: The tensor to start from.
        wanted: The tensor to get.

    Returns:
        The dimensions of the source in the order wanted, new ones (to be put first) counted
        with them; ``None`` if it takes more than that.
    """
    if (source.dtype, source.offset) != (wanted.dtype, wanted.offset):
        return None
    new = len(wanted.shape) - len(source.shape)
    if new < 0:
        return None
    left = list(range(len(source.shape)))
    order, added = [], 0
    for size, stride in zip(wanted.shape, wanted.stride, strict=True):
        same = [
            place
            for place in left
            if source.shape[place] == size and (size == 1 or source.stride[place] == stride)
        ]
        if same:
            left.remove(same[0])
            order.append(new + same[0])
        elif stride == 0 and added < new:
            order.append(added)
            added += 1
        else:
            return None
    return tuple(order) if not left and added == new else None
