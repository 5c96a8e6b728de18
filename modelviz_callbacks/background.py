"""Workers as the training process sees them: started, waited for, never depended on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from modelviz_callbacks.errors import WorkerError
from modelviz_callbacks.job import Job
from modelviz_callbacks.report import Report
from modelviz_callbacks.worker import PATIENCE_S

# Where a worker says what it did, in the folder of the files.
LOG = "worker.log"

# How often a wait looks whether the worker has ended, in seconds.
_LOOK_EVERY_S = 0.05


class Worker:
    """A process at work on a job.

    Attributes:
        job: What it does.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        """Starts it.

        Args:
            job: Saved.
            environment: Variables for it besides those of this process.

        Raises:
            OSError: No process can be started.
        """
        self.job = job
        self._log = job.folder / LOG
        package_home = str(Path(__file__).parent.parent)
        paths = [package_home, os.environ.get("PYTHONPATH", "")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modelviz_callbacks.worker", str(job.place)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    **environment,
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
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
        stdin: IO[bytes] | None = self._process.stdin
        if stdin is not None:
            # Said, too: a process that this one has forked may hold the pipe open.
            with contextlib.suppress(OSError):
                stdin.write(b"\n")
            with contextlib.suppress(OSError):
                stdin.close()

    def wait(self, limit_s: float) -> bool:
        """Waits for its end, visibly; Ctrl-C ends the waiting and nothing else.

        Args:
            limit_s: Longest time, in seconds.

        Returns:
            Whether it has ended.
        """
        if self.has_ended:
            return True
        message = f"modelviz: finishing the files in {self.job.folder} (at most {limit_s:.0f} s)"
        try:
            with _shown(message):
                end = time.monotonic() + limit_s
                while not self.has_ended and time.monotonic() < end:
                    time.sleep(_LOOK_EVERY_S)
        except KeyboardInterrupt:
            print("modelviz: not waited for; the files will be finished alone.", file=sys.stderr)
        return self.has_ended

    def report(self) -> Report | None:
        """What it reports so far; ``None`` before the first files are there."""
        try:
            text = (self.job.folder / "report.json").read_text(encoding="utf-8")
            return Report.from_json(json.loads(text))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def fault(self) -> WorkerError | None:
        """Why its report is not its last one; ``None`` if it did all it was told."""
        code = self._process.poll()
        if code == 0:
            return None
        if code is None:
            return WorkerError(f"{self._unfinished()} What it says is in {self._log}.")
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return WorkerError(
            f"The process that makes the files ended early ({how}). See {self._log}; to do its "
            f"work again: {sys.executable} -m modelviz_callbacks.worker {self.job.place}"
        )

    def _unfinished(self) -> str:
        report, run = self.report(), self.job.run
        if report is None or run is None:
            return (
                "The process that makes the files is still at work and goes on alone; its report "
                f"will be {self.job.folder / 'report.json'}."
            )
        run_id = report.mlflow_run_id or run.run_id or "RUN"
        return (
            "The files are made, but the MLflow run has not got them all yet. The process that "
            f"sends them goes on alone for up to {PATIENCE_S:.0f} s; should it fail: "
            f"modelviz upload {self.job.folder} --run {run_id}"
        )


# A worker on Windows cannot lower its own priority as one elsewhere does.
_LOW_PRIORITY: int = getattr(subprocess, "IDLE_PRIORITY_CLASS", 0)


def _shown(message: str) -> contextlib.AbstractContextManager[object]:
    """Shows a message while something is waited for; on a terminal it moves."""
    if sys.stderr.isatty():
        from rich.console import Console

        return Console(stderr=True).status(message)
    print(message, flush=True)
    return contextlib.nullcontext()
