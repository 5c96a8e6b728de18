"""The hooks around a module call: they say on the tape where it begins and where it ends.

They run once a module call inside somebody's training step, as the recorder runs once an op: what
they need is bound once, not looked up there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from threading import get_ident
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from modelviz_callbacks.tracing.capture.recorder import Recorder


def module_call_hooks(
    recorder: Recorder,
    thread: int,
    around: Collection[int],
    own: Collection[int],
    is_left: Callable[[], bool],
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks for torch's global tables, which record the module calls of one thread.

    Args:
        recorder: Writes the tape.
        thread: The one that is recorded, by its ident.
        around: The modules that only wrap what is to be seen, by their ``id``.
        own: The modules of what is recorded, by their ``id``.
        is_left: Whether the recorded code was left by an exception that nobody has told of; asked
            at the call of a module that is none of them.

    Returns:
        The one before a call and the one after it.
    """
    before = _before(recorder, thread, around, own, is_left)
    return before, _after(recorder, thread, around)


# Both begin alike, and share no function: a call takes longer than what it would spare. While a
# higher-order op is being compiled nothing of ours may be seen.


def _before(
    recorder: Recorder,
    thread: int,
    around: Collection[int],
    own: Collection[int],
    is_left: Callable[[], bool],
) -> Callable[..., None]:
    transforms, functions, append = recorder.transforms, recorder.functions, recorder.tape.append

    def enter(module: torch.nn.Module, args: Any) -> None:
        if is_dynamo_compiling() or recorder.paused or get_ident() != thread:
            return
        if around and id(module) in around:
            return
        try:
            if id(module) not in own and is_left():
                return
            if transforms.is_on():
                recorder.see_arguments(args)
            functions.enter(module, sys._getframe(1))
            append((module, module.training))
        except Exception as error:
            recorder.give_up(error)

    return enter


def _after(recorder: Recorder, thread: int, around: Collection[int]) -> Callable[..., None]:
    encode, append = recorder.encode, recorder.tape.append
    origins, functions = recorder.origins, recorder.functions

    def leave(module: torch.nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        if is_dynamo_compiling() or recorder.paused or get_ident() != thread:
            return
        if around and id(module) in around:
            return
        # After an exception torch leaves the keyword arguments out.
        kwargs, result = rest if len(rest) == 2 else ({}, None)
        try:
            functions.leave(module)
            taken = [encode(args[0])] if len(args) == 1 else [encode(value) for value in args]
            named = {key: encode(value) for key, value in kwargs.items()} if kwargs else kwargs
            before = origins.unexplained
            append((module, taken, named, encode(result), origins.unexplained != before))
        except Exception as error:
            recorder.give_up(error)

    return leave
