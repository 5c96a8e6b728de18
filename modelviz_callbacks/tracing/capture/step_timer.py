"""Times one later training step op by op.

The same two ways of seeing as in recording, but much less is kept: a function mode notes when
each torch call began and ended, module hooks note which module was running. On CUDA, events are
put into the stream around each call; they are read when the step is long over, so that the step
itself never waits for the device. What comes out is a `TimedStep`, which ties the times to the
graph that was recorded before.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from threading import get_ident
from time import perf_counter_ns
from types import CodeType, FrameType
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture.call_site import FrameKind, classify_file, source_of
from modelviz_callbacks.tracing.capture.compile_guard import compiled_parts, out_of_compiled_code
from modelviz_callbacks.tracing.capture.mode_stack import push_mode, remove_mode
from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.capture.timed_step import (
    Span,
    TimedCall,
    TimedOp,
    TimedStep,
    place_of,
)
from modelviz_callbacks.tracing.capture.torch_internals import has_compiled, is_compiled
from modelviz_callbacks.tracing.capture.wrappers import author_path, class_name

_SKIP, _PURE, _BACKWARD = CallKind.SKIP, CallKind.PURE, CallKind.BACKWARD
_TORCH_FILE = FrameKind.TORCH
# A framework's bookkeeping, and the gathering of sharded parameters, are no ops of a model.
_NOT_THE_MODELS = (FrameKind.PLUMBING, FrameKind.SHARDING)

# When something began and ended: nanoseconds of the host's clock, and events in the CUDA stream.
_Times = tuple[int, int, Any, Any]


class StepTimer(TorchFunctionMode):
    """Times what one thread runs from `start` to `stop`; `finish` tells.

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
        self._on_cuda = False
        self._remarks: list[str] = []
        self._begun: tuple[int, Any] | None = None
        self._total: _Times | None = None
        # Calls of modules: who, inside which other, and when. The first is the timed code.
        self._modules: list[tuple[torch.nn.Module | None, int | None]] = []
        self._call_times: dict[int, _Times] = {}
        self._open: list[tuple[int, int, Any]] = []
        self._ops: list[tuple[int, Any, CodeType | None, int, _Times]] = []

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
        self._modules.append((None, None))
        if inside_model:
            self._modules.append((self._model, 0))
            self._open.append((1, perf_counter_ns(), None))
        with ExitStack() as handles:
            self._arm(handles)
            self._handles = handles.pop_all()
        self._begun = (perf_counter_ns(), self._event(()))
        return True

    def is_here(self) -> bool:
        """Whether this thread is the one that is timed."""
        return self._thread == get_ident()

    def stop(self) -> None:
        """Takes every hook and the mode down; safe to call again, and from anywhere."""
        if self._begun is not None and self._total is None:
            begun, event = self._begun
            self._total = (begun, perf_counter_ns(), event, self._event(()))
        self._handles.close()

    def finish(self) -> TimedStep:
        """What was timed.

        Waits for the CUDA stream to come to the end of the step: call it when that does no
        harm, at best when a later step is over.
        """
        self.stop()
        if self._total is None:
            return TimedStep(remarks=tuple(self._remarks))
        names = self._names()
        counts: dict[int, int] = {}
        calls = []
        for number, (module, parent) in enumerate(self._modules):
            if module is None:
                calls.append(TimedCall(None, None, "", 0, _span(self._total)))
                continue
            index = counts[id(module)] = counts.get(id(module), -1) + 1
            times = self._call_times.get(number)
            span = None if times is None else _span(times)
            path = names.get(id(module), (None,))[0]
            calls.append(TimedCall(parent, path, class_name(module), index, span))
        ops = [
            TimedOp(call, qualified_name(func), place_of(source_of(code, lasti)), _span(times))
            for call, func, code, lasti, times in self._ops
        ]
        aliases = {name: paths[0] for paths in names.values() for name in paths}
        return TimedStep(tuple(calls), tuple(ops), aliases, tuple(self._remarks))

    def _names(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for path, module in paths_of(self._model):
            found.setdefault(id(module), []).append(author_path(path))
        return found

    def _refusal(self) -> str:
        if compiled_parts(self._called) or has_compiled():
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
        handles.callback(module_hooks.register_module_forward_pre_hook(self._enter).remove)
        after = module_hooks.register_module_forward_hook(self._leave, always_call=True)
        handles.callback(after.remove)
        for register, paused in (
            (optimizer_hooks.register_optimizer_step_pre_hook, True),
            (optimizer_hooks.register_optimizer_step_post_hook, False),
        ):
            handles.callback(register(self._pause_hook(paused)).remove)
        # What was not compiled yet runs eagerly, as it did when it was recorded.
        handles.enter_context(out_of_compiled_code(self))
        push_mode(self)
        handles.callback(remove_mode, self)

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
        before = self._event(args) if self._on_cuda else None
        begun = perf_counter_ns()
        result = func(*args, **kwargs)
        ended = perf_counter_ns()
        after = self._event(args) if self._on_cuda else None
        if kind is _PURE and args and result is args[0] and "out" not in kwargs:
            return result  # handed back unchanged: nothing was done
        self._note(func, (begun, ended, before, after))
        return result

    def _note(self, func: Any, times: _Times) -> None:
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
        self._ops.append((self._open[-1][0] if self._open else 0, func, code, lasti, times))

    def _kind_of(self, func: Any) -> CallKind:
        kind = self._kinds.get(func)
        if kind is None:
            try:
                kind = self._kinds[func] = classify(func)
            except Exception as error:
                self._give_up(error)
                return _SKIP
        return kind

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
            number = len(self._modules)
            self._modules.append((module, self._open[-1][0] if self._open else 0))
            event = self._event(args) if self._on_cuda else None
            self._open.append((number, perf_counter_ns(), event))

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if not self._sees(module):
            return
        ended = perf_counter_ns()
        after = self._event(args) if self._on_cuda else None
        for place in range(len(self._open) - 1, -1, -1):
            number, begun, before = self._open[place]
            if self._modules[number][0] is module:
                # An exception that was caught may have left others open inside.
                del self._open[place:]
                self._call_times[number] = (begun, ended, before, after)
                return

    def _pause_hook(self, paused: bool) -> Any:
        def pause(*_: Any) -> None:
            if get_ident() == self._thread:
                self._paused = paused or self._given_up

        return pause


def _span(times: _Times) -> Span:
    begun, ended, before, after = times
    host_us = (ended - begun) / 1000
    if before is None or after is None:
        return Span(host_us)
    after.synchronize()
    return Span(host_us, before.elapsed_time(after) * 1000)
