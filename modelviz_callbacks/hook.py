"""``with GraphHook(model):`` around a plain training loop."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import optimizer as optimizer_hooks
from typing_extensions import Self, Unpack

from modelviz_callbacks.end_of_program import close_at_exit
from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.loggers import Surroundings, connect
from modelviz_callbacks.options import OptionFields, make_options
from modelviz_callbacks.pipeline import told_by
from modelviz_callbacks.report import Report
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import (
    Capture,
    LazyResult,
    Recording,
    StepHook,
    calls_under_way,
    class_of,
    is_for_a_compiler,
    is_lazy,
    method_names,
    method_under_way,
    unwrapped,
    without_wrappers,
)
from modelviz_callbacks.watching.best_recording import BestRecording, Worth
from modelviz_callbacks.watching.entrances import AtCalls, Entrances
from modelviz_callbacks.watching.later_steps import LaterSteps
from modelviz_callbacks.watching.nonfinite_watch import NonfiniteWatch
from modelviz_callbacks.watching.nothing_recorded import why_nothing
from modelviz_callbacks.watching.way_to_backward import WayToBackward

_STRETCH = (
    "The model's forward was not called: recorded is what ran from the first call of {first} to "
    "the backward. {advice}"
)
_INTERRUPTED = InterruptedError("it was interrupted before its end")

# Hooks by their number, so that the hooks on a copy of a model can say that the copy runs.
_hooks: WeakValueDictionary[int, GraphHook] = WeakValueDictionary()
_numbers = itertools.count()


class GraphHook:
    """Records the first forward of a model in training mode with gradients enabled, once.

    It is armed when made and disarms itself after that forward; files that are slow to make are
    written by `close`, at the end of the ``with`` block, or when the program ends. Where no such
    forward comes, it is the first in eval mode with gradients; else what the model's own modules
    ran up to the backward; else the first forward in training mode without gradients.

    Example:
        >>> with GraphHook(model):
        ...     for features, labels in loader:
        ...         loss = criterion(model(features), labels)
        modelviz: ...
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        method: str | Sequence[str] | None = None,
        accelerator: Any = None,
        loggers: Sequence[Any] | None = None,
        loss: bool | None = None,
        **options: Unpack[OptionFields],
    ) -> None:
        """Arms the hook.

        Args:
            model: The model to watch; may be a part of a larger one, or a ``PipelineStage``.
            method: Name of the method whose call is recorded instead of the model's forward
                (``"evaluate_actions"``), or several: the first of them that is called.
            accelerator: The ``Accelerator`` of accelerate or the ``Fabric`` whose trackers get the
                graph. ``None``: the one among the variables where the hook is made.
            loggers: Loggers that get it, of any trainer. ``None``: the ``SummaryWriter`` among
                those variables, if there is one only.
            loss: Whether to go on to the ``backward``, for the loss. ``None``: with an accelerator,
                given or found, unless ``find_nonfinite`` or ``watch_changes`` is set.
            **options: See ``modelviz_callbacks.options.Options``.

        Raises:
            OptionError: An option is unknown or has an impossible value.
            CaptureError: ``model`` is not a module.
        """
        model, given, self._is_recorder = told_by(model, {**options})
        if not isinstance(model, torch.nn.Module):
            raise CaptureError(
                f"GraphHook watches a torch.nn.Module, it was given a {type(model).__name__}."
            )
        self._core, self._model = unwrapped(model), without_wrappers(model)
        settings = make_options(**given)
        self._methods = method_names(self._core, method)
        self._run = Run(settings, class_of(self._core).__name__)
        self._begin_unarmed()
        with self._run.guarded("the loggers"):
            around = Surroundings(sys._getframe(1), accelerator, loggers)
            connect(self._run, around.loggers)
            by_itself = around.has_accelerator and not settings.watches_forwards
            self._way.is_wanted = by_itself if loss is None else loss
        self._later = LaterSteps(self._run, self._core, self._model, over=self._disarm)
        self._nonfinite = NonfiniteWatch.of_model(self._run, self._core, self._model, self._methods)
        if self._records:
            with self._run.guarded("the preparations"):
                self._run.get_ready()
            with self._run.guarded("the recording"):
                self._arm()

    def _begin_unarmed(self) -> None:
        """What is known before anything ran."""
        self._records = self._is_recorder()
        self._capture: Capture | None = None
        self._recorded = False
        self._closed = False
        self._depth = 0
        self._handled: BaseException | None = None
        self._entrances = Entrances(self._core, self._model)
        self._best, self._next_worth = BestRecording(), Worth.NOTHING
        self._stretch_of: torch.nn.Module | None = None
        self._stretch_in = ""
        self._in_method = False
        self._way = WayToBackward(self._core, self._model)
        self._lazy: LazyResult | None = None
        self._steps: StepHook | None = None
        self._copy_ran = self._is_copy = False
        self._number = next(_numbers)
        _hooks[self._number] = self
        close_at_exit(self._close, self._run)

    def _arm(self) -> None:
        self._nonfinite.get_ready(self._core)
        at_calls = AtCalls(self._before, self._after, self._around_method, self._before_part)
        self._entrances.open(at_calls, self._methods)

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
        if self._is_copy:
            return
        if self._run.is_forked_copy:
            self._drop()
        self._end_lazy(" before the end of the hook")
        self._end_stretch()
        self._disarm()
        if self._records:
            self._later.close()
            self._nonfinite.close()
        capture, self._capture = self._capture, None
        if capture is not None:
            # A forward that was interrupted (KeyboardInterrupt) never came to its end.
            with self._run.guarded("the recording"):
                self._run.captured(capture.abandon(error or _INTERRUPTED))
                self._best.take_out()
        self._commit()
        self._handled = None
        if not self._closed:
            self._closed = True
            if self._records:
                patient = error is None or isinstance(error, Exception)
                why = ""
                if not self._recorded:
                    why = why_nothing(self._core, self._methods, self._copy_ran)
                self._run.finish(why, error is None, patient)

    def _drop(self) -> None:
        """Hands nothing on of what is being recorded."""
        capture, self._capture = self._capture, None
        self._lazy = None
        self._best.take_out()
        if capture is not None:
            with self._run.guarded("the recording"):
                capture.stop()

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the model (an average of weights, a saved file) takes its hooks along; the
        # copy is not the model that is watched.
        return _inert, (self._number,)

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
        self._entrances.close()
        if self._steps is not None:
            self._steps.remove()

    def _after_recording(self) -> None:
        """Leaves the model's own hooks for the steps to be timed or looked into, if any are."""
        self._recorded = True
        self._entrances.close_parts()
        self._later.recorded(goes_on=self._way.is_wanted)

    def _before(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._is_copy:
            _note_copy(self, model)
            return
        if self._is_no_step(args, kwargs):
            return  # its ops cannot be seen
        if self._in_method or self._way.takes_call(self._capture, args, kwargs):
            return
        self._end_stretch()
        if self._lazy_runs():
            self._depth += 1  # the model calls itself
            return
        if self._capture is not None and self._capture.is_here():
            if _calls_on_stack(model) > 1:
                self._depth += 1  # the model calls itself
                return
            with self._run.guarded("the recording"):
                self._capture.stop()  # left by a forward that was interrupted
            self._capture = None
        if self._capture is not None:
            return  # another thread is at it
        if self._closed:
            return
        if self._recorded:
            if self._is_step(model) and _calls_on_stack(model) <= 1:
                self._later.before(args, kwargs)
            return
        worth = Worth.now(model)
        if worth <= self._best.worth:
            return
        self._start(model, args, kwargs, worth)

    def _is_no_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a compiler or an exporter looks at the model, or nobody knows."""
        if is_dynamo_compiling():
            return True  # what is compiled with the code around it must not meet the guard
        with self._run.guarded("the recording"):
            return is_for_a_compiler(args, kwargs)
        return True

    def _is_step(self, model: torch.nn.Module) -> bool:
        """Whether a forward that begins now is one of a training step."""
        return model.training or (self._best.worth is Worth.EVAL_MODE and torch.is_grad_enabled())

    def _start(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], worth: Worth
    ) -> None:
        """Begins to record a forward."""
        if not self._is_recorder():  # known only now: the process group came after the hook
            self._records = False
            self._disarm()
            self._nonfinite.close()
            self._run.step_aside()
            return
        with self._run.guarded("the recording"):
            self._nonfinite.before_recording(self._core)
            capture = Capture(
                self._core,
                model,
                keeps_state=self._run.keeps_state,
                keeps_inputs=self._run.keeps_inputs,
            )
            capture.end_with_call_of(model)
            capture.start(args, kwargs)
            if model is self._core and not self._entrances.is_compiled:
                capture.enter_model()
            self._capture, self._depth, self._next_worth = capture, 0, worth
            self._handled = sys.exc_info()[1]
        if self._capture is None:
            self._disarm()  # what failed now would fail in every step

    def _after(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """Ends a recording, or gives what is to be returned instead so that it goes on."""
        if self._is_copy or self._is_no_step(args, kwargs):
            return None
        if self._recorded and self._later.after_timed(result):
            return None
        if self._recorded and _calls_on_stack(model) <= 1:
            self._later.after(result)
        capture = self._capture
        if capture is None or not capture.is_here():
            return None
        if self._way.is_on:
            return self._way.call_returned(capture, result)
        if self._depth:
            self._depth -= 1
            return None
        raised, handled = sys.exc_info()[1], self._handled
        self._handled = None
        raised = raised if raised is not handled else None
        if raised is None and not self._entrances.is_compiled and is_lazy(result):
            return self._follow(capture, self._next_worth, result)
        if raised is None and self._goes_on(capture, self._next_worth, result):
            return None
        self._capture = None
        self._take(capture, self._next_worth, result, raised)
        return None

    def _goes_on(self, capture: Capture, worth: Worth, result: Any) -> bool:
        """Whether what comes after the forward, or method, is recorded up to the backward."""
        goes_on = False
        with self._run.guarded("the recording"):
            goes_on = worth is Worth.BEST and self._way.begin(capture, result)
            if goes_on:
                self._capture, self._stretch_of = capture, self._core
                self._watch_optimizer_steps()
        return goes_on

    def _follow(self, capture: Capture, worth: Worth, result: Any) -> Any:
        """What to return in the place of a lazy result, which is recorded while it runs."""

        def done(made: Any, raised: BaseException | None) -> None:
            self._capture = self._lazy = None
            self._take(capture, worth, made, raised)

        with self._run.guarded("the recording"):
            lazy = LazyResult(capture, done)
            self._capture, self._lazy = capture, lazy
            self._watch_optimizer_steps()
            return lazy.stand_in(result)
        done(None, None)  # what failed now would fail in every step
        return result

    def _end_lazy(self, why: str) -> None:
        """Ends the recording of a lazy result, of which nothing more is to be awaited."""
        if self._lazy is not None:
            self._lazy.end(why=why)

    def _lazy_runs(self) -> bool:
        """Whether a lazy result computes in this thread right now; one that was left is ended."""
        lazy, capture = self._lazy, self._capture
        if lazy is None or capture is None or not capture.is_here():
            return False
        if lazy.has_begun and not lazy.is_running:
            lazy.end(why=" before the next forward")
        elif not lazy.has_begun:
            lazy.drop()  # nothing ran: the next one may be used
            self._capture = self._lazy = None
        return lazy.is_running

    def _take(
        self, capture: Capture, worth: Worth, result: Any, raised: BaseException | None
    ) -> None:
        """Ends a recording: hands it on, or keeps it for the case that no better one comes."""
        if worth is Worth.BEST:
            self._after_recording()
            self._best.take_out()
        with self._run.guarded("the recording"):
            capture.stop()
            recording = capture.finish(result) if raised is None else capture.abandon(raised)
            if worth is Worth.BEST:
                self._run.captured(recording)
            else:
                self._keep(recording, worth)

    def _keep(self, recording: Recording, worth: Worth) -> None:
        self._best.keep(recording, worth)
        if worth is Worth.EVAL_MODE:
            self._watch_optimizer_steps()

    def _commit(self) -> None:
        """Hands on what was kept, since nothing better will come."""
        kept = self._best.take_out()
        if kept is None or not self._records:
            return
        self._after_recording()
        with self._run.guarded("the recording"):
            self._run.captured(kept)

    def _watch_optimizer_steps(self) -> None:
        """What an optimizer trains is the training: no better recording is waited for."""
        if self._steps is not None:
            return
        own = {id(parameter) for parameter in self._core.parameters()}

        def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            groups = optimizer.param_groups
            if any(id(parameter) in own for group in groups for parameter in group["params"]):
                self._end_lazy(" before the optimizer's step")
                self._end_stretch()
                if self._best.worth >= Worth.STRETCH:
                    self._commit()

        self._steps = StepHook(optimizer_hooks.register_optimizer_step_pre_hook, before_step)

    # --- a method

    def _around_method(
        self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs one call of a watched method, recorded if it is better than what there is."""
        if self._is_copy:
            return inner(*args, **kwargs)
        if not self._in_method and not self._way.takes_call(self._capture, args, kwargs):
            self._end_stretch()
        worth = Worth.now(self._core)
        if worth in (Worth.EVAL_MODE, Worth.NOTHING):
            worth = Worth.BEST if worth else Worth.NO_GRADIENTS  # the method was asked for
        if self._recorded and worth is Worth.BEST and not self._in_method and not self._closed:
            return self._in_later_step(inner, args, kwargs)
        runs = self._in_method or self._lazy_runs() or self._capture is not None
        is_busy = runs or self._recorded or self._closed
        if is_busy or self._is_no_step(args, kwargs) or worth <= self._best.worth:
            return self._way.call(self._capture, inner, args, kwargs)
        capture: Capture | None = None
        with self._run.guarded("the recording"):
            self._nonfinite.before_recording(self._core)
            starting = Capture(self._core, keeps_state=self._run.keeps_state)
            starting.start(args, kwargs, inspect.signature(inner), is_step=False)
            capture = starting
        if capture is None:
            self._disarm()
            return inner(*args, **kwargs)
        self._in_method, raised, result = True, None, None
        try:
            result = inner(*args, **kwargs)
        except BaseException as error:
            raised = error
            raise
        finally:
            self._in_method = False
            goes_on = raised is None and self._goes_on(capture, worth, result)
            if raised is not None or not (goes_on or is_lazy(result)):
                self._take(capture, worth, result, raised)
        return self._follow(capture, worth, result) if is_lazy(result) else result

    def _in_later_step(
        self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs one call of a watched method after the recorded one."""
        self._in_method = True
        try:
            if self._is_no_step(args, kwargs):
                return inner(*args, **kwargs)
            return self._later.call(inner, args, kwargs)
        finally:
            self._in_method = False

    # --- the model's own modules, where its forward does not run

    def _before_part(
        self, part: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Begins to record at the first call of an own module with gradients."""
        if self._is_copy:
            _note_copy(self, part)
            return
        if self._closed or self._recorded or self._in_method or self._is_no_step(args, kwargs):
            return
        capture = self._capture
        if capture is not None:
            if self._stretch_of is not None and capture.is_here() and capture.saw_backward:
                self._end_stretch()
            return
        if self._best.worth >= Worth.STRETCH or not torch.is_grad_enabled():
            return
        if not self._is_recorder() or _calls_on_stack(self._model):
            return
        with self._run.guarded("the recording"):
            capture = Capture(self._core, keeps_state=self._run.keeps_state)
            capture.start(args, kwargs, inspect.signature(part.forward), is_step=True)
            capture.enter_part(part)
            capture.go_below_other_modes()
            self._watch_optimizer_steps()
            self._capture, self._stretch_of = capture, part
            self._stretch_in = method_under_way(self._core)

    def _end_stretch(self) -> None:
        """Keeps what the model's own modules ran up to the backward."""
        capture, part = self._capture, self._stretch_of
        if capture is None or part is None or not capture.is_here():
            return
        self._capture, self._stretch_of = None, None
        if self._way.is_on:
            self._way.end()
            self._take(capture, Worth.BEST, None, None)
            return
        name = next((path for path, m in self._core.named_modules() if m is part), "a module")
        method = self._stretch_in or "loss"
        advice = f'With GraphHook(model, method="{method}") it has the inputs of that method.'
        with self._run.guarded("the recording"):
            recording = capture.finish_at_backward()
            recording.remarks.append(_STRETCH.format(first=name, advice=advice))
            self._keep(recording, Worth.STRETCH)


def _note_copy(hook: GraphHook, model: torch.nn.Module) -> None:
    """Tells the hook of the original that a copy of its model is trained."""
    if is_dynamo_compiling():
        return
    original = _hooks.get(hook._number)
    if original is not None and (model.training or torch.is_grad_enabled()):
        original._copy_ran = True


def _inert(number: int = -1) -> GraphHook:
    """A hook on a copy of a model: it watches nothing, but the original hears that it runs."""
    hook = GraphHook.__new__(GraphHook)
    hook._is_copy, hook._number = True, number
    return hook


def _calls_on_stack(model: torch.nn.Module) -> int:
    """How many calls of a module are under way in this thread."""
    return calls_under_way(model, sys._getframe(1))
