"""A recording's artifacts made by the worker, as the training process sees it.

The recording is packed, handed over and forgotten. When training ends, whoever is faster makes
what is missing: a job that has not begun is taken back and done here.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.artifacts.table import MadeIn, rows
from modelviz_callbacks.errors import WorkerError
from modelviz_callbacks.jobs.job import STAGED, Job
from modelviz_callbacks.jobs.queue import QUEUE
from modelviz_callbacks.jobs.run_job import make, take_events
from modelviz_callbacks.jobs.sending import Sent, sent_of
from modelviz_callbacks.jobs.waiting import shown
from modelviz_callbacks.jobs.worker_process import Worker
from modelviz_callbacks.jobs.worker_program import LOG, PATIENCE_S
from modelviz_callbacks.report import Report, say
from modelviz_callbacks.tracing import Measured, Recording, pack, pack_comparable, pack_measured
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget

# How long the end of training waits for files, in seconds; after that the worker goes on alone.
WAIT_LIMIT_S = 60.0

# How long it waits for a store that fails, where only uploads are missing and none arrives, and for
# one that is silent but has not failed, in seconds. While files arrive it waits for as long as the
# worker would.
UPLOAD_LIMIT_S = 5.0
SILENCE_LIMIT_S = 15.0

# A worker that starts takes memory and caches from the step that has just called it, on whatever
# core: it waits for what the backward and the optimizer take, in times of the forward's.
_REST_OF_A_STEP = 3.0
_LONGEST_REST_S = 10.0

# A worker that keeps its low priority is left if it gets less than this share of a processor.
_LEAST_SHARE = 0.5
_LOOK_AT_SHARE_S = 0.2

# How often a wait looks, in seconds.
_LOOK_EVERY_S = 0.02


@dataclass
class _Handed:
    """A job and who has it.

    Attributes:
        job: The job.
        worker: Who has it; ``None``: it was done here.
        started: When it was handed over, in seconds since 1970.
        uri: The MLflow store it uploads to; it may hold credentials.
        recording: Whether it makes files of a recording.
        is_again: Whether it was handed over for a second time.
        is_told: Whether what it found of a later step was said.
    """

    job: Job
    worker: Worker | None
    started: float
    uri: str | None = None
    recording: bool = False
    is_again: bool = False
    is_told: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it, for better or worse."""
        return self.job.is_over or self.worker is None or self.worker.has_ended

    @property
    def has_files(self) -> bool:
        """Whether all files are made, so that only uploads are missing."""
        return self.job.published_report() is not None


class _Uploads:
    """Whether a wait for uploads alone is worth while: it is for as long as something arrives."""

    def __init__(self, handed: list[_Handed]) -> None:
        self._handed = handed
        self._sent = Sent()
        self._began = self._heard = self._answered = -math.inf

    def are_stuck(self, end: float) -> bool:
        """Whether nothing arrives; before the store was asked, whether time is up."""
        now = time.monotonic()
        self._began = now if self._began < 0 else self._began
        found = [sent_of(one.job.place) for one in self._handed]
        known = [one for one in found if one is not None]
        if not known:
            return now >= end
        sent = Sent(*[sum(column) for column in zip(*known, strict=True)])
        if sent.signs != self._sent.signs:
            self._heard = now
        if sent.answers != self._sent.answers:
            self._answered = now
        self._sent = sent
        silent_s = now - max(self._began, self._heard)
        failing_s = now - max(self._began, self._answered) if sent.fails else 0.0
        return (
            failing_s >= UPLOAD_LIMIT_S
            or silent_s >= max(SILENCE_LIMIT_S, UPLOAD_LIMIT_S)
            or now >= self._began + PATIENCE_S
        )

    def __str__(self) -> str:
        return f", {self._sent}" if self._sent.signs else ""


class InWorker:
    """One recording with ``background=True``."""

    def __init__(
        self, maker: Maker, target: MlflowTarget | None, has_own_writer: bool, polls: bool
    ) -> None:
        """Nothing is handed over yet.

        Args:
            maker: Where everything goes.
            target: The MLflow run, if there is one.
            has_own_writer: Whether the events belong into a writer of this process.
            polls: Whether `poll` will be called while training goes on.
        """
        self._maker = maker
        self._target = target
        self._has_own_writer = has_own_writer
        self._polls = polls
        self._handed: list[_Handed] = []
        self._has_waited = False
        self._last_step = b""
        self._live: Products | None = None
        self._is_interrupted = False

    # --- while training goes on

    def begin(self, recording: Recording) -> None:
        """Hands a recording to the worker.

        Args:
            recording: What a capture gave.

        Raises:
            Exception: It cannot be packed, or no worker can be had.
        """
        options = self._maker.options
        packed = pack(recording, options.onnx_weights)
        rest_s = min(_REST_OF_A_STEP * recording.seconds, _LONGEST_REST_S)
        self._hand_over(self._job(), recording=packed, rest_s=rest_s)
        if options.trained_onnx:
            self._live = Products(recording, options.name, self._maker.refuse)

    def add_measured(self, measured: Measured) -> None:
        """Hands over what was measured in later steps.

        Args:
            measured: All of it.

        Raises:
            Exception: No worker can be had.
        """
        self._hand_over(self._job(), measured=pack_measured(measured))

    def know(self, measured: Measured) -> bool:
        """Takes over what is known right after the recorded step.

        Args:
            measured: All of it.

        Returns:
            Whether it is in time to be shown; else it is to be added when all is known.

        Raises:
            OSError: It cannot be written.
        """
        return self._handed[0].job.know(pack_measured(measured))

    def add_step(self, recording: Recording, step: int) -> None:
        """Hands over a later step that was recorded, to be compared with the graph before.

        Args:
            recording: Of the step; nothing is done where it is the last one's to the byte.
            step: Its number.

        Raises:
            Exception: It cannot be packed, or no worker can be had.
        """
        self._tell_changes()
        packed = pack_comparable(recording)
        if packed == self._last_step:
            return
        self._last_step = packed
        job = self._job()
        job.step = step
        self._hand_over(job, recording=packed)

    def _tell_changes(self) -> None:
        """Says what the worker has found of later steps, each once."""
        for handed in self._handed:
            found = handed.job.published_report() if handed.job.step else None
            if found is not None and not handed.is_told:
                handed.is_told = True
                for remark in found.remarks:
                    say(f"modelviz: {remark}")

    def _hand_over(self, job: Job, target: MlflowTarget | None = None, **parts: Any) -> _Handed:
        target = target or self._target
        uri = target.tracking_uri if target is not None else None
        worker = QUEUE.submit(job, uri=uri, **parts)
        handed = _Handed(job, worker, time.time(), uri, "recording" in parts)
        self._handed.append(handed)
        return handed

    def _job(self, target: MlflowTarget | None = None) -> Job:
        maker, target = self._maker, target or self._target
        kind, event_folder = "", ""
        if maker.events is not None:
            kind = "folder"
            event_folder = str(maker.events.target)
            if self._has_own_writer:
                kind = "staged" if self._polls else "extras"
                event_folder = log_dir_of(maker.events.target)
        return Job(
            maker.folder,
            maker.options,
            Report(maker.report.name, maker.report.folder),
            kind,
            event_folder,
            run=replace(target, tracking_uri=None) if target is not None else None,
            stage=maker.stage,
            sys_path=[entry for entry in sys.path if isinstance(entry, str)],
        )

    def poll(self) -> bool:
        """Adds what the worker has left for the run's own TensorBoard writer, if it is there.

        Returns:
            Whether nothing more is to be expected.
        """
        waiting = [one for one in self._handed if one.job.tensorboard in STAGED]
        for handed in waiting:
            self._take_events(handed)
        return all(one.is_over and not one.job.has_staged_events for one in waiting)

    def _take_events(self, handed: _Handed) -> None:
        maker, job = self._maker, handed.job
        if job.tensorboard not in STAGED or not job.has_staged_events or maker.events is None:
            return
        with maker.guarded("the TensorBoard graph"):
            take_events(job, maker.events.target)
            maker.report.stored += [
                place for place in job.report.stored if place not in maker.report.stored
            ]

    # --- the end

    def finish(self, is_patient: bool, more: Sequence[MlflowTarget] = ()) -> None:
        """Waits for the worker or does what it has not begun, and makes what only this process can.

        Args:
            is_patient: Whether there is time to wait for anything.
            more: MLflow runs that get the files besides the first, or were found late.
        """
        end = time.monotonic() + (WAIT_LIMIT_S if is_patient else 0.0)
        if is_patient:
            self._take_back()
        self._wait(end)
        if is_patient and self._try_again():
            self._wait(end)
        self._tell_changes()
        for handed in self._handed:
            self._collect(handed)
        if is_patient and self._live is not None:
            self._make_the_rest()
        self._live = None
        names = list(self._maker.report.files)
        for target in more if is_patient and names else ():
            self._upload_and_wait(names, target)
        self._say_what_is_left()

    def _take_back(self) -> None:
        """Does here what has not begun."""
        for handed in [*self._handed]:
            if self._is_interrupted:
                break
            if handed.worker is None or self._must_follow(handed):
                continue
            if handed.job.take_back():
                self._do_here(handed)

    def _must_follow(self, handed: _Handed) -> bool:
        """Whether a job needs the files of a graph that the worker is still at.

        A step is compared with them, and what was measured is told of them.
        """
        before = self._handed[: self._handed.index(handed)]
        needs_files = bool(handed.job.step) or not handed.recording
        return needs_files and not all(one.is_over for one in before)

    def _do_here(self, handed: _Handed) -> None:
        job = handed.job
        try:
            make(job)
        except BaseException as error:  # what stops training, or Ctrl-C
            self._give_again(handed)
            if not isinstance(error, KeyboardInterrupt):
                raise
            self._stop_waiting()
            return
        handed.worker = None
        job.finish()
        if job.run is not None and job.report.files:
            self._upload([*job.report.files])

    def _give_again(self, handed: _Handed) -> None:
        """Gives a job to a worker for a second time."""
        handed.is_again = True
        with self._maker.guarded("the process that makes the files"):
            handed.worker = QUEUE.submit_again(handed.job, handed.uri)

    def _try_again(self) -> bool:
        """Gives what a worker has died over to another one, once; whether there was anything."""
        died = [
            one
            for one in self._handed
            if one.worker is not None
            and one.worker.has_ended
            and not (one.job.is_over or one.is_again or self._is_interrupted)
        ]
        for handed in died:
            self._give_again(handed)
        return bool(died)

    def _stop_waiting(self) -> None:
        self._is_interrupted = True
        say("modelviz: not waited for; the files will be finished alone.")

    def _upload(self, names: list[str], target: MlflowTarget | None = None) -> None:
        """Lets a worker send files: nothing here waits on the network for long."""
        worker = QUEUE.worker
        if worker is not None and not worker.hurry():
            QUEUE.replace_worker(worker)
        upload = self._job(target)
        upload.tensorboard = ""
        upload.upload = names
        with self._maker.guarded("the MLflow run"):
            self._hand_over(upload, target)

    def _upload_and_wait(self, names: list[str], target: MlflowTarget | None = None) -> None:
        first = len(self._handed)
        self._upload(names, target)
        for handed in self._handed[first:]:
            self._wait(time.monotonic() + WAIT_LIMIT_S)
            self._collect(handed)

    def _wait(self, end: float) -> None:
        """Waits until all is done or time is up; only uploads are not waited for so long."""
        waiting = [one for one in self._handed if not one.is_over]
        if not waiting or end <= time.monotonic() or self._is_interrupted:
            return
        for handed in waiting:
            self._hurry(handed)
        uploads = _Uploads(self._handed)
        try:
            uploads_too, is_known = self._target is not None, self._has_waited
            self._has_waited = True
            with shown(self._maker.folder, end, uploads_too, is_known) as progress:
                while not self._is_enough(end, uploads):
                    progress(f"{self._progress()}{uploads}")
                    time.sleep(_LOOK_EVERY_S)
        except KeyboardInterrupt:
            self._stop_waiting()

    def _is_enough(self, end: float, uploads: _Uploads) -> bool:
        open_jobs = [one for one in self._handed if not one.is_over]
        if not open_jobs:
            return True
        if all(one.has_files or one.job.upload for one in open_jobs):
            return uploads.are_stuck(end)
        return time.monotonic() >= end

    def _progress(self) -> str:
        found = [one.job.published_report() for one in self._handed]
        made = sum(len(report.files) for report in found if report is not None)
        return f"{made} files made"

    def _hurry(self, handed: _Handed) -> None:
        """Lets a job go on at a normal priority, or does it here where that may not be."""
        worker, job = handed.worker, handed.job
        if worker is None:
            return
        try:
            worker.send(released=str(job.place))
        except (OSError, WorkerError):
            return
        if worker.hurry() or handed.has_files or QUEUE.has_others:
            return
        before = worker.seconds_used()
        time.sleep(_LOOK_AT_SHARE_S)
        after = worker.seconds_used()
        if before is None or after is None or after - before >= _LEAST_SHARE * _LOOK_AT_SHARE_S:
            return
        # Others keep the processors busy, and what has the lowest priority waits for them.
        if not handed.recording:
            worker.kill()
            return
        QUEUE.stand_in_for(worker, job, handed.uri)
        if not job.is_done:
            self._do_here(handed)

    def _collect(self, handed: _Handed) -> None:
        """Takes over what a job made."""
        maker, job = self._maker, handed.job
        self._take_events(handed)
        found = job.report if handed.worker is None else job.published_report()
        if found is not None:
            maker.report.add(found)
            if found.refused:
                first = found.refused[0]
                maker.note_failure(WorkerError(f"{first.what}: {first.why}"))
        if handed.worker is None or job.is_done:
            job.discard()
        elif handed.worker.has_ended:
            maker.refuse("what the worker makes", self._ended_early(job))
            if found is None:
                maker.find_files(handed.started)
        else:
            job.leave_alone()
            # Not yet: no reason to raise.
            maker.report.refuse("what the worker makes", self._unfinished(job))

    def _make_the_rest(self) -> None:
        """Makes what only this process can, and lets the worker upload it."""
        maker, before = self._maker, set(self._maker.report.files)
        assert self._live is not None
        maker.make(rows(MadeIn.TRAINING), self._live)
        made = [name for name in maker.report.files if name not in before]
        if not made or self._target is None:
            return
        maker.write_report()
        self._upload_and_wait([*made, "report.json"])

    def _say_what_is_left(self) -> None:
        """Ends the report, unless the worker is still to write it."""
        if all(handed.worker is None or handed.is_over for handed in self._handed):
            self._maker.write_report()

    def _ended_early(self, job: Job) -> WorkerError:
        return WorkerError(
            f"The process that makes the files ended early. See {job.folder / LOG}; to do its "
            f"work again: {shlex.quote(sys.executable)} -m modelviz_callbacks.jobs "
            f"{shlex.quote(str(job.place))}"
        )

    def _unfinished(self, job: Job) -> WorkerError:
        report, run = job.published_report(), job.run
        # A job that only uploads has its files, also before it has said anything.
        if run is None or (report is None and not job.upload):
            return WorkerError(
                "The process that makes the files is still at work and goes on alone; its report "
                f"will be {job.folder / 'report.json'}. What it says is in {job.folder / LOG}."
            )
        run_id = (report.mlflow_run_id if report is not None else "") or run.run_id or "RUN"
        return WorkerError(
            "The files are made, but the MLflow run has not got them all yet. The process that "
            f"sends them goes on alone for up to {PATIENCE_S:.0f} s; should it fail: "
            f"modelviz upload {shlex.quote(str(job.folder))} --run {run_id}"
        )


def log_dir_of(writer: Any) -> str:
    """The folder of a TensorBoard writer; ``""`` if it does not tell."""
    get_logdir = getattr(writer, "get_logdir", None)
    return str(get_logdir()) if callable(get_logdir) else ""
