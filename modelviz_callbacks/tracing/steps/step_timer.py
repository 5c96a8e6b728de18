"""Times one later training step op by op.

The same two ways of seeing as in recording, but much less is kept: a function mode notes when
each torch call began and ended, module hooks note which module was running. The backward of what
was timed is seen through hooks on autograd's nodes, which are known by the numbers that autograd
gives them. On CUDA, events are put into the stream around each call; they are read when the step
is long over, so that the step itself never waits for the device. Compiled code is left alone and
timed as one. What comes out is a `TimedStep`, which ties the times to the graph that was recorded
before.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from threading import get_ident
from time import perf_counter_ns
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch.compiler import is_dynamo_compiling
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture.autograd_record import MOST_NODES
from modelviz_callbacks.tracing.capture.call_site import FrameKind, classify_file, source_of
from modelviz_callbacks.tracing.capture.compile_guard import compiled_parts, out_of_compiled_code
from modelviz_callbacks.tracing.capture.mode_stack import push_mode, remove_mode
from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.capture.torch_internals import (
    has_compiled,
    home_of_eval_frame_setter,
    is_compiled,
    next_sequence_number,
)
from modelviz_callbacks.tracing.capture.wrappers import author_path, class_name, module_of_compiled
from modelviz_callbacks.tracing.steps.backward_timer import BackwardTimer, Times
from modelviz_callbacks.tracing.steps.timed_nodes import Numbers, StepClock, timed_nodes
from modelviz_callbacks.tracing.steps.timed_step import (
    TimedCall,
    TimedOp,
    TimedStep,
    place_of,
)

_SKIP, _PURE, _BACKWARD = CallKind.SKIP, CallKind.PURE, CallKind.BACKWARD
_TORCH_FILE = FrameKind.TORCH
# A framework's bookkeeping, and the gathering of sharded parameters, are no ops of a model.
_NOT_THE_MODELS = (FrameKind.PLUMBING, FrameKind.SHARDING)

# What torch's checkpoint with reentry is in autograd's graph.
_CHECKPOINT = "CheckpointFunctionBackward"
_REENTRANT = (
    "A checkpoint with reentry runs its forward and its backward within one step of autograd's: "
    "all of it is in the backward time of the last op in it."
)
_CUT = f"The backward has more than {MOST_NODES:,} steps: only as many were timed."


class _Call:
    """One call of a module, while it runs and after."""

    __slots__ = ("first", "is_compiled", "last", "module", "name", "parent", "times")

    def __init__(self, module: torch.nn.Module | None, parent: int | None) -> None:
        self.module, self.parent = module, parent
        self.name = "" if module is None else class_name(module)
        self.first, self.last = next_sequence_number(), sys.maxsize
        self.times: Times | None = None
        self.is_compiled = False


class _Op(NamedTuple):
    """One torch call that ended."""

    func: Any
    code: CodeType | None
    lasti: int
    times: Times
    numbers: Numbers


class StepTimer(TorchFunctionMode):
    """Times what one thread runs from `start` to `stop`, and its backward until `finish`.

    A fault of its own ends the timing, never the step.
    """

    def __init__(self, model: torch.nn.Module, called: torch.nn.Module | None = None) -> None:
        """Nothing is armed yet.

        Args:
            model: The model that was recorded.
            called: The wrapper around it whose call is timed, if that is another module.
        """
        super().__init__()
        self._model = model
        self._called = model if called is None else called
        self._thread = 0
        self._paused = False
        self._given_up = False
        self._kinds: dict[Any, CallKind] = {}
        self._file_kinds: dict[str, FrameKind] = {}
        self._handles = ExitStack()
        self._watching = ExitStack()
        self._on_cuda = False
        self._remarks: list[str] = []
        self._begun: tuple[int, Any] | None = None
        # Calls of modules; the first is the timed code itself.
        self._calls: list[_Call] = []
        self._open: list[tuple[int, int, Any]] = []
        self._ops: list[_Op] = []
        self._made: list[weakref.ref[torch.Tensor]] = []
        self._compiled: tuple[_Call, int, Any] | None = None
        self._backward = BackwardTimer(self._mark, self._give_up)

    def start(self, inside_model: bool = False) -> bool:
        """Begins to time; call it right before the code that was recorded.

        Args:
            inside_model: Whether the model's own forward has begun already, and so no hook
                will tell of it.

        Returns:
            Whether it times. If not, the remarks of `finish` say why.
        """
        refused = self._refusal()
        if refused:
            self._remarks.append(refused)
            return False
        self._thread = get_ident()
        self._on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._calls.append(_Call(None, None))
        if inside_model:
            self._calls.append(_Call(self._model, 0))
            self._open.append((1, perf_counter_ns(), None))
        with ExitStack() as handles:
            self._arm(handles)
            self._handles = handles.pop_all()
        self._begun = (perf_counter_ns(), self._event(()))
        return True

    def is_here(self) -> bool:
        """Whether this thread is the one that is timed."""
        return self._thread == get_ident()

    def stop(self, result: Any = None) -> None:
        """Takes every hook and the mode down; safe to call again, and from anywhere.

        The backward of what ran is timed from now on, until `finish`.

        Args:
            result: What the timed code returned, where a backward may begin.
        """
        is_first = self._begun is not None and self._calls[0].times is None
        if self._begun is not None and is_first:
            begun, event = self._begun
            self._calls[0].times = (begun, perf_counter_ns(), event, self._event(()))
            self._calls[0].last = next_sequence_number()
        self._handles.close()
        if is_first and self.is_here() and not self._given_up:
            self._watch_backward(result)

    @property
    def is_watching_backward(self) -> bool:
        """Whether a backward that comes now is timed."""
        return self._backward.is_watching

    @property
    def waits_for_backward(self) -> bool:
        """Whether a backward may come of what was timed, and none has begun yet."""
        return self._backward.is_watching and not self._backward.runs

    def end_backward(self) -> None:
        """What autograd runs from now on is no part of the step; safe to call again."""
        self._backward.remove()

    def finish(self) -> TimedStep:
        """What was timed.

        Waits for the CUDA stream to come to the end of the step: call it when that does no
        harm, at best when a later step is over.
        """
        self.stop()
        self.end_backward()
        if self._begun is None:
            return TimedStep(remarks=tuple(self._remarks))
        if self._backward.is_cut:
            self._remarks.append(_CUT)
        if any(run.name == _CHECKPOINT for run in self._backward.runs):
            self._remarks.append(_REENTRANT)
        clock, names = StepClock(*self._begun), self._names()
        ops = [
            TimedOp(
                op.numbers.call,
                qualified_name(op.func),
                place_of(source_of(op.code, op.lasti)),
                clock.span(op.times),
            )
            for op in self._ops
        ]
        backward = timed_nodes(
            self._backward.runs,
            [op.numbers for op in self._ops],
            [Numbers(call.first, call.last, call.parent or 0) for call in self._calls],
            clock,
        )
        return TimedStep(
            tuple(self._timed_calls(names, clock)),
            tuple(ops),
            {name: paths[0] for paths in names.values() for name in paths},
            tuple(self._remarks),
            backward,
            torch.get_num_threads(),
        )

    def _timed_calls(self, names: dict[int, list[str]], clock: StepClock) -> Iterator[TimedCall]:
        counts: dict[int, int] = {}
        for call in self._calls:
            span = None if call.times is None else clock.span(call.times)
            index, path = 0, None
            if call.module is not None:
                index = counts[id(call.module)] = counts.get(id(call.module), -1) + 1
                path = names.get(id(call.module), (None,))[0]
            yield TimedCall(call.parent, path, call.name, index, span, call.is_compiled)

    def _names(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for path, module in paths_of(self._model):
            found.setdefault(id(module), []).append(author_path(path))
        return found

    def _refusal(self) -> str:
        is_told = home_of_eval_frame_setter() is not None
        if not is_told and (compiled_parts(self._called) or has_compiled()):
            return (
                "The step was not timed op by op: torch.compile fuses ops, and to time them one "
                "by one the step would have to run without it. Use torch.profiler for compiled "
                "code, or run without torch.compile."
            )
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return (
                "The step was not timed op by op: it was being captured as a CUDA graph, which "
                "no event may be put into."
            )
        return ""

    def _arm(self, handles: ExitStack) -> None:
        for register, paused in (
            (optimizer_hooks.register_optimizer_step_pre_hook, True),
            (optimizer_hooks.register_optimizer_step_post_hook, False),
        ):
            handles.callback(register(self._pause_hook(paused)).remove)
        # Compiled code runs as it does without a timer, and is told of as one.
        handles.enter_context(out_of_compiled_code(self, self))
        handles.callback(lambda: self._watching.close())
        self._watch()

    def _watch(self) -> None:
        with ExitStack() as handles:
            handles.callback(module_hooks.register_module_forward_pre_hook(self._enter).remove)
            after = module_hooks.register_module_forward_hook(self._leave, always_call=True)
            handles.callback(after.remove)
            push_mode(self)
            handles.callback(remove_mode, self)
            self._watching = handles.pop_all()

    # --- compiled code

    def before_compiled(self, called: Any) -> None:
        """Takes hooks and mode down: compiled code runs now."""
        self._watching.close()
        if not self._paused:
            call = _Call(None, self._open[-1][0] if self._open else 0)
            self._compiled = call, perf_counter_ns(), self._event(())

    def before_higher_order(self) -> None:
        """A higher-order op is measured as part of the module that calls it."""

    def after_higher_order(self, call: Any) -> None:
        """See `before_higher_order`."""

    def after_compiled(self, call: Any) -> None:
        """Notes what compiled code took, and goes on.

        Args:
            call: What was called, with which arguments, and the result; ``None`` if it raised.
        """
        compiled, self._compiled = self._compiled, None
        try:
            if compiled is not None and call is not None:
                one, begun, before = compiled
                one.times = (begun, perf_counter_ns(), before, self._event(()))
                one.last, one.is_compiled = next_sequence_number(), True
                module = module_of_compiled(call[0])
                if module is not None:
                    one.module, one.name = module, class_name(module)
                else:
                    one.name = str(getattr(call[0], "__qualname__", type(call[0]).__name__))
                self._calls.append(one)
                self._remember(call[-1])
            self._watch()
        except Exception as error:
            self._give_up(error)

    # --- the hot path

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls ``func`` between two looks at the clock; the result is the function's own."""
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        kind = self._kind_of(func)
        if kind is _SKIP:
            return func(*args, **kwargs)
        if kind is _BACKWARD:
            return self._call_backward(func, args, kwargs)
        first = next_sequence_number()
        before = self._event(args) if self._on_cuda else None
        begun = perf_counter_ns()
        result = func(*args, **kwargs)
        ended = perf_counter_ns()
        after = self._event(args) if self._on_cuda else None
        if kind is _PURE and args and result is args[0] and "out" not in kwargs:
            return result  # handed back unchanged: nothing was done
        self._note(func, (begun, ended, before, after), first, result)
        return result

    def _note(self, func: Any, times: Times, first: int, result: Any) -> None:
        frame: FrameType | None = sys._getframe(2)
        kinds, kind = self._file_kinds, _TORCH_FILE
        while frame is not None:
            name = frame.f_code.co_filename
            kind = kinds.get(name)  # type: ignore[assignment]
            if kind is None:
                kind = kinds[name] = classify_file(name)
            if kind is not _TORCH_FILE:
                break
            frame = frame.f_back
        if kind in _NOT_THE_MODELS:
            return
        code, lasti = (None, 0) if frame is None else (frame.f_code, frame.f_lasti)
        call = self._open[-1][0] if self._open else 0
        numbers = Numbers(first, next_sequence_number(), call, torch.is_grad_enabled())
        if numbers.last > first:
            self._remember(result)
        self._ops.append(_Op(func, code, lasti, times, numbers))

    def _remember(self, result: Any) -> None:
        """Where a backward may begin; not held."""
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, torch.Tensor):
                self._made.append(weakref.ref(one))

    def _watch_backward(self, given: Any) -> None:
        """Sees to it that a backward is timed that begins at something given, or made here."""
        given = [*given.values()] if isinstance(given, dict) else given
        tensors = [one for one in (ref() for ref in self._made) if one is not None]
        for one in given if isinstance(given, (tuple, list)) else (given,):
            inner = one if isinstance(one, (tuple, list)) else (one,)
            tensors += [tensor for tensor in inner if isinstance(tensor, torch.Tensor)]
        self._backward.watch(tensors, self._calls[0].first)

    def _kind_of(self, func: Any) -> CallKind:
        kind = self._kinds.get(func)
        if kind is None:
            try:
                kind = self._kinds[func] = classify(func)
            except Exception as error:
                self._give_up(error)
                return _SKIP
        return kind

    def _mark(self) -> Any:
        """A mark in the stream that autograd's thread works in; ``None`` on the host."""
        if not self._on_cuda or torch.cuda.is_current_stream_capturing():
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(None))
        return event

    def _event(self, args: tuple[Any, ...]) -> Any:
        """A mark in the stream that a call with these arguments goes to; ``None`` on the host."""
        if not self._on_cuda or self._paused:
            return None
        try:
            on_cuda = (a.device for a in args if isinstance(a, torch.Tensor) and a.is_cuda)
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(next(on_cuda, None)))
        except Exception as error:
            self._give_up(error)
            return None
        return event

    def _give_up(self, error: Exception) -> None:
        """Ends the timing because of a fault of our own; the step goes on as if alone."""
        if not self._given_up:
            self._remarks.append(f"The timing of the step ended early with {error!r}.")
        self._paused = self._given_up = True

    def _call_backward(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._watch_backward(args)
        self._paused = True  # checkpoints run modules again in it
        try:
            return func(*args, **kwargs)
        finally:
            self._paused = self._given_up

    # --- hooks: they see every module call of every thread

    def _sees(self, module: torch.nn.Module) -> bool:
        return (
            not is_dynamo_compiling()  # a higher-order op: nothing of ours may be seen
            and get_ident() == self._thread
            and not self._paused
            and not is_compiled(module)
            and (module is not self._called or module is self._model)
        )

    def _enter(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if self._sees(module):
            number = len(self._calls)
            self._calls.append(_Call(module, self._open[-1][0] if self._open else 0))
            event = self._event(args) if self._on_cuda else None
            self._open.append((number, perf_counter_ns(), event))

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if not self._sees(module):
            return
        ended = perf_counter_ns()
        after = self._event(args) if self._on_cuda else None
        for place in range(len(self._open) - 1, -1, -1):
            number, begun, before = self._open[place]
            call = self._calls[number]
            if call.module is module:
                call.times = (begun, ended, before, after)
                # An exception that was caught may have left others open inside.
                for inner, *_ in self._open[place:]:
                    self._calls[inner].last = next_sequence_number()
                del self._open[place:]
                return

    def _pause_hook(self, paused: bool) -> Any:
        def pause(*_: Any) -> None:
            if get_ident() == self._thread:
                self._paused = paused or self._given_up

        return pause
