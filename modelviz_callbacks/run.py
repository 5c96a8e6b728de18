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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from modelviz_callbacks.artifacts.events import add_run_graph
from modelviz_callbacks.artifacts.folders import checked_folder, release, take_given, take_new
from modelviz_callbacks.artifacts.maker import Events, Maker, file_name
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.jobs.in_place import InPlace
from modelviz_callbacks.jobs.in_worker import InWorker
from modelviz_callbacks.jobs.queue import QUEUE
from modelviz_callbacks.jobs.unseen import unseen
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report, say
from modelviz_callbacks.tracing import Recording, StepTimer, record_backward, warm_up
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget, find_target

# What TensorBoard's event files are written with; slow to import.
_EVENT_RECORDS = (
    "modelviz_callbacks.writers.graphdef",
    "tensorboard.summary.writer.record_writer",
)


class Run:
    """Records, hands over, waits and reports.

    Attributes:
        report: What was written where, what is missing and why.
        tensorboard: The option, or the run's own writer.
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
        if options.dirpath is None:
            folder = _default_folder(name)
        else:
            folder = checked_folder(Path(options.dirpath))
        self._has_folder = False
        self.report = Report(name, str(folder))
        self.tensorboard = _absolute(options.tensorboard)
        self._maker = Maker(options, folder, self.report)
        self._polls = polls
        self._mlflow_target: MlflowTarget | None = None
        self._recordings: list[InPlace | InWorker] = []
        self._timer: StepTimer | None = None
        self._is_finished = False
        self._process = os.getpid()
        self._why_not_timed = "training ended before it"
        with self.guarded("the preparations"):
            unseen(warm_up)

    # --- set by who knows more about the run

    def write_to(self, folder: Path) -> None:
        """Sets the folder for the files; an option ``dirpath`` goes before."""
        if self.options.dirpath is None:
            self._maker.folder = folder.absolute()
        self.report.folder = str(self._maker.folder)

    def find_mlflow(self, logger_uri: str | None = None, logger_run_id: str | None = None) -> None:
        """Finds out now which MLflow run is meant, in the thread that trains."""
        with self.guarded("the MLflow run"):
            self._mlflow_target = find_target(
                self.options.mlflow, logger_uri=logger_uri, logger_run_id=logger_run_id
            )

    def get_ready(self) -> None:
        """Does now what would take its time in the first step: starts the worker, imports."""
        in_worker = self.options.background
        if in_worker:
            QUEUE.hold(self)
        writes_here = self._has_own_writer or not in_worker
        if self.tensorboard is not False and writes_here and not (in_worker and self._polls):
            unseen(lambda: [importlib.import_module(name) for name in _EVENT_RECORDS])

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

    # --- while training goes on

    def captured(self, recording: Recording) -> None:
        """Takes a recording over: hands it to the worker, or writes what is quick to write."""
        self._take_folder()
        if recording.fault:
            self._maker.refuse("a part of the graph", CaptureError(recording.fault))
        with self.guarded("the backward graph"):
            recording.backward = record_backward(recording)
        if self.tensorboard is not False:
            folder = self._maker.folder
            self._maker.events = Events(folder if self.tensorboard is True else self.tensorboard)
        if self.options.background and self._hand_over(recording):
            return
        place = InPlace(self._maker, self._mlflow_target)
        self._recordings.append(place)
        unseen(lambda: place.begin(recording))

    def _take_folder(self) -> None:
        """Makes the folder this run's own, when it is known that something is written."""
        if self._has_folder:
            return
        self._has_folder = True
        with self.guarded("the folder"):
            wanted = self._maker.folder
            is_given = self.options.dirpath is not None
            self._maker.folder = take_given(wanted, self) if is_given else take_new(wanted)
            self.report.folder = str(self._maker.folder)

    def _hand_over(self, recording: Recording) -> bool:
        worker = InWorker(self._maker, self._mlflow_target, self._has_own_writer, self._polls)
        try:
            worker.begin(recording)
        except Exception as error:
            self._maker.add_remark(
                f"The files were made in the training process: no worker could be started "
                f"({type(error).__name__}: {error})."
            )
            return False
        self._recordings.append(worker)
        if self._has_own_writer and not self._polls:
            # Nobody comes by before the end, and the graph is wanted now.
            unseen(lambda: self._add_run_graph(recording))
        return True

    def _add_run_graph(self, recording: Recording) -> None:
        products = Products(recording, self.options.name, self._maker.refuse)
        if products.lowered is not None:
            with self.guarded("the TensorBoard graph"):
                add_run_graph(self._maker, products.early)

    def timed(self, timer: StepTimer) -> None:
        """Takes over a timer that has run; it is read when that disturbs no step."""
        self._timer = timer
        # Reading it waits for the CUDA stream, which would hold up the steps that follow.
        if self._recordings and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._add_times(self._recordings[0])

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
        if os.getpid() != self._process:
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
        if os.getpid() != self._process:
            return  # a copy that was forked meanwhile; the original does it
        recordings, self._recordings = self._recordings, []
        if not recordings:
            if self._maker.failed is None:
                self._maker.refuse("the graph", CaptureError(f"Nothing was recorded. {if_nothing}"))
            else:
                self._take_folder()
                self._maker.write_report()
        else:
            self._add_times(recordings[0])
        for recording in recordings:
            with self.guarded("the files"):
                unseen(partial(recording.finish, is_patient))
        QUEUE.let_go(self)
        release(self)
        self._tell(may_raise)

    def _add_times(self, recording: InPlace | InWorker) -> None:
        number = self.options.profile_step
        if number is None:
            return
        if self._timer is None:
            if self._why_not_timed:
                self._maker.add_remark(f"Step {number} was not timed: {self._why_not_timed}.")
            return
        timer, self._timer = self._timer, None
        self._why_not_timed = ""
        with self.guarded("the times"):
            recording.add_times(timer.finish())

    def _tell(self, may_raise: bool) -> None:
        if any(name != "report.json" for name in self.report.files):
            say(self.report.summary())
        self.report.warn()
        failed = self._maker.failed
        if may_raise and failed is not None and self.options.on_error == "raise":
            raise failed


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
