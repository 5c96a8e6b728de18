"""From a recording to everything that is made of it: options in, report out.

In the training process, where it decides what is made where. With a worker (``background=True``)
the recording is packed, handed over and forgotten; when training ends the worker is waited for.
Without one, what is quick is written as soon as there is a recording, the rest at the end.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from modelviz_callbacks.artifacts.products import Production, file_name
from modelviz_callbacks.artifacts.tracking import publish
from modelviz_callbacks.errors import CaptureError, WorkerError
from modelviz_callbacks.jobs.idle_worker import Standby
from modelviz_callbacks.jobs.job_directory import STAGED, Job
from modelviz_callbacks.jobs.worker_process import Worker
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report, say
from modelviz_callbacks.tracing import (
    Recording,
    StepTimer,
    pack,
    record_backward,
    unpack,
    warm_up,
)
from modelviz_callbacks.trackers.mlflow_target import MlflowTarget, find_target
from modelviz_callbacks.trackers.tensorboard import TensorBoardSink, staged

# How long the end of training waits for a worker, in seconds; after that it goes on alone.
WAIT_LIMIT_S = 60.0

# How long the end of training may wait for an MLflow server where there is no worker, in seconds.
_MLFLOW_LIMIT_S = 30.0

# A worker that starts takes memory and caches from the step that has just called it, on whatever
# core: it waits for what the backward and the optimizer take, in times of the forward's.
_REST_OF_A_STEP = 3.0
_LONGEST_REST_S = 10.0

# What TensorBoard's event files are written with; slow to import.
_EVENT_RECORDS = (
    "modelviz_callbacks.writers.graphdef",
    "tensorboard.summary.writer.record_writer",
)


class Pipeline:
    """One capture's way to its files and destinations.

    Attributes:
        report: What was written where, what was refused and why.
        tensorboard: The option, or the run's own writer.
    """

    def __init__(self, options: Options, class_name: str, polls: bool = False) -> None:
        """Nothing is written yet.

        Args:
            options: What to write, and where.
            class_name: What to call the graph if the options do not say.
            polls: Whether `poll` will be called while training goes on.
        """
        self.options = options
        name = options.name or class_name
        folder = Path(options.dirpath or Path("model_graph") / file_name(name))
        with contextlib.suppress(OSError):
            folder = folder.absolute()  # the working directory may change before the end
        self.report = Report(name, str(folder))
        self.tensorboard = _absolute(options.tensorboard)
        self._production = Production(options, folder, self.report)
        self._polls = polls
        self._mlflow_target: MlflowTarget | None = None
        self._recording: Recording | None = None
        self._weighted: Recording | None = None
        self._standby = Standby()
        self._worker: Worker | None = None
        self._has_events = False
        self._timer: StepTimer | None = None
        self._finished = False
        self._process = os.getpid()
        self._why_not_timed = "training ended before it"
        with self.guarded("the preparations"):
            warm_up()

    # --- set by who knows more about the run

    def write_to(self, folder: Path) -> None:
        """Sets the folder for the files; an option ``dirpath`` goes before."""
        if self.options.dirpath is None:
            self._production.folder = folder.absolute()
        self.report.folder = str(self._production.folder)

    def find_mlflow(self, logger_uri: str | None = None, logger_run_id: str | None = None) -> None:
        """Finds out now which MLflow run is meant, in the thread that trains."""
        with self.guarded("the MLflow run"):
            self._mlflow_target = find_target(
                self.options.mlflow, logger_uri=logger_uri, logger_run_id=logger_run_id
            )

    def get_ready(self) -> None:
        """Does now what would take its time in the first step: starts the worker, imports."""
        if self.options.background:
            self._standby.start(self._mlflow_target)
        if self._writes_events_here and not (self.options.background and self._polls):
            for name in _EVENT_RECORDS:
                importlib.import_module(name)
        self._standby.wait_until_ready()

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
        self._standby.dismiss()

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turns any failure into a line of the report: nothing here ends a run."""
        with self._production.guarded(what):
            yield

    @property
    def is_finished(self) -> bool:
        """Whether everything was written that will be."""
        return self._finished

    # --- while training goes on

    def captured(self, recording: Recording) -> None:
        """Takes a recording over: hands it to a worker, or writes what is quick to write."""
        self._recording = recording
        with self.guarded("the backward graph"):
            recording.backward = record_backward(recording)
        if self.options.background:
            self._hand_over(recording)
        if self._worker is None:
            self._write_quick(recording)
        elif self._has_own_writer and not self._polls:
            self._production.lower(recording)
            self._production.write_run_graph(self.tensorboard)

    def timed(self, timer: StepTimer) -> None:
        """Takes over a timer that has run; it is read when that disturbs no step."""
        self._timer = timer

    def not_timed(self, reason: str) -> None:
        """Says why the step that `Options.profile_step` names is not timed."""
        self._why_not_timed = reason

    def poll(self) -> bool:
        """Adds what a worker has left for the run's own TensorBoard writer, if it is there.

        Returns:
            Whether nothing more is to be expected.
        """
        worker = self._worker
        if worker is None or worker.job.tensorboard not in STAGED or self._has_events:
            return True
        if os.getpid() != self._process:
            return True
        events = worker.job.take_events()
        if events is None:
            return worker.has_ended
        self._has_events = True
        with self.guarded("the TensorBoard graph"), TensorBoardSink(self.tensorboard) as sink:
            for event in staged(events):
                sink.add_event(event)
            sink.flush()
            self._production.is_in_tensorboard(sink.log_dir)
        return True

    @property
    def _has_own_writer(self) -> bool:
        """Whether the events belong into a writer of this process."""
        return not isinstance(self.tensorboard, (bool, str, PathLike))

    @property
    def _writes_events_here(self) -> bool:
        return self.tensorboard is not False and (
            self._has_own_writer or not self.options.background
        )

    def _write_quick(self, recording: Recording) -> None:
        production = self._production
        if self.options.onnx_weights:
            with self.guarded("the weights"):
                self._weighted = unpack(pack(recording, with_values=True))
        production.lower(self._weighted or recording)
        production.write_quick()
        if self.tensorboard is not False:
            production.write_run_graph(self._event_target)

    @property
    def _event_target(self) -> Any:
        """A directory or a writer; ``False``: nothing goes to TensorBoard."""
        return self._production.folder if self.tensorboard is True else self.tensorboard

    # --- with a worker

    def _hand_over(self, recording: Recording) -> None:
        job, target = self._job(), self._mlflow_target
        if self.tensorboard is not False:
            job.tensorboard = "folder"
            if not self._has_own_writer:
                job.event_folder = str(self._event_target)
            if self._has_own_writer:
                job.tensorboard = "staged" if self._polls else "extras"
                job.event_folder = TensorBoardSink(self.tensorboard).log_dir
        try:
            packed = pack(recording, self.options.onnx_weights)
            rest_s = min(_REST_OF_A_STEP * recording.seconds, _LONGEST_REST_S)
            self._worker = self._standby.begin(job, packed, target, rest_s)
        except Exception as error:
            self.report.remarks.append(
                f"The files were made in the training process: no worker could be started "
                f"({type(error).__name__}: {error})."
            )

    def _job(self) -> Job:
        target = self._mlflow_target
        return Job(
            self._production.folder,
            self.options,
            Report(self.report.name, self.report.folder),
            run=replace(target, tracking_uri=None) if target is not None else None,
            sys_path=[entry for entry in sys.path if isinstance(entry, str)],
        )

    def _finish_with(self, worker: Worker, limit_s: float) -> None:
        """Waits for the worker and takes over what it made."""
        worker.release()
        if not worker.wait(limit_s):
            worker.job.leave_alone()
        self.poll()
        self._take_over(worker)
        if not worker.has_ended:
            return  # it writes its report itself
        if worker.fault() is None:
            worker.job.discard()
        self._production.write_report()

    def _take_over(self, worker: Worker) -> None:
        found = worker.told()
        if found is not None:
            self.report.add(found)
            if found.refused and self._production.failed is None:
                first = found.refused[0]
                self._production.failed = WorkerError(f"{first.what}: {first.why}")
        fault = worker.fault()
        if fault is None:
            return
        if not worker.has_ended:
            self.report.refuse("what the worker makes", fault)  # yet: no reason to raise
            return
        self._production.refuse("what the worker makes", fault)
        if found is None:
            self._production.find_files(worker.started)

    # --- the end

    def finish(self, if_nothing: str, may_raise: bool = True, patient: bool = True) -> None:
        """Writes what is slow or waits for the worker that does, and ends the report.

        Args:
            if_nothing: What to say if there is no recording.
            may_raise: Whether nothing else is being raised.
            patient: Whether there is time to wait for anything.

        Raises:
            Exception: What failed first, if ``on_error`` is ``"raise"`` and ``may_raise``.
        """
        self._finished = True
        if os.getpid() != self._process:
            return  # a copy that was forked meanwhile; the original does it
        self._standby.dismiss()
        recording, self._recording = self._recording, None
        end = time.monotonic() + (WAIT_LIMIT_S if patient else 0.0)
        if recording is None:
            if self._production.failed is None:
                error = CaptureError(f"Nothing was recorded. {if_nothing}")
                self._production.refuse("the graph", error)
            self._production.write_report()
        elif self._worker is not None:
            self._finish_with(self._worker, end - time.monotonic())
            if self._worker.fault() is None and "graph.json" not in self.report.files:
                self._make_up_for(recording)
            elif patient:
                self._add_to(self._worker, recording, end)
        else:
            self._finish_here(recording)
        self._say(may_raise)

    def _make_up_for(self, recording: Recording) -> None:
        """Does here what the worker could not begin, because it knew something not."""
        said = "; ".join(f"{refusal.what}: {refusal.why}" for refusal in self.report.refused)
        self.report.remarks.append(f"The files were made in the training process. {said}")
        self.report.refused.clear()
        self._production.failed = None
        self._write_quick(recording)
        self._finish_here(recording)

    def _add_to(self, first: Worker, recording: Recording, end: float) -> None:
        """Makes what only this process can, and lets another worker upload it."""
        production = self._production
        before = set(self.report.files)
        if first.has_ended:
            self._write_times()
        elif self._timer is not None:
            self.report.remarks.append("The times were left out: the graph is not written yet.")
        production.write_trained(recording)
        made = [name for name in self.report.files if name not in before]
        if self._timer is not None and "index.html" in before:
            made.append("index.html")
        elif not made:
            return
        production.write_report()
        if self._mlflow_target is None:
            return
        if first.fault() is not None:
            production.refuse(", ".join(made), WorkerError("not uploaded: the first files are not"))
            return
        job = self._job()
        run_id = self._mlflow_target.run_id or self.report.mlflow_run_id
        job.run = replace(self._mlflow_target, tracking_uri=None, run_id=run_id)
        job.upload = [*made, "report.json"]
        with self.guarded("the MLflow run"):
            worker = self._standby.begin(job, None, self._mlflow_target)
            worker.release()
            worker.wait(max(end - time.monotonic(), _MLFLOW_LIMIT_S))
            self._take_over(worker)
            if worker.fault() is None:
                worker.job.discard()
            production.write_report()

    def _write_times(self) -> None:
        number = self.options.profile_step
        if number is None:
            return
        if self._timer is None:
            self.report.remarks.append(f"Step {number} was not timed: {self._why_not_timed}.")
            return
        with self.guarded("the times"):
            step = self._timer.finish()
            self._production.write_times(step, number, self._event_target)

    def _finish_here(self, recording: Recording) -> None:
        production, lowered = self._production, self._weighted or recording
        if production.graph is not None:
            production.lower_backward(lowered)
            production.add_costs(lowered)
            production.write_quick()
            production.write_pictures()
            self._write_times()
            production.write_views(lowered)
            production.write_trained(recording)
            if self.tensorboard is not False:
                production.write_extras(self._event_target)
        production.write_report()
        if self._mlflow_target is not None and production.graph is not None:
            say(f"modelviz: sending the files to MLflow (at most {_MLFLOW_LIMIT_S:.0f} s)")
            names = list(self.report.files)
            with self.guarded("the MLflow run"):
                target, graph = self._mlflow_target, production.graph
                publish(target, self.report, graph, names, _MLFLOW_LIMIT_S)
            production.write_report()

    def _say(self, may_raise: bool) -> None:
        if self.report.files:
            say(self.report.summary())
        self.report.warn()
        failed = self._production.failed
        if may_raise and failed is not None and self.options.on_error == "raise":
            raise failed


def _absolute(target: Any) -> Any:
    """A local directory as it is called from anywhere; anything else as it is."""
    if isinstance(target, (str, PathLike)) and "://" not in str(target):
        with contextlib.suppress(OSError):
            return str(Path(target).absolute())
    return target
