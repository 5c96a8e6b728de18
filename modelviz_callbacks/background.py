"""Workers as the training process sees them: started, waited for, never depended on."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from modelviz_callbacks.errors import WorkerError
from modelviz_callbacks.job import Job
from modelviz_callbacks.ranks import IN_WORKER
from modelviz_callbacks.report import Report, say
from modelviz_callbacks.worker import PATIENCE_S

# Where a worker says what it did, in the folder of the files.
LOG = "worker.log"

# How often a wait looks whether the worker has ended, in seconds.
_LOOK_EVERY_S = 0.05


class Worker:
    """A process at work on a job.

    Attributes:
        job: What it does.
        started: When, in seconds since 1970.
    """

    def __init__(self, job: Job, environment: Mapping[str, str], rest_s: float = 0.0) -> None:
        """Starts it.

        Args:
            job: Saved.
            environment: Variables for it besides those of this process.
            rest_s: How long it waits before it begins, in seconds, if it is not released first.

        Raises:
            OSError: No process can be started.
            WorkerError: This process cannot start another Python like itself.
        """
        if getattr(sys, "frozen", False) or not _is_python(sys.executable):
            raise WorkerError(
                f"{sys.executable or 'this program'} is not a Python interpreter that could be "
                "started again"
            )
        self.job = job
        self._log = job.folder / LOG
        self.started = time.time()
        self._told: Report | None = None
        self._line, others = socket.socketpair()
        with self._log.open("ab") as log, others:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _start_code(), str(job.place), str(rest_s)],
                # Windows hands no socket over; the worker's time is limited from the start there.
                stdin=subprocess.DEVNULL if sys.platform == "win32" else others.fileno(),
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    **environment,
                    IN_WORKER: "1",
                    # It needs no accelerator and must not take memory of one.
                    "CUDA_VISIBLE_DEVICES": "",
                },
                # Ctrl-C is for the training process; so is the end of its session.
                start_new_session=True,
                creationflags=_LOW_PRIORITY,
            )

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def release(self) -> None:
        """Tells it that training has ended: from now on its time is limited."""
        # Not by a word, which could raise a signal here, nor by closing alone: a process that
        # this one has forked may hold the line open.
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()

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
            f"work again: {sys.executable} -m modelviz_callbacks.worker "
            f"{shlex.quote(str(self.job.place))}"
        )

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
    paths.append(str(Path(__file__).parent.parent))
    return (
        f"import sys; sys.path[:] = {paths!r}; "
        "from modelviz_callbacks.worker import main; sys.exit(main(sys.argv[1:]))"
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
