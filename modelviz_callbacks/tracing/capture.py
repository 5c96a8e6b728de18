"""Arms the recorder around one stretch of code and takes everything down again."""

from __future__ import annotations

import inspect
import threading
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode
from torch.overrides import _push_mode as push_mode

from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.tracing.recorder import Recorder
from modelviz_callbacks.tracing.recording import Recording, forward_signature, named_inputs
from modelviz_callbacks.tracing.state import StateNames
from modelviz_callbacks.tracing.structure import walk
from modelviz_callbacks.tracing.tape import Enter, Leave


class Capture:
    """Records what one thread runs from `start` to `finish` or `abandon`.

    Every handle is owned by one exit stack: whatever step fails, nothing is left behind.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Nothing is armed yet.

        Args:
            model: Whose parameters, buffers and modules give the names.
        """
        self._model = model
        self._thread = threading.get_ident()
        self._state = StateNames(model)
        self.recorder = Recorder(self._state)
        self._handles = ExitStack()
        self._signature = forward_signature(model)
        self._inputs: dict[str, Any] = {}
        self._is_step = False

    def start(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        signature: inspect.Signature | None = None,
    ) -> None:
        """Begins to record.

        Args:
            args: Positional arguments of the code to be recorded.
            kwargs: Its keyword arguments.
            signature: Its signature, if it is not the model's forward.
        """
        self._is_step = signature is not None
        self._signature = signature or self._signature
        self._inputs = named_inputs(self._signature, args, kwargs, self.recorder.adopt)
        with ExitStack() as handles:
            self._arm(handles)
            self._handles = handles.pop_all()

    def _arm(self, handles: ExitStack) -> None:
        before = module_hooks.register_module_forward_pre_hook(self._enter)
        handles.callback(before.remove)
        after = module_hooks.register_module_forward_hook(
            self._leave, with_kwargs=True, always_call=True
        )
        handles.callback(after.remove)
        # torch's own handle forgets this table.
        handles.callback(module_hooks._global_forward_hooks_with_kwargs.pop, after.id, None)
        for register, paused in (
            (optimizer_hooks.register_optimizer_step_pre_hook, True),
            (optimizer_hooks.register_optimizer_step_post_hook, False),
        ):
            handles.callback(register(self._pause_hook(paused)).remove)
        push_mode(self.recorder)
        handles.callback(_remove_mode, self.recorder)

    def is_here(self) -> bool:
        """Whether this thread is the one that is recorded."""
        return threading.get_ident() == self._thread

    def enter_model(self) -> None:
        """Marks the start of the model's own forward, where no hook saw it."""
        self._enter(self._model, ())

    def finish(self, result: Any) -> Recording:
        """Ends the recording of code that returned.

        Args:
            result: What it returned.

        Returns:
            The recording.

        Raises:
            CaptureError: The recorder had to give up.
        """
        self.stop()
        self._raise_fault()
        return self._recording(walk(result, self.recorder.slot), "")

    def abandon(self, error: BaseException) -> Recording:
        """Ends the recording of code that raised; what ran until then is kept."""
        self.stop()
        self._raise_fault()
        return self._recording(None, f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """Takes every hook and the mode down; safe to call again, and from anywhere."""
        self._handles.close()

    def _raise_fault(self) -> None:
        fault = self.recorder.fault
        if fault is not None:
            raise CaptureError(
                f"Recording {type(self._model).__name__} stopped at op "
                f"{len(self.recorder.tape)} by a fault of the recorder ({fault!r}); training "
                "went on without it. Please report the model."
            ) from fault

    def _recording(self, result: Any, error: str) -> Recording:
        self._state.update()
        return Recording(
            self._model,
            self.recorder.tape,
            self._signature,
            self._inputs,
            self._state,
            result,
            error,
            is_step=self._is_step,
        )

    # --- hooks: they see every module call of every thread

    def _enter(self, module: torch.nn.Module, args: Any) -> None:  # noqa: ARG002
        if self.is_here() and not self.recorder.paused:
            self.recorder.tape.append(Enter(module, module.training))

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        # After an exception torch leaves the keyword arguments out.
        kwargs, result = rest if len(rest) == 2 else ({}, None)
        recorder = self.recorder
        if not self.is_here() or recorder.paused:
            return
        try:
            with torch._C.DisableTorchFunction():
                taken = tuple([recorder.encode(value) for value in args])
                named = {key: recorder.encode(value) for key, value in kwargs.items()}
                before = recorder.origins.unexplained
                given = recorder.encode(result)
            unseen = recorder.origins.unexplained != before
            recorder.tape.append(Leave(module, taken, named, given, unseen))
        except Exception as error:
            recorder.give_up(error)

    def _pause_hook(self, paused: bool) -> Any:
        def pause(*_: Any) -> None:
            if self.is_here() and self.recorder.fault is None:
                self.recorder.paused = paused

        return pause


def _remove_mode(mode: TorchFunctionMode) -> None:
    """Takes one mode off this thread's stack, wherever on it it is."""
    stack = _get_current_function_mode_stack()
    if mode not in stack:
        return
    above = [_pop_mode() for _ in range(len(stack) - stack.index(mode))]
    for other in reversed(above[:-1]):
        push_mode(other)
