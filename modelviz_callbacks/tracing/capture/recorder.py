"""The hot path: sees every torch call of one thread and appends it to the tape.

Everything here runs once an op inside somebody's training step, so it appends and returns:
nothing is formatted, built or looked up that can wait until the step is over. Inside
``__torch_function__`` torch has this mode switched off, so what is asked of a tensor here is
not itself recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture.argument_encoding import KEEP, Encoder
from modelviz_callbacks.tracing.capture.call_site import FrameKind, classify_file
from modelviz_callbacks.tracing.capture.earlier_arrays import EarlierArrays
from modelviz_callbacks.tracing.capture.function_calls import FunctionWatcher
from modelviz_callbacks.tracing.capture.functorch_watcher import TransformWatcher
from modelviz_callbacks.tracing.capture.gradient_hooks import (
    GRAD,
    HOOK,
    GradientHooks,
    names_edges,
    refuse_change,
    refuse_edge,
    replayable,
)
from modelviz_callbacks.tracing.capture.mutation import Version, tensors_in, versions_in
from modelviz_callbacks.tracing.capture.offloaded import AskingFirst, OffloadedWeights
from modelviz_callbacks.tracing.capture.op_kinds import (
    CallKind,
    classify,
    gives_values,
    keeps_values,
    written_state,
)
from modelviz_callbacks.tracing.capture.provenance import OriginFinder
from modelviz_callbacks.tracing.capture.shared_memory import SharedMemory
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import (
    SCALARS,
    TensorRecord,
    ToldSize,
    autocast_state,
    flat_records,
    record_of,
)
from modelviz_callbacks.tracing.capture.torch_internals import (
    MODULE_CALL,
    any_autocast,
    next_sequence_number,
    version_of,
)

_SKIP, _PURE, _WRITE, _CHECK = CallKind.SKIP, CallKind.PURE, CallKind.WRITE, CallKind.CHECK
_READ, _BACKWARD, _GRADIENT = CallKind.READ, CallKind.BACKWARD, CallKind.GRADIENT
_DUAL, _HOOK, _NODE, _SIZE = CallKind.DUAL, CallKind.HOOK, CallKind.NODE, CallKind.SIZE

_Named = dict[str, Any] | None

# Where a call comes from: code, position in it, whether it is a framework's bookkeeping; ``None``:
# from what gathers parameters.
_Site = tuple[CodeType | None, int, bool] | None

# Where a call comes from, and autograd's sequence number before it.
_Begun = tuple[_Site, int]
# A call's arguments with records for the tensors, and how it began.
_Encoded = tuple[list[Any], dict[str, Any] | None, _Begun]

# Bound once: what runs once an op looks nothing up.
_sequence_number, _any_autocast = next_sequence_number, any_autocast
_is_grad_enabled, _getframe = torch.is_grad_enabled, sys._getframe
_Tensor = torch.Tensor
_TORCH_FILE, _PLUMBING_FILE = FrameKind.TORCH, FrameKind.PLUMBING
_SHARDING_FILE = FrameKind.SHARDING
_HANDLER = TorchFunctionMode.__torch_function__.__name__


class Recorder(Encoder, TorchFunctionMode):
    """A mode that writes a tape; see the module's text.

    Attributes:
        tape: What was recorded so far.
        paused: While true, calls go through unrecorded.
        is_over: Whether that stays so.
        fault: What made this recorder give up, if something did.
        is_below_others: Whether modes of the user's lie above, which hand their calls on to it.
        losses: What ``backward`` was called on.
        sizes_told: The sizes that Python has asked for.
        before_backward: Called before it is, with the tensors.
        origins: Explains tensors that no recorded op made.
        transforms: Follows tensors into function transforms (vmap, grad, jvp).
        functions: Follows the author's functions.
        gradient_hooks: Those that the forward has put up for autograd to call.
        shared: Watches the memory that arrays of numpy show.
    """

    def __init__(
        self, state: StateNames, keeps_state: bool = True, model: torch.nn.Module | None = None
    ) -> None:
        """Starts with an empty tape.

        Args:
            state: The model's parameters and buffers.
            keeps_state: Whether to copy those that are written to, as they were before.
            model: The model that is recorded.
        """
        super().__init__(OriginFinder(self, state, keeps_state), TransformWatcher(self))
        self.gradient_hooks = GradientHooks()
        self.shared = self.origins.shared = SharedMemory(self, self.origins.made_by_python)
        self.origins.earlier = EarlierArrays(model)
        self.functions = FunctionWatcher(self.tape, model)
        self.paused = self.is_over = False
        self.fault: Exception | None = None
        self.is_below_others = False
        self.losses: list[TensorRecord] = []
        self.sizes_told: list[ToldSize] = []
        self._note_size = self.sizes_told.append
        self.before_backward: Callable[[list[torch.Tensor]], None] | None = None
        self._kinds: dict[Any, CallKind] = {}
        self._file_kinds: dict[str, FrameKind] = {}

    def __torch_function__(  # noqa: C901 - inlined, since it runs once an op
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: _Named = None
    ) -> Any:
        """Calls ``func`` and appends what it did; the result is the function's own."""
        kind = self._kinds.get(func)
        if kind is not _PURE and kind is not _SKIP:
            kind = self._as_called(kind, func, args)
        if kind is _SKIP or self.paused:
            return func(*args, **kwargs) if kwargs else func(*args)
        if kind is _BACKWARD:
            return self._call_backward(func, args, kwargs or {})
        try:
            frame = _getframe(1)  # mostly the one that the op before came from
            is_seen = frame is self.functions.frame
            site = (frame.f_code, frame.f_lasti, False) if is_seen else self._site(frame, func)
            tape, records, taken = self.tape, self._records, []
            for value in args:
                record = records.get(id(value))
                if record is not None and record.ref() is value:
                    taken.append(record)
                else:
                    is_plain = self._classes.get(value.__class__) is KEEP
                    taken.append(value if is_plain else self.encode(value))
            named = {key: self.encode(value) for key, value in kwargs.items()} if kwargs else None
            first = _sequence_number()
        except Exception as error:
            return self._call_alone(error, func, args, kwargs)
        if kind is not _PURE or site is None or (kwargs and kwargs.get("out") is not None):
            encoded = taken, named, (site, first)
            return self._call_with_effects(kind, func, args, kwargs or {}, encoded)
        result = func(*args, **kwargs) if kwargs else func(*args)
        try:
            known = records.get(id(result))
            if known is not None and known.ref() is result:
                return result  # handed back unchanged: nothing was done
            if result.__class__ is _Tensor:
                made = records[id(result)] = record_of(result, len(tape), self.note)
                if not made.storage:
                    self.transforms.note_result(result, made)
            elif (made := self._encode_result(result)) is None:
                return result
            code, lasti, plumbing = site
            grad, casts = _is_grad_enabled(), autocast_state() if _any_autocast() else None
            last = _sequence_number()  # the entry is as `_append` makes it
            tape.append(
                (func, taken, named, made, (), code, lasti, plumbing, grad, casts, first, last)
            )
        except Exception as error:
            self.give_up(error)
        return result

    def follow_offloaded(self, model: torch.nn.Module, state: StateNames) -> None:
        """Finds the weights that are on the meta device between the calls of their modules.

        Args:
            model: The model that is recorded.
            state: Its parameters and buffers, which were seen.
        """
        origins = self.origins

        def innermost() -> torch.nn.Module | None:
            return next(origins.open_modules(), None)

        origins.offloaded = OffloadedWeights(model, state, self.record, innermost)
        self._ask_first()

    def watch(self, is_wanted: bool) -> None:
        """Looks, or looks no more, before each op whether somebody wrote to memory unseen."""
        if is_wanted:
            self._ask_first()
        elif self.origins.offloaded is None:
            self._kinds = dict(self._kinds)

    def _ask_first(self) -> None:
        if not isinstance(self._kinds, AskingFirst):
            kinds, self._kinds = self._kinds, AskingFirst(self._settle)
            self._kinds.update(kinds)

    def _settle(self) -> None:
        try:
            self.shared.settle()
            if not self.paused and self.origins.offloaded is not None:
                self.origins.offloaded.settle()
        except Exception as error:
            self.give_up(error)

    def settled(self) -> Recorder:
        """Itself, once it has looked whether somebody wrote to memory unseen."""
        self._settle()
        return self

    def let_go(self) -> None:
        """Lets go of every frame, and of all memory that is watched."""
        try:
            self.functions.end()
            self.shared.let_go()
        except Exception as error:
            self.give_up(error)

    def _call_alone(
        self, error: Exception, func: Any, args: tuple[Any, ...], kwargs: _Named
    ) -> Any:
        self.give_up(error)
        return func(*args, **(kwargs or {}))

    def _as_called(self, kind: CallKind | None, func: Any, args: tuple[Any, ...]) -> CallKind:
        """How this call is treated, of a function that need not be pure."""
        if kind is None:
            kind = self._classify(func)
        if kind is _SIZE:
            if args and not self.paused:
                record = self._records.get(id(args[0]))
                if record is not None:
                    self._note_size((record, func, args[1:]))
            return _SKIP
        if kind is _NODE:
            self.gradient_hooks.may_be_on_nodes = True
            return _SKIP
        if kind is not _GRADIENT or self.paused:
            return kind
        is_read = func.__name__ == "__get__"
        if is_read:
            self._note_gradient(args[0])
        if self._is_state(args):
            return _SKIP  # freezing and clipping are not the forward's
        if not is_read:
            return _WRITE
        # What a backward of this forward has made is explained where it is used.
        return _SKIP if self.losses else _PURE

    def _note_gradient(self, tensor: Any) -> None:
        try:
            self.origins.note_gradient(tensor)
        except Exception as error:
            self.give_up(error)

    def _classify(self, func: Any) -> CallKind:
        try:
            kind = self._kinds[func] = classify(func)
        except Exception as error:
            self.give_up(error)
            return _SKIP
        return kind

    def end(self) -> None:
        """Records nothing more, even where it cannot be taken down yet."""
        self.is_over = self.paused = True

    def give_up(self, error: Exception) -> None:
        """Stops recording because of a fault of our own; the step goes on as if alone."""
        self.end()
        if self.fault is None:
            self.fault = error

    def _site(  # noqa: C901 - inlined, since it runs once an op
        self, frame: FrameType | None, func: Any, says: bool = True
    ) -> _Site:
        """Where a call comes from; says on the tape in which function of the author's.

        It is asked before the call runs: see ``function_calls``.

        Args:
            frame: The one that made torch call ``__torch_function__``.
            func: What is called.
            says: Whether to say so: an op that nothing called runs where the one after it does.
        """
        kinds, functions = self._file_kinds, self.functions
        if says and frame is not None and functions.is_in_called(frame):
            if functions.current is not None:
                functions.outside()
            return functions.site
        is_torch_module = False  # whether it is in the forward of one, for whoever called it
        while frame is not None:
            code = frame.f_code
            kind = kinds.get(code.co_filename)
            if kind is None:
                kind = kinds[code.co_filename] = classify_file(code.co_filename)
            if kind is not _TORCH_FILE:
                if not self.is_below_others or code.co_name != _HANDLER:
                    break
                if not _hands_on(frame, func):
                    return None  # what a mode of the user's asks for itself is not the forward's
            if code is MODULE_CALL:
                is_torch_module = True
            frame = frame.f_back
        if not says:
            pass
        elif is_torch_module or frame is None:
            if functions.current is not None:
                functions.outside()
        elif frame is not functions.frame:
            functions.see(frame)
        if frame is None:
            return None, 0, False
        if kind is _SHARDING_FILE:
            return None
        return code, frame.f_lasti, kind is _PLUMBING_FILE

    def _append(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any] | None,
        result: Any,
        writes: tuple[TensorRecord, ...],
        begun: _Begun,
    ) -> None:
        site, first = begun
        if site is None:
            self._forget((result, writes))
            return
        self.tape.append(
            (
                func,
                args,
                kwargs,
                result,
                writes,
                *site,
                _is_grad_enabled(),
                autocast_state() if _any_autocast() else None,
                first,
                _sequence_number(),
            )
        )

    def _forget(self, made: Any) -> None:
        """Drops what a call made that is not recorded: seen again, it is explained anew."""
        for record in flat_records(made):
            tensor = record.ref()
            if tensor is not None:
                self._records.pop(id(tensor), None)

    def append_derived(self, func: Any, args: tuple[Any, ...], record: TensorRecord) -> None:
        """Appends an op that nothing called, to say how a tensor came about."""
        site = self._site(_getframe(0), func, says=False)
        record.created_at = len(self.tape)
        tensor = record.ref()
        if tensor is not None:
            self._records[id(tensor)] = record
        self._append(func, args, None, record, (), (site, _sequence_number()))

    # --- calls that do more than return new tensors

    def _call_with_effects(
        self,
        kind: CallKind,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        encoded: _Encoded,
    ) -> Any:
        """As `__torch_function__`, for what may write; ``encoded`` is what it goes by so far."""
        taken, named, *_ = encoded
        try:
            written = self._targets(kind, taken, named)
            watched: list[Version] = []
            if kind is _CHECK:
                watched = versions_in(taken, named)
                self._keep_state((*written, *written_state(func, taken, named or {})))
            elif written and not keeps_values(func):
                self._keep_state(written)
            if func is GRAD:
                self._note_changes(args, kwargs, encoded[2])
        except Exception as error:
            return self._call_alone(error, func, args, kwargs)
        result = func(*args, **kwargs)
        try:
            written += [
                record for record, tensor, version in watched if version_of(tensor) != version
            ]
            self._note_effects(kind, func, encoded, result, written)
        except Exception as error:
            self.give_up(error)
        return result

    def _note_effects(
        self,
        kind: CallKind,
        func: Any,
        encoded: _Encoded,
        result: Any,
        written: list[TensorRecord],
    ) -> None:
        args, kwargs, begun = encoded
        if len(written) > 1:  # a tensor may be a target twice
            written = list(dict.fromkeys(written))
        writes = tuple([self._new_version(record) for record in written])
        made = self._encode_result(result)
        if made is None and writes:
            made = self._encode_nested(result)
        if kind is _DUAL:
            self.transforms.note_dual()
        if made is None and type(result) in SCALARS and gives_values(func):
            made = result  # what the forward does may hang on it
        if made is not None or writes or kind is _READ:
            self._append(func, args, kwargs, made, writes, begun)
        if writes:
            self.shared.skip(writes)
        if kind is _HOOK:
            self._note_hook(func, args, kwargs, result, begun)
        elif func is GRAD:
            self.gradient_hooks.settle(self.tape)
        if kind is _READ or type(made) in SCALARS:
            self.origins.note_reads(len(self.tape), args)
            if isinstance(args[0] if args else None, TensorRecord):
                self.shared.hand_out(args[0].ref(), result)

    def _note_hook(
        self, func: Any, args: list[Any], kwargs: dict[str, Any] | None, handle: Any, begun: _Begun
    ) -> None:
        """A hook is not the forward's, as long as that takes no gradient itself."""
        tensor, hook = [*args, *(kwargs or {}).values()]
        (code, lasti, _), first = begun[0] or (None, 0, True), begun[1]
        hook = replayable(hook, self.is_state)
        self.gradient_hooks.note(len(self.tape), handle)
        self._append(func, [tensor, hook], None, None, (), ((code, lasti, True), first))

    def _note_changes(self, args: Sequence[Any], kwargs: dict[str, Any], begun: _Begun) -> None:
        """A gradient that something changes out of sight, or of an edge, is not taken again."""
        outputs = args[0] if args else kwargs.get("outputs")
        inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
        ends = tensors_in(outputs)
        if not ends:
            return
        refusal = refuse_edge if names_edges(inputs) else refuse_change
        if refusal is refuse_edge or self.gradient_hooks.change_unseen(ends):
            (code, lasti, _), first = begun[0] or (None, 0, True), begun[1]
            taken = [self.encode(ends[0]), refusal]
            self._append(HOOK, taken, None, None, (), ((code, lasti, False), first))

    def _is_state(self, args: tuple[Any, ...]) -> bool:
        try:
            return bool(args) and self.origins.is_state(args[0])
        except Exception as error:
            self.give_up(error)
            return True

    def _call_backward(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            losses = tensors_in(args[:1])
            self.losses += [self.record(tensor) for tensor in losses]
            if self.before_backward is not None:
                self.before_backward(losses)
        except Exception as error:
            self.give_up(error)
        self.paused = True  # module hooks run in it too, when checkpoints recompute
        try:
            return func(*args, **kwargs)
        finally:
            self.paused = self.is_over

    def _targets(
        self, kind: CallKind, args: list[Any], kwargs: dict[str, Any] | None
    ) -> list[TensorRecord]:
        """What the call says that it writes to."""
        out = kwargs.get("out") if kwargs else None
        targets = [] if out is None else list(flat_records(out))
        if kind is _WRITE:
            first = args[0] if args else next(iter((kwargs or {}).values()), None)
            targets += [first] if first.__class__ is TensorRecord else flat_records(first)
        return targets

    def _keep_state(self, written: Iterable[Any]) -> None:
        for value in written:
            for record in (value,) if value.__class__ is TensorRecord else flat_records(value):
                self.origins.keep_value(record)


def _hands_on(frame: FrameType, func: Any) -> bool:
    """Whether a mode calls what it was called for."""
    return any(value is func for value in frame.f_locals.values())
