"""``Trainer(callbacks=[GraphLogger()])``: translates the trainer's events; no graph logic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.loggers import connect
from modelviz_callbacks.options import FORMATS, Direction, Format, make_options
from modelviz_callbacks.ranks import is_recording_rank
from modelviz_callbacks.report import Report
from modelviz_callbacks.report_mailbox import ReportMailbox
from modelviz_callbacks.run import Run
from modelviz_callbacks.watching.training_step import TrainingSteps

_NEVER = (
    "No batch ran to the point where {step} is called. If the loader is empty or {event} skips "
    "every batch, there is nothing to record. To record something else than {step}: trace(model, "
    "*inputs), or GraphHook(model, method=...) around it."
)

Stage = Literal["train", "validate", "test", "predict"]

_STEP_OF: dict[str, str] = {
    "train": "training_step",
    "validate": "validation_step",
    "test": "test_step",
    "predict": "predict_step",
}

_EVENT_OF: dict[str, str] = {
    "train": "on_train_batch_start",
    "validate": "on_validation_batch_start",
    "test": "on_test_batch_start",
    "predict": "on_predict_batch_start",
}


# Which stages each of the trainer's functions runs.
_STAGES_OF: dict[str, tuple[Stage, ...]] = {
    "fit": ("train", "validate"),
    "validate": ("validate",),
    "test": ("test",),
    "predict": ("predict",),
}


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
        tracker: Any = True,
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
        inspect_step: int | Sequence[int] | None = None,
        watch_changes: int | None = None,
        find_nonfinite: bool = False,
        background: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        stage: Stage | Sequence[Stage] = "train",
    ) -> None:
        """Nothing happens before the first training batch.

        Args:
            dirpath: See ``modelviz_callbacks.options.Options`` for this and the others.
            name: What the graph is called.
            tensorboard: Whether and where to write the TensorBoard graph.
            mlflow: Whether and to which run to log.
            tracker: Which W&B run, ClearML task or function of yours gets the files.
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
            inspect_step: In which training steps to look at outputs, gradients and updates.
            watch_changes: After how many training steps to look whether the graph has changed.
            find_nonfinite: Whether a step whose loss is not finite is examined.
            background: Whether slow work is done in a process of its own.
            on_error: ``"warn"`` or ``"raise"``.
            stage: Which step is recorded, the first time it runs outside of a sanity check: that of
                ``"train"``, ``"validate"``, ``"test"`` or ``"predict"``. Of several the first is
                the run's graph; the files of the others begin with their stage
                (``validate.graph.svg``), and one ``index.html`` shows them all.

        Raises:
            OptionError: A value has a wrong type or is impossible.
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self._stages = _checked(given.pop("stage"))
        self._options = make_options(**given)
        self._run: Run | None = None
        self._steps: dict[str, TrainingSteps] = {}
        self._folder: Path | None = None
        self._mailbox = ReportMailbox()
        self._collected: Report | None = None

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
        if self._run is not None:
            return self._run.report
        # Where the trainer has started processes for the training, it is in one of them.
        self._collected = self._mailbox.collect() or self._collected
        return self._collected

    # --- the trainer's events

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the run's loggers, unless a stage without a fit is meant."""
        if {"train", "validate"} & {*self._stages}:
            self._begin(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise for ``trainer.validate``."""
        if "validate" in self._stages and trainer.state.fn == "validate":
            self._begin(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise for ``trainer.test``."""
        if "test" in self._stages:
            self._begin(trainer, pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise for ``trainer.predict``."""
        if "predict" in self._stages:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Only rank zero takes part, and no run that leaves no trace."""
        is_trial = bool(getattr(trainer, "fast_dev_run", False)) or trainer.barebones
        self._run, self._steps = None, {}
        if is_trial or not trainer.is_global_zero or not is_recording_rank():
            return
        self._run = run = Run(self._options, type(pl_module).__name__, polls=True)
        stages = _stages_of(trainer, self._stages)
        run.has_stages = len(stages) > 1
        self._steps = {
            stage: TrainingSteps(run, stage="" if stage == stages[0] else stage, tells_update=True)
            for stage in stages
        }
        with run.guarded("the loggers"):
            # ``trainer.log_dir`` is not used: it asks the other ranks.
            connect(run, trainer.loggers, Path(trainer.default_root_dir))
            run.is_continued = trainer.ckpt_path is not None or run.folder == self._folder
            self._folder = run.folder
        with run.guarded("the preparations"):
            run.get_ready()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Puts the recording around the first batch's training step, the timer around another."""
        self._before("train", trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any, **more: Any
    ) -> None:
        """Likewise for a batch of validation."""
        self._before("validate", trainer, pl_module)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any, **more: Any
    ) -> None:
        """Likewise for a batch of a test."""
        self._before("test", trainer, pl_module)

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any, **more: Any
    ) -> None:
        """Likewise for a batch of a prediction."""
        self._before("predict", trainer, pl_module)

    def _before(self, stage: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if stage in self._steps and not trainer.sanity_checking:
            self._steps[stage].before(pl_module, _STEP_OF[stage], pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Puts what the worker has made for TensorBoard into the run, once it is there."""
        for steps in self._steps.values():
            steps.after()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Has a step examined whose loss is not finite, before it changes weights."""
        for steps in self._steps.values():
            steps.before_update()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keeps what was captured when the run ends by an exception, which goes on untouched."""
        self._finish(may_raise=False, patient=isinstance(exception, Exception))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what is slow, with the trained weights at hand."""
        self._finish()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise after ``trainer.validate``; within a fit the fit goes on."""
        if "validate" in self._stages and trainer.state.fn == "validate":
            self._finish()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise after ``trainer.test``."""
        if "test" in self._stages:
            self._finish()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise after ``trainer.predict``."""
        if "predict" in self._stages:
            self._finish()

    # --- how

    def __getstate__(self) -> dict[str, Any]:
        # A copy is for another run: what belongs to this one stays behind.
        own = dict.fromkeys(("_run", "_folder", "_collected"))
        return {**vars(self), **own, "_steps": {}}

    def _finish(self, may_raise: bool = True, patient: bool = True) -> None:
        if self._run is None:
            return
        try:
            first, *others = self._steps
            for stage in others:
                self._steps[stage].end()
            why = _NEVER.format(step=_STEP_OF[first], event=_EVENT_OF[first])
            self._steps[first].finish(why, may_raise, patient)
        finally:
            self._mailbox.leave(self._run.report)


def _checked(given: Stage | Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages, in order; the first is the run's own."""
    stages = (given,) if isinstance(given, str) else tuple(given)
    if not stages or len({*stages}) < len(stages) or not {*stages} <= {*_STEP_OF}:
        raise OptionError(f"stage={given!r}: give one or several of {', '.join(_STEP_OF)}.")
    return stages


def _stages_of(trainer: pl.Trainer, wanted: Sequence[Stage]) -> tuple[Stage, ...]:
    """Those of the wanted stages that what the trainer was called for runs."""
    ran = _STAGES_OF.get(str(getattr(trainer.state.fn, "value", trainer.state.fn)), wanted)
    return tuple(stage for stage in wanted if stage in ran)
