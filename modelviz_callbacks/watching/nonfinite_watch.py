"""Waits for a loss that is not finite (``find_nonfinite``), and has that step examined.

A loss is what ``backward`` is called on. Until one is not finite, a step costs a look at the loss,
a copy of the random state, and a reference to the batch until its backward. On a GPU nothing waits
for the loss: it is copied to the host meanwhile, and looked at before weights are changed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import optimizer as optimizer_hooks
from typing_extensions import Self

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import (
    Capture,
    LossFlag,
    RandomState,
    Recording,
    StepCall,
    StepHook,
    calls_under_way,
    compiled_call,
    copies_of,
    examine,
    examine_gradients,
    first_call,
    random_devices,
    watch_method,
    written_state,
)
from modelviz_callbacks.watching.gradient_watch import GradientWatch
from modelviz_callbacks.watching.step_number import StepNumber

# How many calls of the model before one backward are kept.
_MOST_CALLS = 16
# How often the recorder is armed again where a step could not be examined.
_MOST_RECORDINGS = 3

_AGAIN = (
    "The loss of step {number} was not finite, and the step could not be examined: {why} The next "
    "step is recorded, to be examined if its loss is not finite either."
)
_NO_MORE = "The loss of step {number} was not finite, and the step could not be examined: {why}"
_GRADIENT = (
    "The loss of step {number} was finite, but the gradient of {name} was not, and its backward "
    "could not be examined: {why}"
)
_NOT_WATCHED = (
    "find_nonfinite has no effect: what was recorded is no call of the model, or it is compiled "
    "in place."
)

# What a capture is started with: arguments, signature.
Naming = Callable[
    [Callable[..., Any], tuple[Any, ...], dict[str, Any]],
    tuple[tuple[Any, ...], dict[str, Any], inspect.Signature],
]


class NonfiniteWatch:
    """Watches the steps after the recorded one, until one was examined."""

    def __init__(self, run: Run, stage: str = "", tells_update: bool = False) -> None:
        """Nothing is watched before the recording is there.

        Args:
            run: Its recording is replayed; it gets what is found.
            stage: Which further recording of the run it is; only the run's own is watched.
            tells_update: Whether `before_update` is called before an optimizer changes weights,
                also where its step runs the model.
        """
        self._run = run
        self._tells_update = tells_update
        self._recording: Recording | None = None
        self._calls: list[StepCall] = []
        self._written: list[torch.Tensor] = []
        self._flag: LossFlag | None = None
        self._gradients: GradientWatch | None = None
        self._backward_number = 0
        self._undo: list[Callable[[], None]] = []
        self._step_hooks: list[StepHook] = []
        self._watch_calls: Callable[[Recording], bool] = lambda _: True
        self._capture: Capture | None = None
        self._waits_for_recording = False
        self._recordings = 0
        self._steps: StepNumber | None = None
        self._undo_scaler: list[Callable[[], None]] = []
        self._number = 0
        self._thread = 0
        self._in_update = False
        self._in_training = True
        self._devices: tuple[torch.device, ...] = ()
        self._handled: BaseException | None = None
        self._first_state: RandomState | None = None
        if run.options.find_nonfinite and not stage:
            run.when_recorded = self._begin

    @property
    def is_on(self) -> bool:
        """Whether steps are watched."""
        return self._recording is not None

    # --- of which code calls are watched, in a plain loop

    @classmethod
    def of_model(
        cls, run: Run, core: torch.nn.Module, model: torch.nn.Module, methods: Sequence[str]
    ) -> Self:
        """One that watches the calls of a model by itself, once it was recorded.

        Args:
            run: Whose steps are watched.
            core: The model.
            model: What is called: it, or a wrapper around it.
            methods: The methods that are called instead of its forward.
        """
        self = cls(run)

        def watch(recording: Recording) -> bool:
            for name in methods:
                self._undo.append(watch_method(core, name, self.around))
            if methods:
                return True
            if recording.is_step or compiled_call(model) is not None:
                return False
            for handle in (
                model.register_forward_pre_hook(self._before, with_kwargs=True),
                model.register_forward_hook(self._after, with_kwargs=True, always_call=True),
            ):
                self._undo.append(handle.remove)
            return True

        self._watch_calls = watch
        return self

    def get_ready(self, core: torch.nn.Module) -> None:
        """Looks at gradient scalers from now on: before ``scaler.scale(model(x))``.

        Args:
            core: The model.
        """
        if self._run.when_recorded is not None and self._steps is None:
            self._steps = StepNumber(core)
            self._undo_scaler = self._steps.watch_scaler()

    def before_recording(self, core: torch.nn.Module) -> None:
        """The code begins that is recorded: its loss may be the one that is not finite.

        Args:
            core: The model.
        """
        if self._run.when_recorded is not None and not self.is_on:
            self._first_state = RandomState.now(random_devices(core))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the model takes its hooks along; the copy is not the model that is watched.
        return _inert, ()

    def _begin(self, recording: Recording) -> None:
        if self._recording is not None or self._undo:
            return
        if not self._watch_calls(recording):
            self._run.remark(_NOT_WATCHED)
            return
        self._recording, self._gradients = recording, GradientWatch(recording.model)
        self._written = written_state(recording)
        self._thread = get_ident()
        self._devices = random_devices(recording.model)
        self._in_training = recording.model.training
        self._calls = [first_call(recording, self._first_state)]
        self.get_ready(recording.model)
        self._undo.append(watch_method(torch.autograd, "backward", self._around_backward))
        for register, begins in (
            (optimizer_hooks.register_optimizer_step_pre_hook, True),
            (optimizer_hooks.register_optimizer_step_post_hook, False),
        ):
            self._step_hooks.append(StepHook(register, self._around_update(begins)))

    def close(self) -> None:
        """Watches nothing any more, nor what is still recorded; safe to call again."""
        if self._flag is not None:
            self.before_update()
        if self._run.when_recorded == self._begin:
            self._run.when_recorded = None
        self._end()

    def _end(self) -> None:
        self._recording, self._flag, self._calls, self._steps = None, None, [], None
        self._gradients, self._written = None, []
        self._drop_capture()
        for undo in (self._undo, self._undo_scaler):
            while undo:
                undo.pop()()
        # One that runs right now stays as one that does nothing, until the end.
        self._step_hooks = [hook for hook in self._step_hooks if not hook.remove()]

    # --- calls of what was recorded

    def around(
        self,
        inner: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        naming: Naming | None = None,
    ) -> Any:
        """Runs one call of what was recorded.

        Args:
            inner: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            naming: Says what its inputs are called, if not what its signature says.
        """
        is_no_step = naming is None and not torch.is_grad_enabled()
        if is_dynamo_compiling() or not self._is_here() or is_no_step:
            return inner(*args, **kwargs)
        with self._run.guarded("the search for NaN"):
            if naming is not None:
                named = naming(inner, args, kwargs)
            else:
                named = (args, kwargs, inspect.signature(inner))
            self._note_call(named[0], named[1], is_step=naming is not None)
            if self._waits_for_recording and self._recording is not None:
                capture = self._new_capture()
                capture.start(*named, is_step=naming is not None)
        try:
            result = inner(*args, **kwargs)
        except BaseException:
            self._drop_call()
            raise
        self._note_result(result)
        return result

    def _before(self, model: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if is_dynamo_compiling() or not self._is_here() or not self._is_step(model):
            return
        self._handled = sys.exc_info()[1]
        with self._run.guarded("the search for NaN"):
            self._note_call(args, kwargs)
            if self._waits_for_recording and self._recording is not None:
                capture = self._new_capture(model)
                capture.end_with_call_of(model)
                capture.start(args, kwargs)
                capture.enter_model()

    def _after(self, model: torch.nn.Module, args: Any, *rest: Any) -> None:
        if is_dynamo_compiling() or not self._is_here() or not self._is_step(model):
            return
        raised, handled = sys.exc_info()[1], self._handled
        self._handled = None
        if raised is not None and raised is not handled:
            self._drop_call()
        else:
            self._note_result(rest[-1])

    def _is_step(self, model: torch.nn.Module) -> bool:
        """Whether a call may be one of a training step, as the recorded one was."""
        is_alike = torch.is_grad_enabled() and (model.training or not self._in_training)
        return is_alike and calls_under_way(model, sys._getframe(2)) <= 1  # it may call itself

    def _drop_call(self) -> None:
        """Forgets a call that raised."""
        self._drop_capture()
        self._calls = self._calls[:-1]
        if self._steps is not None:
            self._steps.at_failure()

    def _drop_capture(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.stop()

    def _is_here(self) -> bool:
        return self._recording is not None and get_ident() == self._thread

    def _note_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], is_step: bool = False
    ) -> None:
        self._drop_capture()  # of a call that was interrupted
        self.before_update()  # of a step without one
        if self._recording is None or self._steps is None:
            return  # that was it
        self._number = self._steps.at_call(is_step)
        if len(self._calls) >= _MOST_CALLS:
            self._calls.pop(0)
        if self._calls:  # maybe no backward comes: at most one result has its graph kept alive
            self._calls[-1].settle()
        state = copies_of(self._written)
        self._calls.append(StepCall(args, kwargs, RandomState.now(self._devices), state=state))

    def _note_result(self, result: Any) -> None:
        with self._run.guarded("the search for NaN"):
            if self._calls:
                self._calls[-1].returned(result)
            capture, self._capture = self._capture, None
            if capture is not None:
                capture.stop()
                self._recording = capture.finish(result)
                self._written = written_state(self._recording)
                self._waits_for_recording = False

    def _new_capture(self, model: torch.nn.Module | None = None) -> Capture:
        assert self._recording is not None
        self._capture = Capture(self._recording.model, model)
        return self._capture

    # --- losses

    def _around_backward(
        self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if is_dynamo_compiling() or not self._is_here():
            return inner(*args, **kwargs)
        loss: torch.Tensor | None = None
        with self._run.guarded("the search for NaN"):
            loss = self._look_at(args[0] if args else kwargs.get("tensors"))
        try:
            return inner(*args, **kwargs)
        finally:
            if loss is not None:
                with self._run.guarded("the search for NaN"):
                    self._look_at_gradients(loss)

    def _look_at(self, roots: Any) -> torch.Tensor | None:
        """Looks at a loss; gives it if its gradients are to be looked at as well."""
        given = (roots,) if isinstance(roots, torch.Tensor) else tuple(roots or ())
        tensors = [one for one in given if isinstance(one, torch.Tensor)]  # else: graph edges
        losses = [one for one in tensors if one.numel() == 1 and one.is_floating_point()]
        if not losses:
            return None
        self.before_update()  # of the backward before
        if self._recording is None or self._steps is None:
            return None
        unscaled, calls = self._steps.unscaled(losses[0]), self._calls
        self._flag = flag = LossFlag(losses[0], calls, self._number, unscaled)
        self._backward_number = self._number
        self._steps.at_backward()
        self._calls = []
        if flag.is_quick or (self._in_update and not self._tells_update):
            self.before_update()
        # A scaler's factor may make gradients overflow: it sees to that.
        is_plain = unscaled is None and flag.is_quick and flag.is_finite()
        if self._gradients is None or not is_plain:
            return None
        self._gradients.before(calls)
        return losses[0]

    def _look_at_gradients(self, loss: torch.Tensor) -> None:
        """A backward is over whose loss was finite."""
        gradients, recording = self._gradients, self._recording
        bad = [] if gradients is None else gradients.after()
        if gradients is None or recording is None or not bad:
            return
        number = self._backward_number
        try:
            found = examine_gradients(recording, gradients.calls, loss, bad)
        except Exception as error:
            why = str(error) if isinstance(error, ReplayError) else repr(error)
            self._run.remark(_GRADIENT.format(number=number, name=bad[0], why=why))
        else:
            self._run.found_nonfinite(number, found, recording)
        self._end()

    def _around_update(self, begins: bool) -> Callable[..., None]:
        def call(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if self._is_here() and not is_dynamo_compiling():
                self._in_update = begins
                self.before_update()
                if not begins and self._steps is not None and self._steps.at_update(optimizer):
                    self._calls = []  # with other weights they cannot be replayed any more

        return call

    def before_update(self) -> None:
        """The weights will be changed: looks at the loss that the last backward began at."""
        flag, self._flag = self._flag, None
        if flag is None or self._recording is None:
            return
        with self._run.guarded("the search for NaN"):
            if not flag.is_finite():
                self._examine(flag)

    def _examine(self, flag: LossFlag) -> None:
        assert self._recording is not None
        try:
            found = examine(self._recording, flag.calls, flag.loss)
        except Exception as error:
            why = str(error) if isinstance(error, ReplayError) else repr(error)
            self._recordings += 1
            if self._recordings > _MOST_RECORDINGS:
                self._run.remark(_NO_MORE.format(number=flag.number, why=why))
                self._end()
                return
            self._run.remark(_AGAIN.format(number=flag.number, why=why))
            self._waits_for_recording = True
            self._gradients = None  # they may hold what this step has left
            return
        self._run.found_nonfinite(flag.number, found, self._recording)
        self._end()


def _inert() -> NonfiniteWatch:
    """What a copy of a model has in the place of the watch: it watches nothing."""
    watch = NonfiniteWatch.__new__(NonfiniteWatch)
    watch._recording = None
    return watch
