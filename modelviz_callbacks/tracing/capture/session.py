"""Arms the recorder around one stretch of code and takes everything down again."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import get_ident
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.gc_pause import slowed_collector
from modelviz_callbacks.tracing.capture.autograd_record import living_inputs, read_backward
from modelviz_callbacks.tracing.capture.backward_record import BackwardRecord, joined
from modelviz_callbacks.tracing.capture.compile_guard import compiled_parts, eager
from modelviz_callbacks.tracing.capture.mode_stack import push_mode, remove_mode
from modelviz_callbacks.tracing.capture.module_paths import modules_of
from modelviz_callbacks.tracing.capture.pytree import Leaf, walk
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.recording import (
    Recording,
    forward_signature,
    named_inputs,
    named_losses,
    paths_of_arguments,
)
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.torch_internals import (
    forget_hook,
    is_compiled,
    missing_parts,
)

# Letters of the user's error that are kept: they stand in every file.
_LONGEST_ERROR = 1000


class Capture:
    """Records what one thread runs from `start` to `finish` or `abandon`.

    Every handle is owned by one exit stack: whatever step fails, nothing is left behind.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        called: torch.nn.Module | None = None,
        *,
        keeps_state: bool = True,
    ) -> None:
        """Nothing is armed yet.

        Args:
            model: Whose parameters, buffers and modules give the names.
            called: The wrapper around it whose call is recorded, if that is another module.
            keeps_state: Whether parameters and buffers that the code recorded writes to are
                copied before, as a replay from the same state needs it.
        """
        self._model = model
        self._called = model if called is None else called
        self._thread = get_ident()
        self._state = StateNames(model)
        self.recorder = Recorder(self._state, keeps_state)
        self._handles = ExitStack()
        self._signature = forward_signature(model)
        self._inputs: dict[str, Any] = {}
        self._is_step = False
        self._grad = True
        self._began = 0.0
        self._backwards: list[BackwardRecord] = []
        self._unread: list[str] = []
        self._fault: Exception | None = None
        self._end = 0

    def start(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        signature: inspect.Signature | None = None,
        is_step: bool | None = None,
    ) -> None:
        """Begins to record.

        Args:
            args: Positional arguments of the code to be recorded.
            kwargs: Its keyword arguments.
            signature: Its signature, if it is not the model's forward.
            is_step: Whether it is a training step, whose results are what ``backward`` is called
                on; ``None``: it is one if it has a signature.
        """
        self._is_step = signature is not None if is_step is None else is_step
        if self._is_step:  # which may run several backwards, and drop what they began at
            self.recorder.before_backward = self._read_backward
        self.recorder.see_state(tensor for tensor, _ in self._state.all())
        self._grad = torch.is_grad_enabled()
        self._signature = signature or self._signature
        self._inputs = self._attempt(
            lambda: named_inputs(self._signature, args, kwargs, self.recorder.adopt), {}
        )
        with ExitStack() as handles:
            self._arm(handles)
            self._handles = handles.pop_all()
        self._began = time.perf_counter()

    def _arm(self, handles: ExitStack) -> None:
        self._enter, leave = self._make_hooks()
        before = module_hooks.register_module_forward_pre_hook(self._enter)
        handles.callback(before.remove)
        after = module_hooks.register_module_forward_hook(leave, with_kwargs=True, always_call=True)
        handles.callback(after.remove)
        # torch's own handle forgets this table.
        handles.callback(forget_hook, after.id)
        for register, paused in (
            (optimizer_hooks.register_optimizer_step_pre_hook, True),
            (optimizer_hooks.register_optimizer_step_post_hook, False),
        ):
            handles.callback(register(self._pause_hook(paused)).remove)
        handles.enter_context(slowed_collector())
        handles.enter_context(eager(self.recorder))
        push_mode(self.recorder)
        handles.callback(remove_mode, self.recorder)

    def is_here(self) -> bool:
        """Whether this thread is the one that is recorded."""
        return get_ident() == self._thread

    def _read_backward(self, losses: list[torch.Tensor]) -> None:
        self._end = self._end or len(self.recorder.tape)
        paths = {record: path for path, record in named_losses(self.recorder.losses)}
        roots = [(paths[self.recorder.record(loss)], loss) for loss in losses]
        inputs = living_inputs(paths_of_arguments(self._inputs))
        try:
            found = read_backward(roots, self._state, inputs)
        except Exception as error:
            self._unread.append(f"The backward from {roots[0][0]} is not shown: {error!r}.")
            return
        if found is not None:
            self._backwards.append(found)

    def enter_model(self) -> None:
        """Marks the start of the model's own forward, where no hook saw it."""
        self._enter(self._model, ())

    def enter_part(self, part: torch.nn.Module) -> None:
        """Marks the start of the call of a module of the model, where no hook saw it."""
        self._enter(part, ())

    def finish(self, result: Any) -> Recording:
        """Ends the recording of code that returned.

        Args:
            result: What it returned.

        Returns:
            The recording; of what ran before a fault of the recorder, if it had to give up.
        """
        self.stop()
        walked = self._attempt(lambda: walk(result, self.recorder.record), Leaf(None))
        return self._recording(walked, "")

    def abandon(self, error: BaseException) -> Recording:
        """Ends the recording of code that raised; what ran until then is kept."""
        self.stop()
        text = without_credentials(f"{type(error).__name__}: {error}", _LONGEST_ERROR)
        return self._recording(Leaf(None), text)

    @property
    def saw_backward(self) -> bool:
        """Whether a step that is being recorded has called ``backward``."""
        return self._end > 0

    def finish_at_backward(self) -> Recording:
        """Ends the recording of a stretch of code with its first ``backward``, or now."""
        self.stop()
        if self._end:
            del self.recorder.tape[self._end :]
        return self._recording(Leaf(None), "")

    def stop(self) -> None:
        """Takes every hook and the mode down; safe to call again, and from anywhere."""
        self._handles.close()

    def _remarks(self) -> list[str]:
        remarks = [*self._unread, *missing_parts()]
        compiled = compiled_parts(self._called)
        if compiled:
            remarks.append(
                f"{', '.join(compiled)}: compiled code ran eagerly for the recorded batch, and is "
                "compiled from the next on."
            )
        fault = self.recorder.transforms.fault
        if fault is not None:
            remarks.append(
                "What a function transform (vmap, grad) computed may be unconnected: following "
                f"it failed with {fault!r}."
            )
        return remarks

    def _attempt(self, make: Callable[[], Any], otherwise: Any) -> Any:
        """What a step of our own gives; if it fails, the recording goes on without it."""
        try:
            return make()
        except Exception as error:
            self._fault = self._fault or error
            return otherwise

    def _why_partial(self) -> str:
        fault = self.recorder.fault or self._fault
        if fault is None:
            return ""
        said = without_credentials(repr(fault), _LONGEST_ERROR)
        return (
            f"Recording {type(self._model).__name__} stopped at op {len(self.recorder.tape)} by a "
            f"fault of the recorder ({said}); the forward went on without it. Please report the "
            "model."
        )

    def _recording(self, result: Any, error: str) -> Recording:
        seconds = time.perf_counter() - self._began
        self._attempt(self._state.update, None)
        tape = self.recorder.tape
        layered = self._attempt(lambda: self.recorder.transforms.with_layers(tape), tape)
        remarks = self._attempt(self._remarks, [])
        return Recording(
            self._model,
            layered,
            self._signature,
            self._inputs,
            self._state,
            result,
            error,
            is_step=self._is_step,
            grad=self._grad,
            losses=self.recorder.losses,
            remarks=remarks,
            backward=joined(self._backwards),
            seconds=seconds,
            fault=self._why_partial(),
        )

    # --- hooks: they see every module call of every thread, and run once a call

    def _make_hooks(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """The hooks around a module call; what they need is bound here, not looked up there."""
        recorder, thread, around = self.recorder, self._thread, self._around()
        encode, origins, append = recorder.encode, recorder.origins, recorder.tape.append
        transforms = recorder.transforms

        # Both begin alike, and share no function: a call takes longer than what it would spare.
        # While a higher-order op is being compiled nothing of ours may be seen.

        def enter(module: torch.nn.Module, args: Any) -> None:
            if is_dynamo_compiling() or recorder.paused or get_ident() != thread:
                return
            if id(module) in around:
                return
            try:
                if transforms.is_on():
                    recorder.see_arguments(args)
                append((module, module.training))
            except Exception as error:
                recorder.give_up(error)

        def leave(module: torch.nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
            if is_dynamo_compiling() or recorder.paused or get_ident() != thread:
                return
            if id(module) in around:
                return
            # After an exception torch leaves the keyword arguments out.
            kwargs, result = rest if len(rest) == 2 else ({}, None)
            try:
                taken = [encode(args[0])] if len(args) == 1 else [encode(value) for value in args]
                named = {key: encode(value) for key, value in kwargs.items()} if kwargs else kwargs
                before = origins.unexplained
                append((module, taken, named, encode(result), origins.unexplained != before))
            except Exception as error:
                recorder.give_up(error)

        return enter, leave

    def _around(self) -> set[int]:
        """The modules that only wrap what is to be seen, by their ``id``."""
        around = {id(module) for module in modules_of(self._called) if is_compiled(module)}
        if self._called is not self._model:
            around.add(id(self._called))
        return around

    def _pause_hook(self, paused: bool) -> Any:
        def pause(*_: Any) -> None:
            if self.is_here() and self.recorder.fault is None:
                self.recorder.paused = paused

        return pause
