"""The memory that a forward holds: what each op keeps for the backward, and what is alive then.

Each call that autograd watches is made once more on tensors without data, of the recorded shapes,
while torch tells what it saves: no memory, no arithmetic, and outside the training step. Memory
is counted once, by the op that is the first to keep it, whatever views of it are kept later;
parameters and buffers are not counted, they are there anyway.

What is alive is known from when tensors died while they were recorded: memory lives as long as one
of the tensors on it, or an op that keeps it for the backward and leads to something that lives.
What autocast makes of a parameter is kept for all ops until it ends. Of what an op needs only while
it runs, what it makes by smaller ops is counted (copies in a ``matmul``, the gates of a GRU), and
what kernels allocate by a rule (``kernel_buffers``).
Where hooks replace what is saved (activation checkpoints without reentry, offloading), nothing is
told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.op_facts import OpFact
from modelviz_callbacks.tracing.capture.autograd_record import record_backward
from modelviz_callbacks.tracing.capture.pytree import Leaf, TreeSpec
from modelviz_callbacks.tracing.capture.recording import Recording, argument_records
from modelviz_callbacks.tracing.capture.tape import (
    Leave,
    OpEntry,
    Origin,
    TensorRecord,
    flat_records,
)
from modelviz_callbacks.tracing.capture.torch_internals import fake_tensor_mode, storage_address
from modelviz_callbacks.tracing.lowering.call_patterns import CallPatterns, Outcome, Pattern
from modelviz_callbacks.tracing.lowering.flops import call_key, filled
from modelviz_callbacks.tracing.lowering.temporaries import Temporaries
from modelviz_callbacks.tracing.lowering.to_graph import node_names
from modelviz_callbacks.tracing.op_facts import facts_of, torch_name


def with_memory(graph: ModelGraph, recording: Recording) -> ModelGraph:
    """The graph with the memory of each op filled in.

    Args:
        graph: As lowered from ``recording``.
        recording: Where the calls are.

    Returns:
        The same graph; ``kept_bytes`` and ``live_bytes`` are ``None`` of ops of which torch does
        not tell what they save, and of all where hooks have replaced what is saved.
    """
    mode = fake_tensor_mode()
    backward = record_backward(recording)  # of another process, or while the outputs live
    if mode is None or (backward is not None and backward.has_hooks):
        return graph
    names = node_names(recording)
    found = _Forward(recording, _Replay(mode)).run()
    known = {names[key]: figures for key, figures in found.items() if key in names}
    nodes = []
    for node in graph.nodes:
        kept, live = known.get(node.name, (None, None))
        nodes.append(dataclasses.replace(node, kept_bytes=kept, live_bytes=live))
    return dataclasses.replace(graph, nodes=tuple(nodes))


# What asks for gradients and keeps nothing.
_BEGINS = ("requires_grad_", "requires_grad.__set__")


class _Region:
    """Memory that tensors share.

    Attributes:
        size_bytes: Its size, as far as the tensors on it tell.
        born: Where on the tape an op made it; ``None``: it was there before.
        read: Where on the tape it is read last, or a variable holds it last.
        is_state: Whether it is a parameter's or a buffer's.
        kept: To where on the tape something keeps it for the backward.
    """

    __slots__ = ("born", "is_state", "kept", "read", "size_bytes")

    def __init__(self, born: int | None, is_state: bool = False) -> None:
        self.size_bytes, self.born, self.is_state = 0, born, is_state
        self.read = -1 if born is None else born
        self.kept = -1

    def hold(self, record: TensorRecord) -> None:
        """Makes it as large as a tensor on it needs."""
        self.size_bytes = max(self.size_bytes, _extent_bytes(record))


class _Forward:
    """Follows one tape and knows which tensors share memory."""

    def __init__(self, recording: Recording, replay: _Replay) -> None:
        self._recording = recording
        self._replay = replay
        self._regions: dict[TensorRecord, _Region] = {}
        self._by_storage: dict[int, _Region] = {}
        self._kept: dict[int, tuple[int, int | None]] = {}
        self._temporary: dict[int, int] = {}
        # Of parameters that autocast has cast, since where: bytes that nothing else keeps.
        self._casts: dict[TensorRecord, tuple[int, int]] = {}
        # From where to where on the tape, and bytes: kept, and no tensor of the recording.
        self._held: list[tuple[int, int, int]] = []

    def run(self) -> dict[int, tuple[int | None, int | None]]:
        """Bytes kept by each op and alive while it runs, by the ``id`` of its entry."""
        tape = self._recording.tape
        kept = {}
        for position, entry in enumerate(tape):
            if isinstance(entry, OpEntry):
                self._follow(entry, position)
            elif isinstance(entry, Leave):
                for record in flat_records((entry.args, entry.kwargs)):
                    if record in self._regions:
                        self._regions[record].read = position
        for _, record in self._recording.output_records():
            if record in self._regions:
                self._regions[record].read = len(tape)
        self._outlive(len(tape))
        ends = self._ends_of_nodes()
        for position, entry in enumerate(tape):
            if isinstance(entry, OpEntry):
                if not entry.autocast:
                    self._drop_casts(position)
                kept[position] = self._keep(entry, position, ends[position])
        self._drop_casts(len(tape) + 1)
        live = self._live(len(tape))
        return {
            id(tape[position]): (size, None if size is None else live[position])
            for position, size in kept.items()
        }

    def _outlive(self, length: int) -> None:
        """Lets memory live as long as a tensor on it did, where that was recorded."""
        died = self._recording.died
        if died is None:
            return
        for record, region in self._regions.items():
            position = died(record)
            last = length if position is None else min(position, length)
            region.read = max(region.read, last)

    def _ends_of_nodes(self) -> list[int]:
        """To where on the tape what autograd noted of each op lives: to the end, mostly.

        What nothing leads on from (a last pooling whose result nobody reads) goes with its result.
        """
        tape, regions = self._recording.tape, self._regions
        ends = [len(tape)] * len(tape)
        if self._recording.died is None:
            return ends
        lives = {region: region.read for region in regions.values()}
        for origin in self._origins():  # what ran out of sight may keep what it was given
            for source in (*origin.sources, origin.alias_of):
                if source in regions:
                    lives[regions[source]] = len(tape)
        for position in range(len(tape) - 1, -1, -1):
            entry = tape[position]
            if isinstance(entry, OpEntry):
                made = [*flat_records(entry.result), *entry.writes]
                ends[position] = max([lives[regions[one]] for one in made], default=position)
                # Gradients may pass what says that it needs none: it ran inside of a function.
                kinds = {record.dtype for record in made}
                if any(kind.is_floating_point or kind.is_complex for kind in kinds):
                    for record in (*made, *argument_records(entry)):
                        region = regions[record]
                        lives[region] = max(lives[region], ends[position])
        return ends

    def _origins(self) -> Iterator[Origin]:
        outputs = [record for _, record in self._recording.output_records()]
        for record in (*self._regions, *outputs):
            if record.origin is not None:
                yield record.origin

    def _live(self, length: int) -> list[int]:
        """Bytes that the forward made and that are alive, at the most while each entry runs."""
        changes = [0] * (length + 2)
        for region in set(self._regions.values()):
            if region.born is not None:
                changes[region.born] += region.size_bytes
                changes[max(region.read, region.kept) + 1] -= region.size_bytes
        for begin, end, size in self._held:
            changes[begin] += size
            changes[end] -= size
        live, total = list[int](), 0
        for change in changes:
            total += change
            live.append(total + self._temporary.get(len(live), 0))
        return live

    # --- which tensors share memory

    def _follow(self, entry: OpEntry, position: int) -> None:
        arguments = argument_records(entry)
        for record in arguments:
            self._source(record).read = position
        for record in (*flat_records(entry.result), *entry.writes):
            if record not in self._regions:
                self._join(record, self._shared(record, arguments) or _Region(position))
            self._regions[record].read = position

    def _source(self, record: TensorRecord) -> _Region:
        """The memory of a tensor that is read; that of one nobody made was there before."""
        known = self._regions.get(record)
        if known is not None:
            return known
        if record.previous is not None:
            return self._join(record, self._source(record.previous))
        origin = record.origin
        if origin is not None and origin.alias_of is not None:
            return self._join(record, self._source(origin.alias_of))
        known = self._by_storage.get(record.storage) if record.storage else None
        return self._join(record, known or _Region(None, self._is_state(record)))

    def _shared(self, record: TensorRecord, arguments: Iterable[TensorRecord]) -> _Region | None:
        if record.previous is not None:
            return self._source(record.previous)
        for argument in arguments:
            if record is argument or (record.storage and argument.storage == record.storage):
                return self._regions[argument]
        return None

    def _join(self, record: TensorRecord, region: _Region) -> _Region:
        self._regions[record] = region
        region.hold(record)
        if record.storage and region.is_state:  # other memory may be given to another tensor
            self._by_storage[record.storage] = region
        return region

    def _is_state(self, record: TensorRecord) -> bool:
        tensor = record.ref()
        return tensor is not None and self._recording.state.find(tensor) is not None

    # --- what is kept

    def _keep(self, entry: OpEntry, position: int, end: int) -> int | None:
        """Bytes that this op is the first to keep to the end; ``None``: torch does not tell."""
        is_for_good = end == len(self._recording.tape)
        made = [*flat_records(entry.result), *entry.writes]
        if not entry.grad or not any(record.requires_grad for record in made):
            return 0
        arguments = argument_records(entry)
        if arguments and not any(record.requires_grad for record in arguments):
            # Gradients begin here, or an autograd function of somebody's made what is read: it
            # may keep anything.
            return 0 if torch_name(entry.func) in _BEGINS else None
        call = self._replay.of(entry)
        if call is None:
            return None
        self._temporary[position] = call.temporary_bytes
        given, total = [*arguments, *flat_records(entry.result)], 0
        known = self._cast(call, arguments, position) if entry.autocast else set[int]()
        for number, piece in enumerate(call.saved):
            if number in known:
                continue
            if piece.place is None:
                self._held.append((position, end + 1, piece.size_bytes))
                total += piece.size_bytes if is_for_good else 0
                continue
            region = self._regions[given[piece.place]]
            if region.kept < end and not region.is_state:
                region.kept = end
                total += region.size_bytes if is_for_good else 0
        return total

    # --- what autocast keeps

    def _cast(self, call: _Call, arguments: list[TensorRecord], position: int) -> set[int]:
        """Notes which parameters a call casts that were not; which it saves that were before."""
        known = set()
        for cast in call.casts:
            record = arguments[cast.place]
            if not (self._regions[record].is_state and record.requires_grad):
                continue
            if cast.saved is None or record in self._casts:  # else it goes with what is kept
                self._temporary[position] -= cast.size_bytes * (cast.saved is None)
            if record in self._casts and cast.saved is not None:
                known.add(cast.saved)
            if record not in self._casts:
                held = 0 if cast.saved is not None else cast.size_bytes
                self._casts[record] = position, held
        return known

    def _drop_casts(self, position: int) -> None:
        """Autocast has ended before a place on the tape."""
        for begin, size in self._casts.values():
            if size:
                self._held.append((begin, position, size))
        self._casts.clear()


class _Cast(NamedTuple):
    """A copy of an argument in another dtype.

    Attributes:
        place: Which argument.
        size_bytes: Its size.
        saved: Which of what is saved for the backward it is; ``None``: none.
    """

    place: int
    size_bytes: int
    saved: int | None


class _Call(NamedTuple):
    """What is known of the memory of a call.

    Attributes:
        saved: What it saves for the backward.
        temporary_bytes: What it needs besides only while it runs.
        casts: Which arguments it casts.
    """

    saved: tuple[_Saved, ...] = ()
    temporary_bytes: int = 0
    casts: tuple[_Cast, ...] = ()

    def outcome(self) -> Outcome | None:
        """What holds for such a call on other sizes, too; ``None`` where that cannot be said.

        What is alive at most depends on which of several tensors is the largest.
        """
        if self.temporary_bytes or self.casts:
            return None
        sizes = tuple([one.size_bytes for one in self.saved if one.place is None])
        return Outcome(tuple([one.place for one in self.saved]), sizes)

    @classmethod
    def of_outcome(cls, outcome: Outcome) -> _Call:
        """The call that came out so."""
        sizes = iter(outcome.sizes)
        saved = [_Saved(place, next(sizes) if place is None else 0) for place in outcome.kind]
        return cls(tuple(saved))


class _Saved(NamedTuple):
    """Memory that a call saves.

    Attributes:
        place: Which of its arguments and then its results lies there; ``None``: none of them.
        size_bytes: Its size, where it is none of them.
    """

    place: int | None
    size_bytes: int


# What calls came out as in this process, so that another graph of such calls need not make them
# again; so many at the most.
_MADE: dict[Hashable, _Call | None] = {}
_MOST_MADE = 20_000


class _Replay:
    """Makes calls again on tensors without data, those that are alike once."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._known: dict[Hashable, _Call | None] = {}
        self._patterns = CallPatterns()
        self._settings = _settings()

    def of(self, entry: OpEntry) -> _Call | None:
        """What a call saves and needs; ``None`` where it cannot be made again so."""
        given = (entry.args, entry.kwargs or {})
        if entry.layers != () or not torch_name(entry.func) or _holds_code(given):
            return None
        if OpFact.KEEPS_SIZES in facts_of(entry.func):
            # To make it again takes as long as it has tensors: in a growing loop, squared.
            return _Call()
        places: dict[TensorRecord, int] = {}

        def describe(record: TensorRecord) -> Hashable:
            facts = record.facts if record.stride is None else record.facts[:5]
            return (places.setdefault(record, len(places)), facts, record.layout)

        args = [_kind_of(value) for value in entry.args]
        kwargs = {name: _kind_of(value) for name, value in (entry.kwargs or {}).items()}
        key = (entry.func, call_key(args, describe), call_key(kwargs, describe), entry.autocast)
        if key not in self._known:
            self._known[key] = self._of_pattern(entry, key, args, kwargs)
        return self._known[key]

    def _of_pattern(self, entry: OpEntry, key: Hashable, args: Any, kwargs: Any) -> _Call | None:
        """Makes a call again, if none that differs from it in sizes only tells what it is."""
        places: dict[TensorRecord, int] = {}
        opened = Pattern()

        def describe(record: TensorRecord) -> Hashable:
            shape, stride = record.sizes, record.stride
            lies = record.facts if shape is None or stride is None else opened.tensor(shape, stride)
            place = places.setdefault(record, len(places))
            return (place, lies, *record.facts[1:4], record.layout)

        given = (call_key(args, describe), call_key(kwargs, describe))
        pattern = (entry.func, opened.of(given), entry.autocast)
        found = self._patterns.find(pattern, opened.numbers)
        if found is not None:
            return _Call.of_outcome(found)
        call = self._made(entry, key)
        outcome = None if call is None else call.outcome()
        self._patterns.learn(pattern, opened.numbers, outcome)
        return call

    def _made(self, entry: OpEntry, key: Hashable) -> _Call | None:
        """Makes a call again, if none like it was made in this process."""
        if not _is_lasting((entry.args, entry.kwargs)):
            return self._attempt(entry)
        key = (self._settings, key)
        if key not in _MADE:
            if len(_MADE) >= _MOST_MADE:
                _MADE.clear()
            _MADE[key] = self._attempt(entry)
        return _MADE[key]

    def _attempt(self, entry: OpEntry) -> _Call | None:
        for is_watched in (True, False):  # some ops do otherwise where a mode watches
            try:
                return self._made_again(entry, is_watched)
            except Exception:  # results whose shapes depend on values, kernels without such a form
                continue
        return None

    def _made_again(self, entry: OpEntry, is_watched: bool) -> _Call:
        given: dict[TensorRecord, torch.Tensor] = {}

        def make(record: TensorRecord) -> torch.Tensor:
            if record not in given:
                given[record] = _without_data(record)
            return given[record]

        saved: list[torch.Tensor] = []
        with (
            _silent(type(self._mode).__module__),
            torch.random.fork_rng(devices=[]),
            self._mode,
            torch.enable_grad(),
        ):
            args = [filled(value, make) for value in entry.args]
            kwargs = {key: filled(value, make) for key, value in (entry.kwargs or {}).items()}
            temporaries = Temporaries({storage_address(tensor) for tensor in given.values()})
            watch = temporaries.watching() if is_watched else contextlib.nullcontext()
            with _autocast(entry.autocast), _told_to(saved), watch:
                result = entry.func(*args, **kwargs)
            known: dict[int, int] = {}
            records = argument_records(entry)
            for place, record in enumerate(records):
                known.setdefault(storage_address(given[record]), place)
            places = {
                record: len(records) + n for n, record in enumerate(flat_records(entry.result))
            }
            for record, tensor in _pairs(entry.result, result):
                known.setdefault(storage_address(tensor), places[record])
            pieces = {storage_address(tensor): tensor for tensor in saved}
            found = tuple(
                _Saved(known.get(address), tensor.untyped_storage().nbytes())
                for address, tensor in pieces.items()
            )
            order = {address: number for number, address in enumerate(pieces)}
            casts = tuple(
                _Cast(known[given_at], size, order.get(made_at))
                for given_at, (made_at, size) in temporaries.casts.items()
                if given_at in known
            )
            return _Call(found, temporaries.temporary_bytes, casts)


def _settings() -> Hashable:
    """What of torch's settings says how a call is made."""
    kernels = torch.backends.cuda
    return (
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,
        kernels.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        kernels.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
        kernels.math_sdp_enabled(),  # type: ignore[no-untyped-call]
    )


# Values that are equal only where they mean the same, whenever.
_LASTING = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    TensorRecord,
)


def _is_lasting(value: Any) -> bool:
    """Whether what an argument is known by is never that of another."""
    if type(value) in (tuple, list):
        return all(_is_lasting(item) for item in value)
    if type(value) is dict:
        return all(_is_lasting(item) for item in value.values())
    return type(value) in _LASTING


def _holds_code(value: Any) -> bool:
    """Whether something of somebody's would be called, which may do anything."""
    if isinstance(value, (tuple, list)):
        return any(_holds_code(item) for item in value)
    if isinstance(value, dict):
        return any(_holds_code(item) for item in value.values())
    if isinstance(value, TreeSpec):
        return _holds_code(value.children)
    if isinstance(value, Leaf):
        return _holds_code(value.value)
    return callable(value) and not isinstance(value, type)


def _kind_of(value: Any) -> Any:
    """An argument, a factor without its value: only none and one make a difference (dropout)."""
    return float if type(value) is float and value not in (0.0, 1.0) else value


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keeps a logger from telling at length what cannot be made again: that is no error here."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _autocast(state: Iterable[tuple[str, torch.dtype]] | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device, dtype in state or ():
            stack.enter_context(torch.autocast(device, dtype, cache_enabled=False))
        yield


def _told_to(saved: list[torch.Tensor]) -> contextlib.AbstractContextManager[Any]:
    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _without_data(record: TensorRecord) -> torch.Tensor:
    """A tensor like a recorded one; with gradients it is no leaf, so that it can be written to."""
    sizes, strides = record.sizes, record.stride
    if sizes is None or strides is None:
        raise ValueError("a tensor without a shape or strides")
    stored = [1 if step == 0 else size for size, step in zip(sizes, strides, strict=True)]
    options: dict[str, Any] = {"dtype": record.dtype, "device": record.device}
    made = torch.empty_strided(stored, strides, **options)
    if record.requires_grad:
        made.copy_(torch.empty((), requires_grad=True, **options))
    return made if stored == list(sizes) else made.expand(sizes)


def _pairs(walked: Any, value: Any) -> Iterator[tuple[TensorRecord, torch.Tensor]]:
    """The records of a result with the tensors of the same call made again."""
    if isinstance(walked, TensorRecord) and isinstance(value, torch.Tensor):
        yield walked, value
    elif isinstance(walked, (tuple, list)) and isinstance(value, (tuple, list)):
        for inner, item in zip(walked, value, strict=False):
            yield from _pairs(inner, item)


def _extent_bytes(record: TensorRecord) -> int:
    """How far a tensor reaches into its memory, in bytes."""
    sizes, strides = record.sizes, record.stride
    if sizes is None or 0 in sizes:
        return 0
    if strides is None:
        return (record.stored or 0) * record.dtype.itemsize
    last = sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
    return (record.offset + last + 1) * record.dtype.itemsize
