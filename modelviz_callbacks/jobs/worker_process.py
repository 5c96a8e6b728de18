"""Workers as the training process sees them: started, waited for, never depended on."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from modelviz_callbacks.errors import WorkerError
from modelviz_callbacks.jobs.job_directory import Job
from modelviz_callbacks.jobs.worker_program import LOG, PATIENCE_S
from modelviz_callbacks.ranks import IN_WORKER
from modelviz_callbacks.report import Report, say

# How often a wait looks whether the worker has ended, in seconds.
_LOOK_EVERY_S = 0.05

# How long a worker without a job may take to end, in seconds.
_DISMISSAL_LIMIT_S = 1.0

# A worker that is gone must not end the training that writes to it.
_NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)


class Worker:
    """A process that waits for a job and does it.

    It is started before there is one, so that no training step pays for its start.

    Attributes:
        job: What it does, once it has begun.
        started: When it began, in seconds since 1970.
    """

    job: Job
    started: float

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Starts the process.

        Args:
            environment: Variables for it besides those of this process.

        Raises:
            OSError: No process can be started.
            WorkerError: This process cannot start another Python like itself.
        """
        if getattr(sys, "frozen", False) or not _is_python(sys.executable):
            raise WorkerError(
                f"{sys.executable or 'this program'} is not a Python interpreter that could be "
                "started again"
            )
        self._told: Report | None = None
        self._line, others = socket.socketpair()
        with others:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _start_code()],
                # Windows hands no socket over.
                stdin=subprocess.PIPE if sys.platform == "win32" else others.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={
                    **os.environ,
                    **environment,
                    IN_WORKER: "1",
                    # It needs no accelerator and must not take memory of one.
                    "CUDA_VISIBLE_DEVICES": "",
                },
                creationflags=_LOW_PRIORITY,
            )

    def wait_until_ready(self, limit_s: float) -> None:
        """Waits until it has started and given way to others.

        Args:
            limit_s: Longest time, in seconds.
        """
        if sys.platform == "win32":
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._line.settimeout(limit_s)
            if not self._line.recv(1):
                self._process.wait(limit_s)  # it says nothing: it is ending

    def begin(self, job: Job, rest_s: float = 0.0) -> None:
        """Gives it a job.

        Args:
            job: Saved.
            rest_s: How long it waits before it begins, in seconds, if it is not released first.

        Raises:
            OSError: It cannot be told.
            WorkerError: It has ended.
        """
        if self.has_ended:
            raise WorkerError(f"it ended with status {self._process.returncode} before it began")
        self.job, self.started = job, time.time()
        order = json.dumps([str(job.place), rest_s]).encode() + b"\n"
        if self._process.stdin is not None:
            self._process.stdin.write(order)
            self._process.stdin.flush()
        else:
            self._line.sendall(order, _NO_SIGNAL)

    def dismiss(self) -> None:
        """Ends it: there is no job."""
        self.release()
        try:
            self._process.wait(_DISMISSAL_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def release(self) -> None:
        """Tells it that training has ended: from now on its time is limited.

        It need not give way any longer either, if this process may say so.
        """
        if sys.platform == "linux" and not self.has_ended:
            with contextlib.suppress(AttributeError, OSError):
                os.sched_setscheduler(self._process.pid, os.SCHED_OTHER, os.sched_param(0))
        # Not by a word, which could raise a signal here, nor by closing alone: a process that
        # this one has forked may hold the line open.
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def wait(self, limit_s: float) -> bool:
        """Waits for its end, visibly; Ctrl-C ends the waiting and nothing else.

        Args:
            limit_s: Longest time, in seconds.

        Returns:
            Whether it has ended.
        """
        if self.has_ended or limit_s <= 0:
            return self.has_ended
        message = f"modelviz: finishing the files in {self.job.folder} (at most {limit_s:.0f} s)"
        try:
            with _shown(message):
                end = time.monotonic() + limit_s
                while not self.has_ended and time.monotonic() < end:
                    time.sleep(_LOOK_EVERY_S)
        except KeyboardInterrupt:
            say("modelviz: not waited for; the files will be finished alone.")
        return self.has_ended

    def told(self) -> Report | None:
        """What the worker has told so far; ``None``: nothing yet."""
        self._told = self.job.told() or self._told
        return self._told

    def fault(self) -> WorkerError | None:
        """Why its report is not its last one; ``None`` if it did all it was told."""
        code = self._process.poll()
        if code == 0 and self.told() is not None:
            return None
        if code is None:
            return WorkerError(f"{self._unfinished()} What it says is in {self._log}.")
        how = f"signal {-code}" if code < 0 else f"exit status {code}, without a report"
        return WorkerError(
            f"The process that makes the files ended early ({how}). See {self._log}; to do its "
            f"work again: {sys.executable} -m modelviz_callbacks.jobs.worker_program "
            f"{shlex.quote(str(self.job.place))}"
        )

    @property
    def _log(self) -> Path:
        return self.job.folder / LOG

    def _unfinished(self) -> str:
        report, run = self.told(), self.job.run
        if report is None or run is None:
            return (
                "The process that makes the files is still at work and goes on alone; its report "
                f"will be {self.job.folder / 'report.json'}."
            )
        run_id = report.mlflow_run_id or run.run_id or "RUN"
        return (
            "The files are made, but the MLflow run has not got them all yet. The process that "
            f"sends them goes on alone for up to {PATIENCE_S:.0f} s; should it fail: "
            f"modelviz upload {shlex.quote(str(self.job.folder))} --run {run_id}"
        )


def _is_python(executable: str | None) -> bool:
    return Path(executable or "").name.lower().startswith(("python", "pypy"))


def _start_code() -> str:
    """What the new interpreter runs: it imports from where this one does, in the same order."""
    paths = [str(Path(entry).absolute()) for entry in sys.path if Path(entry).exists()]
    # Last, so that it hides nothing: where this package is, should it have come another way.
    paths.append(str(Path(__file__).parents[2]))
    return (
        f"import sys; sys.path[:] = {paths!r}; "
        "from modelviz_callbacks.jobs.worker_program import attend; "
        f"sys.exit(attend({os.getpid()}))"
    )


# A worker on Windows cannot lower its own priority as one elsewhere does.
_LOW_PRIORITY: int = getattr(subprocess, "IDLE_PRIORITY_CLASS", 0)


def _shown(message: str) -> contextlib.AbstractContextManager[object]:
    """Shows a message while something is waited for; on a terminal it moves."""
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console

        return Console(stderr=True).status(message)
    say(message)
    return contextlib.nullcontext()
