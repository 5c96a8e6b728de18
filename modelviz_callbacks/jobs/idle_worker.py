"""Workers get their jobs here; the first is started ahead, so that no training step pays for it."""

from __future__ import annotations

import contextlib
import os

from modelviz_callbacks.jobs.job_directory import Job
from modelviz_callbacks.jobs.worker_process import Worker
from modelviz_callbacks.trackers.mlflow_target import MlflowTarget

# How long the preparations wait for a worker to start, in seconds.
_START_LIMIT_S = 1.0


class Standby:
    """At most one worker without a job."""

    def __init__(self) -> None:
        """There is none yet."""
        self._waiting: Worker | None = None
        self._process = os.getpid()

    def start(self, target: MlflowTarget | None) -> None:
        """Starts a worker that will wait for a job; that it cannot be is said with the job.

        Args:
            target: The MLflow run that it will upload to.
        """
        with contextlib.suppress(Exception):
            self._waiting = Worker(_environment(target))

    def wait_until_ready(self) -> None:
        """Waits a moment until the worker has started and given way to others."""
        if self._waiting is not None:
            self._waiting.wait_until_ready(_START_LIMIT_S)

    def begin(
        self, job: Job, recording: bytes | None, target: MlflowTarget | None, rest_s: float = 0.0
    ) -> Worker:
        """Saves a job and gives it to the worker that waits, or to a new one.

        Args:
            job: What is to be done.
            recording: As `Job.save` takes it.
            target: As `start` takes it, for a new one.
            rest_s: As `Worker.begin` takes it.

        Returns:
            The worker at work on it.

        Raises:
            OSError: The job cannot be written, or no process can be started.
            WorkerError: This process cannot start another Python like itself.
        """
        worker = self._taken()
        if worker is None or worker.has_ended:
            worker = Worker(_environment(target))
            worker.wait_until_ready(_START_LIMIT_S)  # before that Ctrl-C would end it
        try:
            job.save(recording)
            try:
                worker.begin(job, rest_s)
            except BaseException:
                job.discard()
                raise
        except BaseException:
            worker.dismiss()
            raise
        return worker

    def dismiss(self) -> None:
        """Ends the worker that waits, if there is one."""
        worker = self._taken()
        if worker is not None:
            worker.dismiss()

    def _taken(self) -> Worker | None:
        worker, self._waiting = self._waiting, None
        # In a copy that was forked meanwhile it is the worker of another process.
        return worker if os.getpid() == self._process else None


def _environment(target: MlflowTarget | None) -> dict[str, str]:
    """Variables for a worker: the address of the store may hold credentials, which no file may."""
    uri = target.tracking_uri if target is not None else None
    return {} if uri is None else {"MLFLOW_TRACKING_URI": uri}
