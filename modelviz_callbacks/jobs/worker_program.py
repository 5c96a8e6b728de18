"""``python -m modelviz_callbacks.jobs.worker_program JOB``: the slow part, in a process of its own.

The training process starts it before there is a job, which it then gets on standard input. It
lowers a packed recording, writes the files, stages TensorBoard's events and uploads to MLflow.
The training process only waits for it at its end: when that is gone, killed or not, standard
input ends, and the worker goes on alone for as long as it may.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from math import inf
from pathlib import Path

# Where a worker says what it did, in the folder of the files.
LOG = "worker.log"

# How long an upload is tried again after the training process has ended, in seconds.
PATIENCE_S = 300.0

# How often a worker without a job looks whether anybody still trains, in seconds.
_LOOK_EVERY_S = 10.0


class Deadline:
    """The time left for uploads: without limit while somebody trains, then `PATIENCE_S`."""

    def __init__(self, parent: int) -> None:
        """Nobody has stopped training yet.

        Args:
            parent: The process that trains.
        """
        self._parent = parent
        self._end = inf

    @property
    def is_orphan(self) -> bool:
        """Whether the training process is gone."""
        return _is_gone(self._parent)

    def remaining_s(self) -> float:
        """Seconds left."""
        if self._end == inf and (self.is_orphan or _has_word(0.0)):
            self._end = time.monotonic() + PATIENCE_S
        return self._end - time.monotonic()


def _is_gone(parent: int) -> bool:
    """Whether the training process is gone.

    Its children are given to another one then. Between the two may stand a launcher, so another
    parent alone says nothing.
    """
    if sys.platform == "win32" or os.getppid() == parent:
        return False
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _has_word(within_s: float) -> bool:
    """Whether standard input has something to read, or has ended; waits for it so long."""
    if sys.platform == "win32":  # its standard input cannot be asked
        time.sleep(within_s)
        return True
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([0], [], [], within_s)[0])
    return True


def attend(parent: int) -> int:
    """Waits for a job on standard input and does it.

    Args:
        parent: The process that trains.

    Returns:
        0: it is done, and what was refused is in the report; or there is none. 2: it is no job.
    """
    _step_back()
    _detach()
    with contextlib.suppress(OSError):
        os.write(0, b".")  # ready: the training process has been waiting for this
    order = _next_order(parent)
    if not order:
        return 0
    place, rest = json.loads(order)
    _log_to(Path(place).parent / LOG)
    _has_word(rest)  # the line ends when training does
    return _do(Path(place))


def _next_order(parent: int) -> bytes:
    """A line of standard input; empty: it has ended, or who should write it is gone."""
    # On Windows reading waits, and ends with who writes.
    while sys.platform != "win32" and not _has_word(_LOOK_EVERY_S):
        # A process that it has forked may hold the line open.
        if _is_gone(parent):
            return b""
    line = b""
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and (read := os.read(0, 4096)):
            line += read
    return line


def _log_to(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def main(arguments: list[str]) -> int:
    """Does one job that was left undone.

    Args:
        arguments: The job's folder.

    Returns:
        As `attend`.
    """
    if len(arguments) != 1 or not arguments[0]:
        print("usage: python -m modelviz_callbacks.jobs.worker_program JOB", file=sys.stderr)
        return 2
    _step_back()
    return _do(Path(arguments[0]))


def _do(place: Path) -> int:
    import torch

    torch.set_num_threads(1)  # what nobody misses
    from modelviz_callbacks.jobs.job_directory import Job

    try:
        job = Job.load(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{place} is not a job of this version: {error!r}", file=sys.stderr)
        return 2
    sys.path += [entry for entry in job.sys_path if entry not in sys.path]
    from modelviz_callbacks.jobs.run_job import deliver, work

    deadline = Deadline(job.parent)
    work(job, deadline.remaining_s)
    if job.is_left_alone or deadline.is_orphan:
        deliver(job)
        job.discard()
    else:
        job.done()
    return 0


def _step_back() -> None:
    """Leaves the processor to whoever trains; the training process takes that back at its end."""
    if sys.platform == "linux":
        # With the least of niceness a process still gets its share of a core, and threads that
        # compute on all of them wait for the one on that core: a ResNet-18's steps on two cores
        # took 1.05 times as long beside the worker, with this policy 1.00 to 1.01.
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    with contextlib.suppress(AttributeError, OSError):
        os.nice(19)


def _detach() -> None:
    """Keeps Ctrl-C and the end of the terminal away, which are for the training process.

    A session of its own would do so, too, but Linux may share the processor among sessions
    first, by halves: priority counts within one only.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.setpgid(0, 0)
    # Who asks the terminal for a password here is told that there is none, and is not stopped.
    for name in ("SIGHUP", "SIGTTIN", "SIGTTOU"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
