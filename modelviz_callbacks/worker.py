"""``python -m modelviz_callbacks.worker JOB``: the slow part, in a process of its own.

It lowers a packed recording, writes the files, stages TensorBoard's events and uploads to MLflow.
The training process only waits for it at its end: when that is gone, killed or not, standard
input ends, and the worker goes on alone for as long as it may.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from math import inf
from pathlib import Path

# How long an upload is tried again after the training process has ended, in seconds.
PATIENCE_S = 300.0


class Deadline:
    """The time left for uploads: without limit while somebody trains, then `PATIENCE_S`."""

    def __init__(self) -> None:
        """Watches standard input, which the training process holds open."""
        self._end = inf
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        # Not through sys.stdin: its lock would be held when the interpreter ends.
        with contextlib.suppress(OSError):
            os.read(0, 1)  # a word from the training process, or its end
        self._end = time.monotonic() + PATIENCE_S

    def remaining_s(self) -> float:
        """Seconds left."""
        return self._end - time.monotonic()


def main(arguments: list[str]) -> int:
    """Does one job.

    Args:
        arguments: The job's folder.

    Returns:
        0: done, whatever was refused is in the report. 2: there is no such job.
    """
    if len(arguments) != 1:
        print("usage: python -m modelviz_callbacks.worker JOB", file=sys.stderr)
        return 2
    parent, deadline = os.getppid(), Deadline()
    _step_back()
    from modelviz_callbacks.job import Job

    try:
        job = Job.load(Path(arguments[0]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments[0]} is not a job of this version: {error!r}", file=sys.stderr)
        return 2
    sys.path += [entry for entry in job.sys_path if entry not in sys.path]
    from modelviz_callbacks.working import work

    work(job, deadline.remaining_s)
    # An orphan has another parent.
    job.done(is_awaited=os.getppid() == parent)
    return 0


def _step_back() -> None:
    """Leaves the processor to whoever trains; one thread is what nobody misses."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(19)
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
