"""``with GraphHook(model):`` around a plain training loop."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from typing_extensions import Self, Unpack

from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.ranks import is_recording_rank
from modelviz_callbacks.report import Report
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import (
    Capture,
    StepTimer,
    calls_under_way,
    class_of,
    compiled_call,
    is_compiled,
    set_compiled_call,
    unwrapped,
)

_NEVER = (
    "No forward of it ran in training mode between the making of the hook and its end. Make the "
    "hook before the loop, call the module itself rather than its forward(), and call "
    "model.train(). Where a function around the model is compiled, compile the model instead."
)
_INTERRUPTED = InterruptedError("it was interrupted before its end")


class GraphHook:
    """Records the first forward of a model in training mode, once.

    It is armed when made and disarms itself after that forward; files that are slow to make
    are written by `close`, or at the end of the ``with`` block.

    Example:
        >>> with GraphHook(model):
        ...     for features, labels in loader:
        ...         loss = criterion(model(features), labels)
        modelviz: ...
    """

    def __init__(self, model: torch.nn.Module, **options: Unpack[OptionFields]) -> None:
        """Arms the hook.

        Args:
            model: The model to watch; may be a part of a larger one.
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
            CaptureError: ``model`` is not a module.
        """
        if not isinstance(model, torch.nn.Module):
            raise CaptureError(
                f"GraphHook watches a torch.nn.Module, it was given a {type(model).__name__}."
            )
        # Wrappers that only distribute (DDP) are not part of the model; one that compiles is
        # watched from outside, since nothing of ours may run inside compiled code.
        self._core = unwrapped(model)
        while model is not self._core and not _is_compiled(model):
            model = model.module  # type: ignore[assignment]
        self._model = model
        self._run = Run(make_options(**options), class_of(self._core).__name__)
        self._run.find_mlflow()
        self._capture: Capture | None = None
        self._timer: StepTimer | None = None
        self._steps_to_timing = self._run.options.profile_step
        self._recorded = False
        self._closed = False
        self._depth = 0
        self._handled: BaseException | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._compiled_call: Any = None
        self._records = is_recording_rank()
        if self._records:
            with self._run.guarded("the preparations"):
                self._run.get_ready()
            self._arm()

    def _arm(self) -> None:
        model = self._model
        self._compiled_call = compiled_call(model)
        if self._compiled_call is not None:
            # What `model.compile()` has put in the place of the call runs hooks inside compiled
            # code, so there must be none.
            set_compiled_call(model, self._call_compiled)
            return
        self._handles = [
            model.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def _call_compiled(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in the place of the compiled call until it was recorded, and calls it."""
        model, call = self._model, self._compiled_call
        set_compiled_call(model, call)  # a model that calls itself calls that
        self._before(model, args, kwargs)
        result = None
        try:
            result = call(*args, **kwargs)
        finally:
            self._after(model, args, kwargs, result)
            if self._compiled_call is not None:
                set_compiled_call(model, self._call_compiled)
        return result

    @property
    def report(self) -> Report:
        """What was written where, what was refused and why.

        Example:
            >>> with GraphHook(model) as hook:
            ...     logits = model(features)
            modelviz: ...
            >>> "graph.svg" in hook.report.files
            True
        """
        return self._run.report

    def close(self) -> None:
        """Disarms the hook and writes what is slow to make; safe to call again.

        Example:
            >>> hook = GraphHook(model)
            >>> logits = model(features)
            >>> hook.close()
            modelviz: ...
        """
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        self._disarm()
        if self._timer is not None:  # the timed forward was interrupted
            self._timer.stop()
            self._timer = None
        capture, self._capture = self._capture, None
        if capture is not None:
            # A forward that was interrupted (KeyboardInterrupt) never came to its end.
            with self._run.guarded("the recording"):
                self._run.captured(capture.abandon(error or _INTERRUPTED))
        self._handled = None
        if not self._closed:
            self._closed = True
            if self._records:
                patient = error is None or isinstance(error, Exception)
                self._run.finish(_NEVER, error is None, patient)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the model (an average of weights, a saved file) takes its hooks along; the
        # copy is not the model that is watched.
        return _inert, ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(error)  # what the loop raised is what its author must see

    def _disarm(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._restore_compiled()

    def _restore_compiled(self) -> None:
        if self._compiled_call is not None and compiled_call(self._model) == self._call_compiled:
            set_compiled_call(self._model, self._compiled_call)
        self._compiled_call = None

    def _after_recording(self) -> None:
        """Leaves the hooks for the step to be timed, if one is."""
        self._recorded = True
        self._restore_compiled()
        if self._steps_to_timing is not None and _is_compiled(self._model):
            # Its hooks would become a part of the compiled code.
            self._run.not_timed("torch.compile fuses the ops of the model")
            self._steps_to_timing = None
        if self._steps_to_timing is None:
            self._disarm()

    def _before(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if is_dynamo_compiling():
            return  # compiled with the code around it: its ops cannot be seen
        if self._capture is not None and self._capture.is_here():
            if _calls_on_stack(model) > 1:
                self._depth += 1  # the model calls itself
                return
            with self._run.guarded("the recording"):
                self._capture.stop()  # left by a forward that was interrupted
            self._capture = None
        if self._capture is not None:
            return  # another thread is at it
        if not model.training or self._closed or model is not self._model:
            return
        if self._recorded:
            self._count_down()
            return
        if not is_recording_rank():  # known only now: the process group came after the hook
            self._records = False
            self._disarm()
            self._run.step_aside()
            return
        with self._run.guarded("the recording"):
            capture = Capture(
                self._core,
                model,
                keeps_state=self._run.keeps_state,
                keeps_inputs=self._run.keeps_inputs,
            )
            capture.start(args, kwargs)
            if model is self._core and self._compiled_call is None:
                capture.enter_model()
            self._capture, self._depth = capture, 0
            self._handled = sys.exc_info()[1]
        if self._capture is None:
            self._disarm()  # what failed now would fail in every step

    def _after(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        if is_dynamo_compiling():
            return
        if self._timer is not None and self._timer.is_here():
            self._end_timing()
            return
        capture = self._capture
        if capture is None or not capture.is_here():
            return
        if self._depth:
            self._depth -= 1
            return
        self._capture = None
        self._after_recording()
        raised, handled = sys.exc_info()[1], self._handled
        self._handled = None
        with self._run.guarded("the recording"):
            capture.stop()
            if raised is not None and raised is not handled:
                self._run.captured(capture.abandon(raised))
            else:
                self._run.captured(capture.finish(result))

    # --- the step to be timed

    def _count_down(self) -> None:
        if self._timer is not None or self._steps_to_timing is None:
            return  # the model calls itself
        self._steps_to_timing -= 1
        if self._steps_to_timing:
            return
        with self._run.guarded("the times"):
            timer = StepTimer(self._core, self._model)
            if timer.start(inside_model=self._model is self._core):
                self._timer, self._depth = timer, _calls_on_stack(self._model)
            else:
                self._run.timed(timer)  # it says why
        if self._timer is None:
            self._run.not_timed("the timer could not be started")
            self._disarm()

    def _end_timing(self) -> None:
        timer = self._timer
        if timer is None or not timer.is_here() or _calls_on_stack(self._model) > self._depth:
            return
        self._timer, self._steps_to_timing = None, None
        self._disarm()
        with self._run.guarded("the times"):
            timer.stop()
            self._run.timed(timer)


def _is_compiled(model: torch.nn.Module) -> bool:
    return is_compiled(model) or compiled_call(model) is not None


def _inert() -> GraphHook:
    """A hook that watches nothing."""
    hook = GraphHook.__new__(GraphHook)
    hook._model, hook._capture, hook._closed = torch.nn.Module(), None, True
    hook._handles, hook._compiled_call, hook._timer, hook._recorded = [], None, None, True
    hook._steps_to_timing, hook._records = None, False
    return hook


def _calls_on_stack(model: torch.nn.Module) -> int:
    """How many calls of a module are under way in this thread."""
    return calls_under_way(model, sys._getframe(1))
