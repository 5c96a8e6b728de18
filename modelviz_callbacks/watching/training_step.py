"""A trainer's own training step, recorded the first time, and timed or looked into another time.

For trainers that call one function a step. That function is what is wrapped, for one call, rather
than the events around it: so a recording ends where the step ends, whatever it raises.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from modelviz_callbacks.end_of_program import close_at_exit
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import Capture, Recording, StepTimer
from modelviz_callbacks.watching.inspections import Inspections
from modelviz_callbacks.watching.nonfinite_watch import NonfiniteWatch
from modelviz_callbacks.watching.timed_backward import TimedBackward
from modelviz_callbacks.watching.watched_steps import WatchedSteps

# What a step is given, by the names that it is known by: values and a signature of theirs.
Given = tuple[tuple[Any, ...], dict[str, Any], inspect.Signature]
# Finds that out from the call: the function, its positional and its keyword arguments.
Naming = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Given]

# Around one call of a training step: gets the step, its arguments, and gives its result.
_Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _as_called(step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    return args, kwargs, inspect.signature(step)


class TrainingSteps:
    """The training steps of one run: the first is recorded, the one the options name is timed."""

    def __init__(
        self,
        run: Run,
        naming: Naming = _as_called,
        stage: str = "",
        tells_update: bool = False,
        wants_outputs: bool = False,
    ) -> None:
        """Nothing is armed yet.

        Args:
            run: Gets the recording.
            naming: Says what a step's inputs are called.
            stage: Which further recording of the run it is; ``""``: the run's own.
            tells_update: Whether `before_update` will be called.
            wants_outputs: Whether a first step from which no tensor comes is kept back, for the
                case that nothing better does.
        """
        self.run = run
        self._wants_outputs = wants_outputs
        self._kept_back: Recording | None = None
        self._is_given_up = False
        self._stage = stage
        self._naming = naming
        self._restore: Callable[[], None] | None = None
        self._waiting = True
        self._polling = False
        self._if_nothing = ""
        self._steps_to_timing = None if stage else run.options.profile_step
        self._timed_backward = TimedBackward(run)
        self._inspections = Inspections(run, stage)
        self._watched = WatchedSteps(run, stage)
        self._nonfinite = NonfiniteWatch(run, stage, tells_update)

    @property
    def lacks_outputs(self) -> bool:
        """Whether the first step was recorded, and no tensor came from it."""
        return self._kept_back is not None

    def before(self, owner: object, method: str, module: torch.nn.Module) -> None:
        """Puts the recording, or the timer, around the next call if it is the one.

        Args:
            owner: Whose method runs a step; it is replaced on this object until it was called.
            method: The method's name.
            module: The model that is trained.
        """
        run = self.run
        self._timed_backward.step_begins()
        if self._restore is not None or run.is_finished:
            return
        if self._waiting:
            self._wrap(owner, method, functools.partial(self._record, module))
            return
        if not self._inspections.is_over and self._inspections.before(module):
            self._wrap(owner, method, self._inspect)
        if self._steps_to_timing is not None:
            self._steps_to_timing -= 1
            if self._steps_to_timing == 0:
                self._steps_to_timing = None
                self._wrap(owner, method, functools.partial(self._time, module))
        is_busy = self._restore is not None or self._inspections.is_looking
        if not self._watched.is_over and self._watched.is_next(module, is_busy):
            self._wrap(owner, method, functools.partial(self._record_again, module))
        if self._nonfinite.is_on and self._restore is None:
            self._wrap(owner, method, lambda inner, args, kwargs: inner(*args, **kwargs))

    def before_update(self) -> None:
        """An optimizer is about to change weights, after a backward."""
        self._nonfinite.before_update()

    def after(self) -> None:
        """Puts what the worker has made for TensorBoard into the run, once it is there."""
        if self._polling:
            self._polling = not self.run.poll()

    def end(self) -> None:
        """Records nothing more, and says so if there was nothing to record."""
        if self._stage and self._waiting:
            self.run.remark(f"Nothing was recorded for {self._stage!r}: that step never ran.")
        self._disarm()
        self._timed_backward.close()
        self._inspections.close()
        self._watched.close()
        self._nonfinite.close()

    def finish(self, if_nothing: str, may_raise: bool = True, is_patient: bool = True) -> None:
        """Ends the run, once; as `Run.finish`.

        Args:
            if_nothing: What to say if there is no recording.
            may_raise: Whether nothing else is being raised.
            is_patient: Whether there is time to wait for anything.

        Raises:
            Exception: What failed first, if the options say so.
        """
        self.end()
        kept_back, self._kept_back = self._kept_back, None
        if kept_back is not None:
            with self.run.guarded("the recording"):
                self.run.captured(kept_back, self._stage)
        if not (self.run.is_finished or self._is_given_up):
            self.run.finish(if_nothing, may_raise, is_patient)

    def give_up(self) -> None:
        """Writes nothing: somebody else records what is wanted."""
        self._is_given_up, self._kept_back = True, None
        self.end()
        self.run.step_aside()

    def end_with_program(self, if_nothing: str) -> None:
        """Sees to it that the run ends with the program at the latest.

        Of an exception, Ctrl-C among them, most trainers tell no callback.

        Args:
            if_nothing: What to say if there is no recording then.
        """
        self._if_nothing = if_nothing
        close_at_exit(self._at_exit, self.run)

    def _at_exit(self, error: BaseException | None) -> None:
        is_patient = error is None or isinstance(error, Exception)
        self.finish(self._if_nothing, error is None, is_patient)

    def _wrap(self, owner: object, method: str, around: _Around) -> None:
        def once(inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._disarm()
            if not self._nonfinite.is_on:
                return around(inner, args, kwargs)
            # Whatever else is done with a step, its loss may be the one that is not finite.
            return self._nonfinite.around(
                lambda *given, **named: around(inner, given, named),
                args,
                kwargs,
                lambda _, *call: self._naming(inner, *call),
            )

        with self.run.guarded("the recording"):
            self._restore = _wrap_once(owner, method, once)

    def _record(
        self,
        module: torch.nn.Module,
        inner: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Runs a training step and records it."""
        run, capture = self.run, None
        with run.guarded("the recording"):
            self._nonfinite.before_recording(module)
            starting = Capture(module, keeps_state=run.keeps_state, keeps_inputs=run.keeps_inputs)
            starting.start(*self._naming(inner, args, kwargs))
            capture = starting
        if capture is None:
            return inner(*args, **kwargs)
        try:
            result = inner(*args, **kwargs)
        except BaseException as error:
            with run.guarded("the recording"):
                capture.stop()
                run.captured(capture.abandon(error), self._stage)
            raise
        with run.guarded("the recording"):
            capture.stop()
            recording = capture.finish(result)
            is_whole = not recording.is_partial
            if self._wants_outputs and is_whole and not recording.output_records():
                self._kept_back = recording
            else:
                run.captured(recording, self._stage)
        return result

    def _record_again(
        self,
        module: torch.nn.Module,
        inner: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Runs a later training step and records it."""
        named, keywords, signature = args, kwargs, None
        with self.run.guarded("the recording of a later step"):
            named, keywords, signature = self._naming(inner, args, kwargs)
        if signature is not None:
            self._watched.before(module, module, named, keywords, signature)
        try:
            result = inner(*args, **kwargs)
        except BaseException:
            self._watched.close()
            raise
        self._watched.after(result)
        return result

    def _inspect(
        self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs a training step that is looked into."""
        try:
            return inner(*args, **kwargs)
        finally:
            self._inspections.end_forward()

    def _time(
        self,
        module: torch.nn.Module,
        inner: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Runs a training step and times its ops."""
        timer: StepTimer | None = None
        with self.run.guarded("the times"):
            starting = StepTimer(module)
            starting.start()
            timer = starting
        result = None
        try:
            result = inner(*args, **kwargs)
            return result
        finally:
            if timer is not None:
                with self.run.guarded("the times"):
                    timer.stop(result)
                    self._timed_backward.wait(timer)

    def _disarm(self) -> None:
        self._polling = self._polling or self._waiting
        self._waiting = False
        if self._restore is not None:
            self._restore()
            self._restore = None


def _wrap_once(owner: object, method: str, around: _Around) -> Callable[[], None]:
    """Puts something around the next call of a method.

    Args:
        owner: The method is replaced on this object until undone.
        method: Its name.
        around: Called once, in the place of the method.

    Returns:
        Undoes it.
    """
    inner = getattr(owner, method)
    tried = False
    had_own = method in vars(owner)

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal tried
        if tried:
            return inner(*args, **kwargs)
        tried = True
        return around(inner, args, kwargs)

    def restore() -> None:
        if vars(owner).get(method) is not wrapper:
            return  # replaced by somebody else meanwhile
        if had_own:
            setattr(owner, method, inner)
        else:
            del vars(owner)[method]

    setattr(owner, method, wrapper)
    return restore
