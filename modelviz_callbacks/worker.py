"""``python -m modelviz_callbacks.worker JOB``: the slow part, in a process of its own.

It lowers a packed recording, writes the files, stages TensorBoard's events and uploads to MLflow.
The training process only waits for it at its end: when that is gone, killed or not, standard
input ends, and the worker goes on alone for as long as it may.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from math import inf
from pathlib import Path

# How long an upload is tried again after the training process has ended, in seconds.
PATIENCE_S = 300.0


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
        """Whether the training process is gone.

        Its children are given to another one then. Between the two may stand a launcher, so
        another parent alone says nothing.
        """
        if sys.platform == "win32" or os.getppid() == self._parent:
            return False
        try:
            os.kill(self._parent, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def remaining_s(self) -> float:
        """Seconds left."""
        if self._end == inf and (self.is_orphan or _is_told()):
            self._end = time.monotonic() + PATIENCE_S
        return self._end - time.monotonic()


def _is_told() -> bool:
    """Whether the training process has closed its end of standard input."""
    if sys.platform == "win32":  # its standard input cannot be asked
        return True
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([0], [], [], 0)[0])
    return True


def main(arguments: list[str]) -> int:
    """Does one job.

    Args:
        arguments: The job's folder; how long to wait before, in seconds, if somebody trains.

    Returns:
        0: done, whatever was refused is in the report. 2: there is no such job.
    """
    place, *rest = arguments or [""]
    try:
        rest_s = float(*rest)  # of nothing it is 0
    except (TypeError, ValueError):
        place = ""
    if not place:
        print("usage: python -m modelviz_callbacks.worker JOB [SECONDS]", file=sys.stderr)
        return 2
    _step_back(rest_s)
    from modelviz_callbacks.job import Job

    try:
        job = Job.load(Path(place))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{place} is not a job of this version: {error!r}", file=sys.stderr)
        return 2
    sys.path += [entry for entry in job.sys_path if entry not in sys.path]
    from modelviz_callbacks.working import deliver, work

    deadline = Deadline(job.parent)
    work(job, deadline.remaining_s)
    if job.is_left_alone or deadline.is_orphan:
        deliver(job)
        job.discard()
    else:
        job.done()
    return 0


def _step_back(rest_s: float) -> None:
    """Leaves the processor to whoever trains; one thread is what nobody misses."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(19)
    if sys.platform == "win32":
        time.sleep(rest_s)
    else:
        with contextlib.suppress(OSError, ValueError):
            select.select([0], [], [], rest_s)  # the line ends when training does
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
