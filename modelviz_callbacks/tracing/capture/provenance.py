"""Explains tensors that turn up without a recorded op having made them.

In this order: state of the model (parameters, buffers); memory shared with a tensor that is
known; something autograd remembers the making of (a scripted function, a compiled extension);
a gradient that a backward made here; an array that Python made from values it read, unless it was
there before; else a constant.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from modelviz_callbacks.tracing.capture.earlier_arrays import EarlierArrays
from modelviz_callbacks.tracing.capture.known_storages import KnownStorages
from modelviz_callbacks.tracing.capture.offloaded import OffloadedWeights, take_place
from modelviz_callbacks.tracing.capture.shared_memory import (
    SharedMemory,
    is_foreign,
    on_same_memory,
)
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    Leave,
    OpEntry,
    Origin,
    TensorRecord,
    as_entry,
    flat_records,
    record_of,
)
from modelviz_callbacks.tracing.capture.tape_interface import TapeOwner
from modelviz_callbacks.tracing.capture.torch_internals import (
    PASS_THROUGH_NODES,
    functorch,
    no_torch_function,
    sequence_number,
    storage_address,
)

# A constant larger than this is not kept for replay: it could be somebody's activations.
MAX_CONSTANT_BYTES = 64 * 2**20

# Of the parameters and buffers that were just there, and of those that were written to where
# nobody needs what they were: shared by all of them, so they are replaced and never changed.
_STATE = Origin()
_WRITTEN_STATE = Origin()
_WRITTEN_STATE.written = True

# What made a gradient that turns up.
_BACKWARD = "backward"

# How far autograd's graph is followed backwards from one unexplained tensor.
_MAX_NODES = 10_000


class OriginFinder:
    """Explains unknown tensors for one recorder.

    Attributes:
        created: Number of records made for results so far.
        unexplained: Number of tensors seen that neither an op nor the model explains.
        is_state: Whether a tensor is a parameter or buffer of the model.
        offloaded: Finds weights that are on the meta device between calls, if there are any.
        storages: The storages that somebody asked for.
        shared: Watches memory that is not torch's own.
        earlier: Knows the arrays that were there before the forward.
    """

    shared: SharedMemory
    earlier: EarlierArrays

    def __init__(self, recorder: TapeOwner, state: StateNames, keeps_state: bool) -> None:
        self.created = 0
        self.unexplained = 0
        self.storages = KnownStorages()
        self.is_state = state.holds
        self.offloaded: OffloadedWeights | None = None
        self._state = state
        self._keeps_state = keeps_state
        self._recorder = recorder
        self._by_storage: dict[int, TensorRecord] = {}  # the latest record on each, by its address
        self._external: dict[int, TensorRecord] = {}
        self._wrappers: list[TensorRecord] = []  # of tensors that hold others
        self._reads: list[tuple[int, TensorRecord]] = []
        self._gradients: dict[int, weakref.ref[torch.Tensor]] = {}
        self._op_ends: list[int] = []
        self._op_entries: list[OpEntry] = []
        self._taken_in = 0

    def remember(self, record: TensorRecord) -> None:
        """Notes which storage a record that no op made lies on."""
        if self._taken_in < len(self._recorder.tape):
            self._take_in()
        if record.storage:
            self._by_storage[record.storage] = record
        if _is_wrapper(record.ref()):
            self._wrappers.append(record)
        origin = record.origin
        if self.offloaded is not None and origin is not None and not origin.gathered:
            self.offloaded.wait_for(record)

    def _take_in(self) -> None:
        """Reads what was recorded since the last time: the hot path leaves that to who asks."""
        tape = self._recorder.tape
        for raw in tape[self._taken_in :]:
            entry = as_entry(raw)
            if isinstance(entry, OpEntry):
                self._op_ends.append(entry.last_node)
                self._op_entries.append(entry)
                for record in flat_records((entry.result, entry.writes)):
                    if record.storage and record.stride is not None:
                        self._by_storage[record.storage] = record
                    if _is_wrapper(record.ref()):
                        self._wrappers.append(record)
        self._taken_in = len(tape)

    def state_record(self, tensor: torch.Tensor, created_at: int) -> TensorRecord:
        """The record of a parameter or buffer seen for the first time."""
        record = record_of(tensor, created_at)
        record.hold(tensor)
        record.origin = _STATE
        self._external[record.storage] = record
        self.remember(record)
        return record

    def explain(self, tensor: torch.Tensor, record: TensorRecord) -> Origin:
        """The origin of a tensor, no state, seen for the first time."""
        origin = Origin()
        if self.offloaded is not None:
            placeholder = self.offloaded.placeholder(tensor, self.open_modules())
            if placeholder is not None:
                origin.alias_of = self._sharing(tensor, record) or self._made_here(record)
                if origin.alias_of is None and tensor.device.type == "cpu":
                    self._keep_constant(tensor, record, origin)
                take_place(origin, placeholder, record)
                return origin
        if self._learn_gathered(tensor):
            origin.gathered = True
            return origin
        self.unexplained += 1
        origin.alias_of = self._sharing(tensor, record)
        is_array = origin.alias_of is None and is_foreign(tensor)
        if is_array:
            shown = on_same_memory(tensor, record, self._recorder.living())
            origin.alias_of = None if shown is None else self._recorder.known(shown)
        if origin.alias_of is None:
            origin.made_by, origin.sources = self._wrapping(tensor)
        if origin.alias_of is None and not origin.sources and tensor.grad_fn is not None:
            origin.made_by = tensor.grad_fn.name()
            origin.sources = self._autograd_sources(tensor.grad_fn)
        if len(origin.sources) == 1 and 0 != record.storage == origin.sources[0].storage:
            origin.alias_of = origin.sources[0]  # a view whose base is known but gone
        if origin.alias_of is not None and tensor.grad_fn is not None:
            origin.passes = tensor.grad_fn.name() in PASS_THROUGH_NODES
        if origin.alias_of is None and not origin.sources:
            self._explain_unseen(tensor, record, origin, is_array)
        return origin

    def _explain_unseen(
        self, tensor: torch.Tensor, record: TensorRecord, origin: Origin, is_array: bool
    ) -> None:
        """Fills in where a tensor comes from that no op and no view of another tells of."""
        origin.sources = self._backwards_behind(tensor)
        if origin.sources:
            origin.made_by = _BACKWARD
            return
        is_made_here = is_array and not self.earlier.holds(tensor)
        origin.sources = self._read_here() if is_made_here else ()
        origin.made_by = "python" if origin.sources else ""
        origin.is_leaf = tensor.requires_grad and tensor.is_leaf
        self._external.setdefault(record.storage, record)
        if not is_lazy(tensor):
            kept = self.shared.take_in(tensor) if is_array else None
            self._keep_constant(tensor if kept is None else kept, record, origin)

    def made_by_python(self, value: torch.Tensor) -> Origin:
        """The origin of what Python wrote somewhere just now, as a tensor of its own."""
        origin = Origin()
        origin.sources = self._read_here()
        origin.made_by = "python"
        if value.nbytes < MAX_CONSTANT_BYTES:
            origin.value = value
        return origin

    def _keep_constant(self, tensor: torch.Tensor, record: TensorRecord, origin: Origin) -> None:
        sizes = record.sizes
        if sizes is None or math.prod(sizes) * record.dtype.itemsize < MAX_CONSTANT_BYTES:
            origin.value = _same_level(tensor, tensor.detach())

    def _learn_gathered(self, tensor: torch.Tensor) -> bool:
        """Finds a parameter that took another's place just now, as FSDP's gathered ones do.

        It is there for the time of a module's call: the modules being called tell its name.
        """
        if not isinstance(tensor, torch.nn.Parameter):
            return False
        for module in self.open_modules():
            for label, parameter in module.named_parameters():
                if parameter is tensor:
                    return self._state.learn(tensor, module, label)
        return False

    def open_modules(self) -> Iterator[torch.nn.Module]:
        """The modules whose calls are under way, innermost first."""
        depth = 0
        for raw in reversed(self._recorder.tape):
            entry = as_entry(raw)
            if isinstance(entry, Leave):
                depth += 1
            elif isinstance(entry, Enter):
                if depth == 0:
                    yield entry.module
                else:
                    depth -= 1

    def keep_value(self, record: TensorRecord) -> None:
        """Copies the value of the state behind a record that is about to be written to."""
        root = record.first or record
        if root.origin is None or root.origin.alias_of is not None:
            found = self._external.get(record.storage) if record.storage else None
            if found is None:
                return
            root = found
        tensor, origin = root.ref(), root.origin
        if tensor is None or origin is None or origin.written:
            return
        is_new = is_lazy(tensor)
        if origin is _STATE:
            if not self._keeps_state and not is_new:
                root.origin = _WRITTEN_STATE
                return
            origin = root.origin = Origin()
        origin.written = True
        if origin.made_by == _BACKWARD:
            return  # it is not there to begin with when the forward runs again
        if is_new:
            # It comes to life in this very forward, out of nothing.
            origin.was_lazy, origin.value = True, torch.empty(0, dtype=tensor.dtype)
            return
        with no_torch_function(), torch.no_grad():
            origin.value = _same_level(tensor, tensor.detach().clone())

    @contextlib.contextmanager
    def without_values(self) -> Iterator[None]:
        """While what is written to has no data that could be kept."""
        keeps, self._keeps_state = self._keeps_state, False
        try:
            yield
        finally:
            self._keeps_state = keeps

    def rewind(self) -> None:
        """To be called where the end of the tape was taken away again."""
        self._taken_in = min(self._taken_in, len(self._recorder.tape))

    def note_reads(self, position: int, args: Sequence[Any]) -> None:
        """Remembers that Python got hold of these tensors' values."""
        self._reads += [(position, value) for value in args if isinstance(value, TensorRecord)]

    def note_gradient(self, tensor: torch.Tensor) -> None:
        """Remembers that a tensor's ``.grad`` is being read."""
        gradient = tensor.grad if tensor.is_leaf or tensor.retains_grad else None
        if gradient is not None:
            self._gradients[id(gradient)] = weakref.ref(tensor)

    def _sharing(self, tensor: torch.Tensor, record: TensorRecord) -> TensorRecord | None:
        self._take_in()
        found = self._by_storage.get(record.storage) if record.storage else None
        if found is None:
            return None
        alive = found.ref()
        if alive is None and found.stride is not None:
            return self.storages.record_of(tensor.untyped_storage())
        if alive is None or alive is tensor or found.stride is None:
            return None
        # The address may have been given to other memory since; ask the tensor itself.
        return found if storage_address(alive) == record.storage else None

    def _made_here(self, record: TensorRecord) -> TensorRecord | None:
        """What this module call made on a record's memory last, if nobody holds it any more."""
        found = self._by_storage.get(record.storage) if record.storage else None
        if found is None or found.shape != record.shape:
            return None
        return found if found.created_at > self._start_of_call() else None

    def _wrapping(self, tensor: torch.Tensor) -> tuple[str, tuple[TensorRecord, ...]]:
        """What a tensor that wraps others was made from, or what a wrapped one was taken out of.

        Such a tensor (a DTensor, a quantised weight) computes with the ones inside it where no
        mode sees it. They are found by the protocol that torch.compile knows them by.
        """
        known = [self._recorder.known(inner) for _, inner in _wrapped_in(tensor)]
        sources = tuple(record for record in known if record is not None)
        if sources:
            return type(tensor).__name__, sources
        for record in reversed(self._wrappers):
            wrapper = record.ref()
            if wrapper is None:
                continue
            for name, inner in _wrapped_in(wrapper):
                if inner is tensor:
                    return name.strip("_"), (self._recorder.record(wrapper),)
        return "", ()

    def _autograd_sources(self, grad_fn: Any) -> tuple[TensorRecord, ...]:
        """The known tensors that an unknown one was computed from, as autograd has it."""
        found: dict[int, TensorRecord] = {}
        seen = {grad_fn}
        waiting = [grad_fn]
        while waiting and len(seen) < _MAX_NODES:
            node = waiting.pop()
            for next_node, index in node.next_functions:
                if next_node is None:
                    continue
                for record in self._records_behind(next_node, index):
                    found[id(record)] = record
                    break
                else:
                    if next_node not in seen:
                        seen.add(next_node)
                        waiting.append(next_node)
        return tuple(found.values())

    def _records_behind(self, node: Any, index: int) -> Iterator[TensorRecord]:
        variable = getattr(node, "variable", None)  # of an AccumulateGrad node
        if isinstance(variable, torch.Tensor):
            yield self._recorder.record(variable)
            return
        entry = self._op_of(sequence_number(node))
        if entry is not None:
            records = list(flat_records(entry.result))
            if records:
                yield records[index] if index < len(records) else records[0]

    def _backwards_behind(self, tensor: torch.Tensor) -> tuple[TensorRecord, ...]:
        """What this forward called ``backward`` on, if a tensor is a gradient that came of it."""
        found = self._gradients.get(id(tensor))
        owner = None if found is None else found()
        is_gradient = owner is not None and owner.grad is tensor
        return tuple(self._recorder.losses) if is_gradient else ()

    def _op_of(self, sequence_number: int) -> OpEntry | None:
        """The recorded op during which an autograd node was made."""
        self._take_in()
        position = bisect.bisect_right(self._op_ends, sequence_number)
        if position < len(self._op_entries):
            entry = self._op_entries[position]
            if entry.first_node <= sequence_number < entry.last_node:
                return entry
        return None

    def _read_here(self) -> tuple[TensorRecord, ...]:
        """What Python read in this module call."""
        start = self._start_of_call()
        read = {id(record): record for at, record in self._reads if at > start}
        return tuple(record for record in read.values() if not self._is_fixed(record))

    def _is_fixed(self, record: TensorRecord) -> bool:
        """Whether an op made a tensor of nothing but numbers: no array comes from such values."""
        tape = self._recorder.tape
        entry = as_entry(tape[record.created_at]) if record.created_at < len(tape) else None
        if not isinstance(entry, OpEntry) or record not in flat_records(entry.result):
            return False
        return not any(True for _ in flat_records([entry.args, entry.kwargs]))

    def _start_of_call(self) -> int:
        depth = 0
        tape = self._recorder.tape
        for position in range(len(tape) - 1, -1, -1):
            entry = as_entry(tape[position])
            if isinstance(entry, Leave):
                depth += 1
            elif isinstance(entry, Enter):
                if depth == 0:
                    return position
                depth -= 1
        return 0


def _is_wrapper(tensor: torch.Tensor | None) -> bool:
    kind = tensor.__class__
    return kind is not torch.Tensor and hasattr(kind, "__tensor_flatten__")


def _wrapped_in(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that one wraps, with the names of the attributes that hold them."""
    if not _is_wrapper(tensor):
        return
    with contextlib.suppress(Exception):  # it is somebody's code
        names, _ = type(tensor).__tensor_flatten__(tensor)  # type: ignore[attr-defined]
        for name in names:
            inner = getattr(tensor, name)
            if isinstance(inner, torch.Tensor):
                yield name, inner


def _same_level(tensor: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """What was made from a tensor, without the wrapper that a transform under way puts on."""
    if functorch is not None and not functorch.is_functorch_wrapped_tensor(tensor):
        while functorch.is_functorch_wrapped_tensor(made):
            made = functorch.get_unwrapped(made)
    return made
