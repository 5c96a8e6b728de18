"""Keeps the recorder out of compiled code, and out of torch's own compiles.

Dynamo cannot trace through a mode of ours, and what it compiles must be what it compiles without
us. So where compiled code begins the recorder is told to go, and where it ends to come back.
torch's higher-order ops (``torch.cond``, ``scan``) are defined by being compiled: while one of
them compiles, everything is as if nobody recorded; its result is then explained like that of any
code out of sight.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol

import torch
from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture.mode_stack import is_active, push_mode, remove_mode
from modelviz_callbacks.tracing.capture.module_paths import modules_of, paths_of
from modelviz_callbacks.tracing.capture.torch_internals import (
    COMPILATION_CONTEXT,
    EVAL_FRAME_SETTER,
    HOOK_QUESTION,
    compiled_call,
    compiled_code_of,
    home_of_eval_frame_setter,
    home_of_hook_question,
    homes_of_compilation_context,
    is_around_compiled_code,
    is_compiled,
)
from modelviz_callbacks.tracing.capture.wrappers import (
    author_path,
    class_of,
    unwrapped,
)


class CompiledWatcher(Protocol):
    """Somebody who must not be there while compiled code runs in its thread."""

    def is_here(self) -> bool:
        """Whether this thread is its own."""

    def before_compiled(self, called: Any) -> None:
        """Takes everything down; never raises.

        Args:
            called: As `compiled_code_of` gives it, without a result.
        """

    def after_compiled(self, call: Any) -> None:
        """Puts everything up again; never raises.

        Args:
            call: As `compiled_code_of` gives it.
        """

    def before_higher_order(self) -> None:
        """Sees nothing from here on: torch compiles and runs a higher-order op; never raises."""

    def after_higher_order(self, call: Any) -> None:
        """Goes on; never raises.

        Args:
            call: What the op was, as `compiled_code_of` gives it.
        """


class _Inside:
    """The compiled code, or the higher-order op, that a thread is in.

    Attributes:
        frame: That around the code; ``None``: it has not begun.
        watchers: Who is told when it ends.
        is_op: Whether it is an op, which is told by who compiles it.
        call: What the op was, once it has run.
    """

    def __init__(
        self, frame: FrameType | None, watchers: list[CompiledWatcher], is_op: bool = False
    ) -> None:
        self.frame, self.watchers, self.is_op = frame, watchers, is_op
        self.call: Any = None

    def note_call(self, frame: FrameType, begins: bool) -> None:
        """Notes what the op is, where its code begins and where it ends."""
        if self.frame is frame:
            self.call, self.frame = compiled_code_of(frame), None
        elif begins and self.frame is None and self.call is None:
            self.frame = frame if is_around_compiled_code(frame) else None


# Patches belong to the process: the first recorder sets them, the last one to end, maybe in
# another thread, takes them back.
_lock = threading.Lock()
_recorders: list[TorchFunctionMode] = []
_watchers: list[CompiledWatcher] = []
_undo = contextlib.ExitStack()
# The frame around the compiled code that this thread is in.
_around = threading.local()


@contextlib.contextmanager
def out_of_compiled_code(
    mode: TorchFunctionMode, watcher: CompiledWatcher | None = None
) -> Iterator[None]:
    """Keeps a recorder out of compiled code until left.

    Dynamo is imported by any optimiser, so needing it costs a training process nothing.

    Args:
        mode: The recorder; out of the way while a higher-order op compiles.
        watcher: Who takes the recorder out of compiled code. Without, and where torch does not
            tell where compiled code begins, compiled code runs eagerly.
    """
    with contextlib.ExitStack() as own:
        if watcher is None or home_of_eval_frame_setter() is None:
            own.enter_context(torch.compiler.set_stance("force_eager"))
            watcher = None
        with _lock:
            if not _recorders:
                with contextlib.ExitStack() as handles:
                    handles.enter_context(_told_of_compiled_code())
                    handles.enter_context(_hidden_from_compiled_modules())
                    handles.enter_context(_hidden_from_higher_order_ops())
                    _undo.enter_context(handles.pop_all())
            _recorders.append(mode)
            if watcher is not None:
                _watchers.append(watcher)
        try:
            yield
        finally:
            with _lock:
                _recorders.remove(mode)
                if watcher is not None:
                    _watchers.remove(watcher)
                if not _recorders:
                    _undo.close()


@contextlib.contextmanager
def _told_of_compiled_code() -> Iterator[None]:
    home = home_of_eval_frame_setter()
    if home is None:
        yield
        return
    original: Callable[[Any], Any] = getattr(home, EVAL_FRAME_SETTER)

    def setter(callback: Any) -> Any:
        frame = sys._getframe(1)
        inside: _Inside | None = getattr(_around, "call", None)
        if inside is None:
            here = [watcher for watcher in tuple(_watchers) if watcher.is_here()]
            if callback is None or not here or not is_around_compiled_code(frame):
                return original(callback)
            _around.call = _Inside(frame, here)
            called = compiled_code_of(frame, has_run=False)
            for watcher in here:
                watcher.before_compiled(called)
            return original(callback)  # from here on every call of Python's may be compiled
        result = original(callback)
        if inside.is_op:
            inside.note_call(frame, callback is not None)
        elif inside.frame is frame:
            _around.call = None
            call = compiled_code_of(frame)
            for watcher in inside.watchers:
                watcher.after_compiled(call)
        return result

    setattr(home, EVAL_FRAME_SETTER, setter)
    try:
        yield
    finally:
        setattr(home, EVAL_FRAME_SETTER, original)


@contextlib.contextmanager
def _hidden_from_compiled_modules() -> Iterator[None]:
    """Lets compiled modules warn of other people's global hooks only; ours are gone in time."""
    home = home_of_hook_question()
    if home is None:
        yield
        return
    original: Callable[[], bool] = getattr(home, HOOK_QUESTION)
    had_some = bool(original())
    setattr(home, HOOK_QUESTION, lambda: had_some)
    try:
        yield
    finally:
        setattr(home, HOOK_QUESTION, original)


@contextlib.contextmanager
def _hidden_from_higher_order_ops() -> Iterator[None]:
    homes = homes_of_compilation_context()
    if not homes:  # another torch compiles them elsewhere
        yield
        return
    original: Callable[[], Any] = getattr(homes[0], COMPILATION_CONTEXT)

    @contextlib.contextmanager
    def own_context() -> Iterator[Any]:
        here = [mode for mode in tuple(_recorders) if is_active(mode)]
        if not here:  # another thread's
            with original() as backend:
                yield backend
            return
        watchers = [watcher for watcher in tuple(_watchers) if watcher.is_here()]
        for mode in here:
            remove_mode(mode)
        for watcher in watchers:
            watcher.before_higher_order()
        outer = getattr(_around, "call", None)
        # What begins here is no compiled code of the user's.
        op = _Inside(None, [], is_op=True)
        _around.call = outer or op
        try:
            with torch.compiler.set_stance("default"), original() as backend:
                yield backend
        finally:
            _around.call = outer
            for mode in here:
                push_mode(mode)
            for watcher in watchers:
                watcher.after_higher_order(op.call)

    for module in homes:
        setattr(module, COMPILATION_CONTEXT, own_context)
    try:
        yield
    finally:
        for module in homes:
            setattr(module, COMPILATION_CONTEXT, original)


def compiled_parts(model: torch.nn.Module) -> list[str]:
    """The qualified names of the modules of a model that torch.compile has its hands on."""
    compiled = [
        module
        for module in modules_of(model)
        if is_compiled(module) or compiled_call(module) is not None
    ]
    if not compiled:  # as most are: spares the names
        return []
    names: dict[int, str] = {}
    for path, module in paths_of(model):
        names.setdefault(id(module), path)
    return [
        author_path(names[id(module)]) or class_of(unwrapped(module)).__name__
        for module in compiled
    ]


def is_for_a_compiler(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is there to be looked at by a compiler or an exporter, and is no step.

    ``torch.compile`` puts it into the code around it; ``torch.jit.trace`` (and so TensorBoard's
    ``add_graph``) compares two calls, and refuses a model of which one was recorded;
    ``torch.fx.symbolic_trace`` hands in what stands for tensors.

    Args:
        args: Of the call.
        kwargs: Likewise, by name.
    """
    if is_dynamo_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    return any(isinstance(one, torch.fx.Proxy) for one in (*args, *kwargs.values()))
