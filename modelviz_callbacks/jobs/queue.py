"""The jobs of this process and its one worker, which does them one after the other.

A worker is started ahead, so that no training step pays for it, and kept for as long as somebody
may still have a job for it.
"""

from __future__ import annotations

import contextlib
import os
import threading

from modelviz_callbacks.jobs.job import Job
from modelviz_callbacks.jobs.worker_process import Worker

# How long the preparations wait for a worker to start, in seconds.
_START_LIMIT_S = 1.0


class JobQueue:
    """A worker for all who hold the queue; the last one who lets go ends it.

    Attributes:
        worker: The worker that was started last, if it was not ended.
        gives_way: Whether workers leave the processor to whoever trains.
    """

    gives_way = True

    def __init__(self) -> None:
        """There is no worker yet."""
        self.worker: Worker | None = None
        self._holders: set[int] = set()
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._process = os.getpid()

    def hold(self, holder: object) -> None:
        """Starts a worker if there is none; that it cannot be is said with the job.

        Args:
            holder: Whoever may have jobs, see `let_go`.
        """
        with self._lock:
            self._holders.add(id(holder))
            with contextlib.suppress(Exception):
                self._ready_worker()

    def submit(
        self,
        job: Job,
        recording: bytes | None = None,
        measured: bytes | None = None,
        uri: str | None = None,
        rest_s: float = 0.0,
    ) -> Worker:
        """Saves a job and gives it to the worker.

        Args:
            job: What is to be done.
            recording: As `Job.save` takes it.
            measured: As `Job.save` takes it.
            uri: The MLflow store; it may hold credentials, which no file may.
            rest_s: How long the worker waits before it begins, in seconds, if nobody waits for it
                sooner.

        Returns:
            The worker that has it.

        Raises:
            OSError: The job cannot be written, or no process can be started.
            WorkerError: This process cannot start another Python like itself.
        """
        with self._lock:
            worker = self._ready_worker()
            job.save(recording, measured)
            try:
                worker.send(job=str(job.place), rest_s=rest_s, uri=uri)
            except BaseException:
                job.discard()
                raise
            self._jobs.append(job)
            return worker

    def submit_again(self, job: Job, uri: str | None) -> Worker:
        """Gives a job that somebody was ended over, or interrupted, to a worker.

        Args:
            job: One that `submit` took.
            uri: As `submit` takes it.

        Returns:
            The worker that has it.

        Raises:
            OSError: No process can be started.
            WorkerError: This process cannot start another Python like itself.
        """
        with self._lock:
            worker = self._ready_worker()
            job.offer_again()
            worker.send(job=str(job.place), uri=uri)
            return worker

    def replace_worker(self, slow: Worker) -> None:
        """Leaves a worker that keeps its low priority to its end; the next job gets another one.

        Args:
            slow: The worker; what it has begun it goes on with.
        """
        with self._lock:
            if self.worker is slow:
                slow.hang_up()
                self.worker = self._started(gives_way=False)

    def let_go(self, holder: object) -> None:
        """Has no more jobs; the worker ends when nobody has.

        Args:
            holder: As `hold` was given.
        """
        with self._lock:
            self._holders.discard(id(holder))
            if self._holders or self.worker is None or os.getpid() != self._process:
                return
            worker, self.worker = self.worker, None
            jobs, self._jobs = self._jobs, []
        # What was taken back and is neither done nor gone, somebody was interrupted over.
        if all(job.is_done or not job.place.exists() for job in jobs):
            worker.kill()  # maybe still about to begin what was done elsewhere
        worker.hang_up()

    def stand_in_for(self, slow: Worker, job: Job, uri: str | None) -> None:
        """Ends a worker over a job that this process does itself from now on.

        Another one stands by, which goes on with the job if this process is killed over it.

        Args:
            slow: The worker.
            job: What it has begun.
            uri: As `submit` takes it.
        """
        with self._lock:
            job.take_over()
            self.worker = None
            with contextlib.suppress(Exception):  # the job is done without it
                # Nobody waits for it to be ready: that would be seen at the end of training.
                self.worker = Worker({}, self.gives_way)
            slow.kill()
            if self.worker is not None:
                with contextlib.suppress(Exception):
                    self.worker.send(job=str(job.place), uri=uri)

    @property
    def has_others(self) -> bool:
        """Whether more than one holder may have jobs."""
        return len(self._holders) > 1

    def _ready_worker(self) -> Worker:
        if os.getpid() != self._process:  # a copy that was forked: the worker is the original's
            self.worker, self._process = None, os.getpid()
            self._holders, self._jobs = set(), []
        if self.worker is None or self.worker.has_ended:
            self.worker = self._started(self.gives_way)
        return self.worker

    def _started(self, gives_way: bool) -> Worker:
        worker = Worker({}, gives_way)
        worker.wait_until_ready(_START_LIMIT_S)  # before that Ctrl-C would end it
        return worker


# One for the process: twenty hooks at once need no twenty workers.
QUEUE = JobQueue()
