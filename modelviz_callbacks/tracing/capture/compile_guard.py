"""Keeps torch.compile out of the recorded stretch, and the recorder out of torch's own compiles.

Dynamo cannot trace through a mode of ours, and what it compiles hides its ops; so compiled
parts run as eager code for the recorded batch. torch's higher-order ops (``torch.cond``,
``scan``) are another matter: they are defined by being compiled, and run wrongly without.
While one of them compiles, everything is as if nobody recorded; its result is then explained
like that of any code out of sight.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.tracing.capture.mode_stack import is_active, push_mode, remove_mode
from modelviz_callbacks.tracing.capture.module_paths import modules_of, paths_of
from modelviz_callbacks.tracing.capture.torch_internals import (
    COMPILATION_CONTEXT,
    compiled_call,
    homes_of_compilation_context,
    is_compiled,
)
from modelviz_callbacks.tracing.capture.wrappers import (
    author_path,
    class_of,
    unwrapped,
)

# Stance and patch belong to the process: the first recorder sets them, the last one to end, maybe
# in another thread, takes them back.
_lock = threading.Lock()
_recorders: list[TorchFunctionMode] = []
_undo = contextlib.ExitStack()


@contextlib.contextmanager
def eager(mode: TorchFunctionMode) -> Iterator[None]:
    """Runs compiled code eagerly until left, but for the insides of higher-order ops.

    Dynamo is imported by any optimiser, so needing it costs a training process nothing.

    Args:
        mode: The recorder; out of the way while a higher-order op compiles.
    """
    with _lock:
        if not _recorders:
            with contextlib.ExitStack() as handles:
                handles.enter_context(torch.compiler.set_stance("force_eager"))
                handles.enter_context(_hidden_from_higher_order_ops())
                _undo.enter_context(handles.pop_all())
        _recorders.append(mode)
    try:
        yield
    finally:
        with _lock:
            _recorders.remove(mode)
            if not _recorders:
                _undo.close()


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
        for mode in here:
            remove_mode(mode)
        try:
            with torch.compiler.set_stance("default"), original() as backend:
                yield backend
        finally:
            for mode in here:
                push_mode(mode)

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
