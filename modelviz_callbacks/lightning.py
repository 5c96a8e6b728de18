"""``Trainer(callbacks=[GraphLogger()])``: translates the trainer's events; no graph logic."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from modelviz_callbacks.options import FORMATS, Direction, Format, make_options
from modelviz_callbacks.ranks import is_recording_rank
from modelviz_callbacks.report import Report
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import Capture, StepTimer, open_writer, tracking_uri

_NEVER = (
    "No training batch ran to the point where training_step is called. If the loader is empty "
    "or on_train_batch_start skips every batch, there is nothing to record."
)


class GraphLogger(pl.Callback):
    """Records the first training batch of a fit, whatever the LightningModule looks like.

    What is recorded is one ``training_step``: every module it calls, its own ops and the loss.
    Nothing needs ``example_input_array`` or a ``forward``. A TensorBoardLogger's run and an
    MLFlowLogger's run get the graph; the files are in ``<log dir>/model_graph/`` in any case.

    Example:
        >>> trainer = Trainer(callbacks=[GraphLogger()])
        >>> trainer.fit(lightning_module, loader)
        modelviz: ...
    """

    def __init__(
        self,
        dirpath: str | PathLike[str] | None = None,
        name: str | None = None,
        tensorboard: bool | str | Any = True,
        mlflow: bool | str | None = None,
        onnx: bool = True,
        onnx_weights: bool = False,
        trained_onnx: bool = False,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        formats: Sequence[Format] = FORMATS,
        depth: int | None = None,
        fold_classes: Sequence[str] = (),
        hide_classes: Sequence[str] = (),
        rename_classes: Mapping[str, str] | None = None,
        label_facts: Mapping[str, str] | None = None,
        direction: Direction = "auto",
        profile_step: int | None = None,
        background: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        """Nothing happens before the first training batch.

        Args:
            dirpath: See ``modelviz_callbacks.options.Options`` for this and the others.
            name: What the graph is called.
            tensorboard: Whether and where to write the TensorBoard graph.
            mlflow: Whether and to which run to log.
            onnx: Whether to write ``graph.onnx``.
            onnx_weights: Whether to put weights into it.
            trained_onnx: Whether to write and check ``model.onnx`` at the end.
            input_names: Names for the model's inputs in ONNX.
            output_names: Names for its outputs.
            formats: Which pictures and texts to write.
            depth: How many levels of modules the pictures open.
            fold_classes: Classes that the pictures never open.
            hide_classes: Classes and ops that the pictures leave out.
            rename_classes: What the pictures call classes and ops.
            label_facts: How labels tell attributes of modules.
            direction: Which way the pictures run.
            profile_step: Which training step to time.
            background: Whether slow work is done in a process of its own.
            on_error: ``"warn"`` or ``"raise"``.

        Raises:
            OptionError: A value has a wrong type or is impossible.
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self._options = make_options(**given)
        self._run: Run | None = None
        self._restore: Callable[[], None] | None = None
        self._waiting = True
        self._polling = False
        self._steps_to_timing: int | None = None

    @property
    def report(self) -> Report | None:
        """What was written where, what was refused and why; ``None`` before a fit.

        Example:
            >>> graph_logger = GraphLogger(formats=["text"])
            >>> Trainer(callbacks=[graph_logger]).fit(lightning_module, loader)
            modelviz: ...
            >>> "graph.txt" in graph_logger.report.files
            True
        """
        return self._run.report if self._run is not None else None

    # --- the trainer's events

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the run's loggers; only rank zero takes part, and no run that leaves no trace."""
        is_trial = bool(getattr(trainer, "fast_dev_run", False)) or trainer.barebones
        self._waiting = trainer.is_global_zero and is_recording_rank() and not is_trial
        self._run = None
        self._steps_to_timing = self._options.profile_step
        if self._waiting:
            run = self._run = Run(self._options, type(pl_module).__name__, polls=True)
            with run.guarded("the loggers"):
                _connect(run, trainer)
            with run.guarded("the preparations"):
                run.get_ready()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Puts the recording around the first batch's training step, the timer around another."""
        run = self._run
        if run is None or self._restore is not None or run.is_finished:
            return
        if self._waiting:
            self._wrap(pl_module, functools.partial(_record, run, pl_module))
        elif self._steps_to_timing is not None:
            self._steps_to_timing -= 1
            if self._steps_to_timing == 0:
                self._steps_to_timing = None
                self._wrap(pl_module, functools.partial(_time, run, pl_module))

    def _wrap(self, module: pl.LightningModule, around: _Around) -> None:
        def once(*call: Any) -> Any:
            self._disarm()
            return around(*call)

        self._restore = _wrap_training_step(module, once)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Puts what the worker has made for TensorBoard into the run, once it is there."""
        if self._polling and self._run is not None:
            self._polling = not self._run.poll()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keeps what was captured when the run ends by an exception, which goes on untouched."""
        self._finish(may_raise=False, patient=isinstance(exception, Exception))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what is slow, with the trained weights at hand."""
        self._finish()

    # --- how

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for another run: what belongs to this one stays behind.
        return {
            **vars(self),
            "_run": None,
            "_restore": None,
            "_waiting": True,
            "_polling": False,
        }

    def _disarm(self) -> None:
        self._polling = self._polling or self._waiting
        self._waiting = False
        if self._restore is not None:
            self._restore()
            self._restore = None

    def _finish(self, may_raise: bool = True, patient: bool = True) -> None:
        self._disarm()
        run = self._run
        if run is not None and not run.is_finished:
            run.finish(_NEVER, may_raise, patient)


# Around one call of a training step: gets the step, its arguments, and gives its result.
_Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _wrap_training_step(module: pl.LightningModule, around: _Around) -> Callable[[], None]:
    """Puts something around the next call of a training step.

    The step itself is what is wrapped, rather than the events around it: so a recording ends
    where the step ends, before the trainer scales the loss, and a step of manual optimisation
    is seen whole.

    Args:
        module: Its ``training_step`` is replaced on the object until undone.
        around: Called once, in the place of the step.

    Returns:
        Undoes it.
    """
    inner = module.training_step
    tried = False
    had_own = "training_step" in vars(module)

    @functools.wraps(inner)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal tried
        if tried:
            return inner(*args, **kwargs)
        tried = True
        return around(inner, args, kwargs)

    def restore() -> None:
        if had_own:
            module.training_step = inner  # type: ignore[method-assign]
        else:
            vars(module).pop("training_step", None)

    module.training_step = training_step  # type: ignore[method-assign]
    return restore


def _record(
    run: Run,
    module: pl.LightningModule,
    inner: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs a training step and records it."""
    capture: Capture | None = None
    with run.guarded("the recording"):
        starting = Capture(module, keeps_state=run.keeps_state, keeps_inputs=run.keeps_inputs)
        starting.start(args, kwargs, inspect.signature(inner))
        capture = starting
    if capture is None:
        return inner(*args, **kwargs)
    try:
        result = inner(*args, **kwargs)
    except BaseException as error:
        with run.guarded("the recording"):
            capture.stop()
            run.captured(capture.abandon(error))
        raise
    with run.guarded("the recording"):
        capture.stop()
        run.captured(capture.finish(result))
    return result


def _time(
    run: Run,
    module: pl.LightningModule,
    inner: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs a training step and times its ops."""
    timer: StepTimer | None = None
    with run.guarded("the times"):
        starting = StepTimer(module)
        starting.start()
        timer = starting
    try:
        return inner(*args, **kwargs)
    finally:
        if timer is not None:
            with run.guarded("the times"):
                timer.stop()
                run.timed(timer)


class _Writers:
    """Several SummaryWriters as one: what comes goes to all of them."""

    def __init__(self, writers: Sequence[Any]) -> None:
        self._writers = writers

    def get_logdir(self) -> str:
        """The folder around those of all."""
        return os.path.commonpath([Path(one.get_logdir()).absolute() for one in self._writers])

    def add_event(self, event: Any) -> None:
        """Writes an event."""
        self._each(lambda file: file.add_event(event))

    def flush(self) -> None:
        """Makes what was written visible."""
        self._each(lambda file: file.flush())

    def _each(self, act: Callable[[Any], object]) -> None:
        """Does something with every file, then raises what failed first."""
        failed: list[Exception] = []
        for writer in self._writers:
            if writer.file_writer is None:
                continue  # closed; it would begin another file
            try:
                act(writer.file_writer)
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]


def _is_a(logger: object, name: str) -> bool:
    """Whether a logger is of a class by its name: Lightning comes as two packages."""
    return any(
        kind.__name__ == name
        and kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(logger).__mro__
    )


def _connect(run: Run, trainer: pl.Trainer) -> None:
    """Points the run at the run's own folder, TensorBoard writer and MLflow run.

    ``trainer.log_dir`` is not used: it asks the other ranks.
    """
    folder: Path | None = None
    writers: list[Any] = []
    loggers: list[Any] = trainer.loggers
    for logger in loggers:
        log_dir = getattr(logger, "log_dir", None)
        if folder is None and log_dir and "://" not in str(log_dir):  # files stay here
            folder = Path(log_dir)
        if _is_a(logger, "TensorBoardLogger") and run.tensorboard is True:
            writers.append(logger.experiment)
            # After an earlier fit the writer is closed, and is opened again by the next scalar.
            # Opening it now puts the graph into that same file.
            open_writer(logger.experiment)
    if writers:
        run.tensorboard = writers[0] if len(writers) == 1 else _Writers(writers)
    run.write_to((folder or Path(trainer.default_root_dir)) / "model_graph")
    for logger in loggers:
        if _is_a(logger, "MLFlowLogger"):
            # The run is made now, as the trainer would a moment later.
            uri, run_id = tracking_uri(logger), logger.run_id
            run.find_mlflow(uri, run_id)
            return
    run.find_mlflow()
