"""One training run: its recordings, what is made of them, where it goes.

Every integration makes one, tells it where the run keeps its things, hands it what was recorded
and says when training has ended. Where the slow work is done is decided here: by the worker, or
in place; nothing else is.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from modelviz_callbacks.artifacts.changes import branches_seen
from modelviz_callbacks.artifacts.continued import changes_since, report_in
from modelviz_callbacks.artifacts.events import add_run_graph
from modelviz_callbacks.artifacts.folders import (
    checked_folder,
    folder_within,
    release,
    take_given,
    take_new,
)
from modelviz_callbacks.artifacts.maker import Events, Maker, file_name
from modelviz_callbacks.artifacts.nonfinite import write_nonfinite
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.errors import CaptureError, OptionError
from modelviz_callbacks.jobs.in_place import InPlace
from modelviz_callbacks.jobs.in_worker import InWorker
from modelviz_callbacks.jobs.live_upload import log_to
from modelviz_callbacks.jobs.queue import QUEUE
from modelviz_callbacks.jobs.unseen import unseen
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report, say
from modelviz_callbacks.tracing import (
    InspectedStep,
    Measured,
    Nonfinite,
    OptimizerMemory,
    Recording,
    StepTimer,
    record_backward,
    warm_up,
)
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget, find_target
from modelviz_callbacks.trackers.registry import kind_of, live_runs

# What TensorBoard's event files are written with; slow to import.
_EVENT_WRITER = "modelviz_callbacks.writers.graphdef"


class Run:
    """Records, hands over, waits and reports.

    Attributes:
        report: What was written where, what is missing and why.
        tensorboard: The option, or the run's own writer.
        is_continued: Whether it goes on with a training that was recorded before (a second fit, a
            checkpoint): the same graph is not written again beside the first.
        has_stages: Whether more than one recording is wanted: what shows all is made last.
        when_recorded: Called with the run's own recording, if anybody waits for it.
    """

    def __init__(self, options: Options, class_name: str, polls: bool = False) -> None:
        """Nothing is written yet.

        Args:
            options: What to write, and where.
            class_name: What to call the graph if the options do not say.
            polls: Whether `poll` will be called while training goes on.

        Raises:
            OptionError: No folder can be where the options say.
        """
        self.options = options
        name = options.name or class_name
        self._has_given_folder = options.dirpath is not None and not _is_url(options.dirpath)
        if self._has_given_folder:
            folder = folder_within(checked_folder(Path(options.dirpath or "")))
        else:
            folder = _default_folder(name)
        self._has_folder = False
        self._wanted_folder = folder
        self.report = Report(name, str(folder))
        self.tensorboard = _absolute(options.tensorboard)
        self.is_continued = False
        self.has_stages = False
        self.when_recorded: Callable[[Recording], None] | None = None
        self._is_kept = False
        self._maker = Maker(options, folder, self.report)
        self._polls = polls
        self._mlflow_targets: list[MlflowTarget] = []
        self._live = _live_of(options)
        self._recordings: list[InPlace | InWorker] = []
        self._recorded: set[str] = set()
        self._timer: StepTimer | None = None
        self._optimizers: OptimizerMemory | None = None
        self._optimizer_bytes: Mapping[str, int] = {}
        self._is_news = False
        self._inspected: list[InspectedStep] = []
        self._early_targets: list[MlflowTarget] = []
        self._is_finished = False
        self._process = os.getpid()
        self._why_not_timed = "training ended before it"
        with self.guarded("the preparations"):
            unseen(warm_up)

    # --- set by who knows more about the run

    def write_to(self, folder: Path) -> None:
        """Sets the folder for the files; an option ``dirpath`` goes before."""
        if not self._has_given_folder:
            self._maker.folder = self._wanted_folder = folder.absolute()
        self.report.folder = str(self._maker.folder)

    def follow(self, earlier: Run | None) -> None:
        """Goes on with an earlier run of a callback, if that was to write to the same folder.

        Args:
            earlier: It; ``None``: there is none.
        """
        if earlier is not None and earlier._wanted_folder == self._wanted_folder:
            self.is_continued = True
            self._maker.folder = earlier.folder
            self.report.folder = str(earlier.folder)

    @property
    def folder(self) -> Path:
        """Where the files are, or will be."""
        return self._maker.folder

    def find_mlflow(self, of_loggers: Sequence[tuple[str | None, str]] = ()) -> None:
        """Finds out now which MLflow runs are meant, in the thread that trains.

        Args:
            of_loggers: Store and run of each logger that has one; else it is the active run.
        """
        known: Sequence[tuple[str | None, str | None]] = of_loggers or [(None, None)]
        for uri, run_id in known:
            with self.guarded("the MLflow run"):
                target = find_target(self.options.mlflow, logger_uri=uri, logger_run_id=run_id)
                if target is not None and target not in self._mlflow_targets:
                    self._mlflow_targets.append(target)

    def add_live(self, run: Any) -> None:
        """Names a run of this process (of W&B, of ClearML) that gets the files at the end."""
        if self.options.tracker is True and all(run is not known for known in self._live):
            self._live.append(run)

    def add_remote_folder(self, url: str) -> None:
        """Names a folder that fsspec knows; it gets the files at the end, unless one is given."""
        if self.options.dirpath is None and url not in self._live:
            self._live.append(url)

    def _look_around(self) -> None:
        """Looks for runs that were begun after the hook was made."""
        if not self._mlflow_targets:
            self.find_mlflow()
        if all(isinstance(known, str) for known in self._live):
            for run in live_runs():
                self.add_live(run)

    def get_ready(self) -> None:
        """Does now what would take its time in the first step: starts the worker, imports."""
        in_worker = self.options.background
        if in_worker:
            QUEUE.hold(self)
        writes_here = self._has_own_writer or not in_worker
        if self.tensorboard is not False and writes_here and not (in_worker and self._polls):
            with contextlib.suppress(ImportError):  # said when the events are to be written
                unseen(lambda: importlib.import_module(_EVENT_WRITER))

    @property
    def keeps_state(self) -> bool:
        """Whether a recording has to keep the model's state as it was before it."""
        return self.options.onnx_weights

    @property
    def keeps_inputs(self) -> bool:
        """Whether a recording has to keep the values of what goes into the model."""
        return self.options.trained_onnx

    def step_aside(self) -> None:
        """Gives up what was made ready: another process records."""
        QUEUE.let_go(self)

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turns any failure into a line of the report: nothing here ends a run."""
        with self._maker.guarded(what):
            yield

    @property
    def is_finished(self) -> bool:
        """Whether everything was written that will be."""
        return self._is_finished

    @property
    def is_forked_copy(self) -> bool:
        """Whether this process was forked from the run's own, which goes on with it."""
        return os.getpid() != self._process

    @property
    def has_recordings(self) -> bool:
        """Whether there is something to make files of."""
        return bool(self._recordings)

    # --- while training goes on

    def captured(self, recording: Recording, stage: str = "") -> None:
        """Takes a recording over: hands it to the worker, or writes what is quick to write.

        Args:
            recording: What a capture gave.
            stage: Which further recording of the run it is; ``""``: the run's own.
        """
        if self.when_recorded is not None and not stage:
            with self.guarded("the search for NaN"):
                self.when_recorded(recording)
        self._look_around()
        if self.is_continued and self._keeps_the_first(recording, stage):
            return
        self._take_folder()
        maker = self._maker.for_stage(stage) if stage else self._maker
        if recording.fault:
            maker.refuse("a part of the graph", CaptureError(recording.fault))
        with self.guarded("the backward graph"):
            recording.backward = record_backward(recording)
        if self.tensorboard is not False:
            maker.events = Events(maker.folder if self.tensorboard is True else self.tensorboard)
        if not self.options.background or not self._hand_over(recording, maker):
            # What is made in place is sent at the end, all of it at once.
            place = InPlace(maker, None if stage else self._take_first_target())
            self._keep(place, stage)
            unseen(lambda: place.begin(recording))
        if not (stage or recording.fault or recording.is_partial):
            with self.guarded("the memory of optimizers"):
                self._optimizers = OptimizerMemory(recording.model, self._know_optimizers)

    def _keep(self, place: InPlace | InWorker, stage: str) -> None:
        """The run's own recording stands before those of other stages."""
        self._recordings.insert(len(self._recordings) if stage else 0, place)
        self._recorded.add(stage)

    def _keeps_the_first(self, recording: Recording, stage: str) -> bool:
        """Whether what was recorded is in this run already; if not, in what it differs is said."""
        folder, changes = self._maker.folder, None
        earlier = report_in(folder)
        options = self.options
        is_asked_for_more = options.trained_onnx or bool(options.steps_to_inspect)
        is_asked_for_more |= options.watch_changes is not None
        if earlier is None or is_asked_for_more or not self._is_of(earlier):
            return False
        with self.guarded("the comparison with the graph before"):
            changes = changes_since(folder, recording, self.options.name, stage)
        for sentence in changes or ():
            self.remark(sentence)
        if changes != []:
            return False
        if not self._is_kept:
            self.report.add(earlier)
        self.remark("The graph is the one that was there already; nothing was written again.")
        self._is_kept = True
        return True

    def _is_of(self, earlier: Report) -> bool:
        """Whether the places of an earlier recording are those of this run."""
        runs = {target.run_id for target in self._mlflow_targets}
        if self._live or (runs and runs != {earlier.mlflow_run_id}):
            return False
        if not self._has_own_writer:
            return True
        log_dir = str(getattr(self.tensorboard, "get_logdir", str)())
        return bool(log_dir) and any(place.endswith(log_dir) for place in earlier.stored)

    def _take_folder(self) -> None:
        """Makes the folder this run's own, when it is known that something is written."""
        if self._has_folder:
            return
        self._has_folder = True
        with self.guarded("the folder"):
            wanted = self._wanted_folder
            is_given = self._has_given_folder
            self._maker.folder = take_given(wanted, self) if is_given else take_new(wanted)
            self.report.folder = str(self._maker.folder)

    def _take_first_target(self) -> MlflowTarget | None:
        """The MLflow run that gets files as soon as they are made; the others get them later."""
        self._early_targets = self._mlflow_targets[:1]
        return self._early_targets[0] if self._early_targets else None

    def _hand_over(self, recording: Recording, maker: Maker) -> bool:
        worker = InWorker(maker, self._take_first_target(), self._has_own_writer, self._polls)
        try:
            worker.begin(recording)
        except Exception as error:
            self._maker.add_remark(
                f"The files were made in the training process: no worker could be started "
                f"({type(error).__name__}: {error})."
            )
            return False
        self._keep(worker, maker.stage)
        if self._has_own_writer and not self._polls and not maker.stage:
            # Nobody comes by before the end, and the graph is wanted now.
            unseen(lambda: self._add_run_graph(recording))
        return True

    def _add_run_graph(self, recording: Recording) -> None:
        products = Products(recording, self.options.name, self._maker.refuse)
        if products.lowered is not None:
            with self.guarded("the TensorBoard graph"):
                add_run_graph(self._maker, products.early)

    def _know_optimizers(self, sizes: Mapping[str, int]) -> None:
        """An optimizer has made its first step: what it keeps is shown with all the rest."""
        if self.is_forked_copy or not self._recordings or not any(sizes.values()):
            return
        with self.guarded("the memory of optimizers"):
            self._optimizer_bytes = sizes
            self._is_news = not self._recordings[0].know(Measured(optimizer_bytes=sizes))
        if self._is_news and not self._is_finished:
            self._add_measured_early()

    def timed(self, timer: StepTimer) -> None:
        """Takes over a timer that has run; it is read when that disturbs no step."""
        self._timer = timer
        self._add_measured_early()

    def inspected(self, step: InspectedStep) -> None:
        """Takes over what was seen in a step that was looked into."""
        self._inspected.append(step)
        self._add_measured_early()

    def recorded_again(self, recording: Recording, step: int) -> None:
        """Takes over a later step that was recorded, to see whether the graph has changed.

        Args:
            recording: What a capture gave.
            step: The step's number.
        """
        if self._recordings and not self.is_forked_copy:
            self._recordings[0].add_step(recording, step)

    def found_nonfinite(self, step: int, found: Nonfinite, recording: Recording) -> None:
        """Tells what made the first number that is not finite: a line, the report, files.

        Args:
            step: Number of the step; 0 was recorded.
            found: What was found.
            recording: What it was found in.
        """
        if self.is_forked_copy:
            return  # a copy that was forked meanwhile
        line = f"The loss of step {step} was not finite: {found}"
        if found.kind == "gradient":
            line = f"The loss of step {step} was finite, its gradients were not: {found}"
        place: Path | None = None
        with self.guarded("nonfinite.json"):
            self._take_folder()
            place = write_nonfinite(self._maker, step, found, recording)
        self.remark(line)
        say(f"modelviz: {line}" + (f" See {place}." if place is not None else ""))

    def _add_measured_early(self) -> None:
        """Hands on what was measured as soon as that is all that was asked for."""
        options = self.options
        if self.is_forked_copy or len(self._inspected) < len(options.steps_to_inspect):
            return
        if options.profile_step is not None and self._timer is None:
            return
        # Reading a timer waits for the CUDA stream, which would hold up the steps that follow.
        is_early = bool(self._recordings) and not self.has_stages
        if is_early and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._add_measured(self._recordings[0])

    def remark(self, sentence: str) -> None:
        """Puts into the report what a person should know about the recording."""
        self._maker.add_remark(sentence)

    def not_timed(self, reason: str) -> None:
        """Says why the step that `Options.profile_step` names is not timed."""
        self._why_not_timed = reason

    def poll(self) -> bool:
        """Adds what the worker has left for the run's own TensorBoard writer, if it is there.

        Returns:
            Whether nothing more is to be expected.
        """
        if self.is_forked_copy:
            return True
        outcomes = [recording.poll() for recording in self._recordings]
        return all(outcomes)

    @property
    def _has_own_writer(self) -> bool:
        """Whether the events belong into a writer of this process."""
        return not isinstance(self.tensorboard, (bool, str, PathLike))

    # --- the end

    def finish(self, if_nothing: str, may_raise: bool = True, is_patient: bool = True) -> None:
        """Makes what is slow or waits for the worker that does, and ends the report.

        Args:
            if_nothing: What to say if there is no recording.
            may_raise: Whether nothing else is being raised.
            is_patient: Whether there is time to wait for anything.

        Raises:
            Exception: What failed first, if ``on_error`` is ``"raise"`` and ``may_raise``.
        """
        self._is_finished = True
        if self._optimizers is not None:
            with self.guarded("the memory of optimizers"):
                self._optimizers.close()
        if self.is_forked_copy:
            return  # a copy that was forked meanwhile; the original does it
        recordings, self._recordings = self._recordings, []
        if "" not in self._recorded and not self._is_kept:
            if self._maker.failed is None:
                self._maker.refuse("the graph", CaptureError(f"Nothing was recorded. {if_nothing}"))
            else:
                self._take_folder()
                self._maker.write_report()
        if recordings:
            self._look_around()
            self._add_measured(recordings[0])
        late = [target for target in self._mlflow_targets if target not in self._early_targets]
        for recording in reversed(recordings):
            more = late if recording is recordings[0] else []
            with self.guarded("the files"):
                unseen(partial(recording.finish, is_patient, more))
        if self.options.watch_changes is not None and "report.json" in self.report.files:
            for sentence in branches_seen(self.folder):
                self.remark(sentence)
            self._maker.write_report()
        if recordings and is_patient:
            self._log_live()
        QUEUE.let_go(self)
        release(self)
        self._tell(may_raise)

    def _log_live(self) -> None:
        """Gives the files to the runs that belong to this process."""
        for run in self._live:
            with self.guarded("the tracker"):
                log_to(run, self.report)
        if self._live and "report.json" in self.report.files:
            self._maker.write_report()

    def _add_measured(self, recording: InPlace | InWorker) -> None:
        number = self.options.profile_step
        if number is not None and self._timer is None and self._why_not_timed:
            self._maker.add_remark(f"Step {number} was not timed: {self._why_not_timed}.")
        timer, self._timer = self._timer, None
        inspected, self._inspected = tuple(self._inspected), []
        if timer is None and not inspected and not self._is_news:
            return
        self._why_not_timed, self._is_news = "", False
        with self.guarded("what was measured"):
            timed = None if timer is None else timer.finish()
            recording.add_measured(Measured(timed, inspected, self._optimizer_bytes))

    def _tell(self, may_raise: bool) -> None:
        if any(name != "report.json" for name in self.report.files):
            say(self.report.summary())
        self.report.warn()
        failures = self._maker.failures
        if may_raise and failures and self.options.on_error == "raise":
            raise failures[0]


def _live_of(options: Options) -> list[Any]:
    """The runs and functions that the options name."""
    given = options.tracker
    remote = [str(options.dirpath)] if _is_url(options.dirpath) else []
    if isinstance(given, bool):
        return remote
    named = list(given) if isinstance(given, (list, tuple)) else [given]
    for one in named:
        if kind_of(one) is None:
            raise OptionError(
                f"Option tracker has a {type(one).__name__}: give a W&B run, a ClearML task, or a "
                "function of (files, figures)."
            )
    return [*named, *remote]


def _is_url(path: object) -> bool:
    return isinstance(path, str) and "://" in path


def _default_folder(name: str) -> Path:
    """A folder below the working directory, which may change before the end, or be gone."""
    below = Path("model_graph") / file_name(name)
    try:
        return below.absolute()
    except OSError:
        return Path(tempfile.gettempdir()) / below


def _absolute(target: Any) -> Any:
    """A local directory as it is called from anywhere; anything else as it is."""
    if isinstance(target, (str, PathLike)) and "://" not in str(target):
        with contextlib.suppress(OSError):
            return str(Path(target).absolute())
    return target
