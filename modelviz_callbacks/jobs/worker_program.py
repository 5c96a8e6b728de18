"""The program of the worker: waits for jobs, does one after the other, ends with its line.

The training process starts it before there is a job; what it is told comes on standard input,
a line that nobody else has. When that ends, because training did or was killed, it does what it
was given and ends. Between jobs it starts itself anew, so that what waits is a small process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections import deque
from math import inf
from pathlib import Path
from typing import Any

# Where a worker says what it did, in the folder of the files.
LOG = "worker.log"

# How long an upload is tried again after the training process has ended, in seconds.
PATIENCE_S = 300.0

# How often a worker without a job looks whether anybody still trains, in seconds.
_LOOK_EVERY_S = 10.0

# How often it looks whether a training process whose line has ended is gone, in seconds.
_LOOK_AGAIN_S = 0.1

# What the worker that starts itself anew still has to know.
_STATE = "MODELVIZ_WORKER_STATE"


class Line:
    """What the training process says, one JSON object a line.

    ``{"job": PLACE, "rest_s": S, "uri": URI}``: a job, to begin after some seconds, and the
    MLflow store it uploads to; ``{"released": PLACE}``: whoever trains waits for that job now.

    Attributes:
        orders: Jobs that were not looked at yet, in order.
        released: Places of the jobs that are waited for.
        has_ended: Whether training has ended, well or not.
    """

    def __init__(self, parent: int) -> None:
        """Nothing was said yet.

        Args:
            parent: The process that trains.
        """
        self.orders: deque[dict[str, Any]] = deque()
        self.released: set[str] = set()
        self.has_ended = False
        self._parent = parent
        self._unfinished = b""

    def listen(self, within_s: float) -> None:
        """Takes what is said, and waits for it.

        Args:
            within_s: Longest time, in seconds; on Windows it waits for as long as it takes.
        """
        if self.has_ended:
            return
        if sys.platform != "win32" and not _has_word(within_s):
            # A process that the training process has forked may hold the line open.
            self.has_ended = _is_gone(self._parent)
            return
        read = b""
        with contextlib.suppress(OSError):
            read = os.read(0, 65536)
        self.has_ended = not read
        *lines, self._unfinished = (self._unfinished + read).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "job" in message:
            self.orders.append(message)
        else:
            self.released.add(message["released"])

    @property
    def is_alone(self) -> bool:
        """Whether the training process is gone, and not only done with its jobs."""
        return self.has_ended and (sys.platform == "win32" or _is_gone(self._parent))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is left to be looked at."""
        return not self.orders and not self._unfinished


class Deadline:
    """The time left for a job's uploads: without limit while nobody waits, then `PATIENCE_S`."""

    def __init__(self, line: Line, place: Path) -> None:
        """Nobody waits yet.

        Args:
            line: Says when somebody does.
            place: The job's folder.
        """
        self._line = line
        self._place = str(place)
        self._end = inf

    def remaining_s(self) -> float:
        """Seconds left."""
        if sys.platform != "win32":
            self._line.listen(0.0)
        waited_for = self._line.has_ended or self._place in self._line.released
        if self._end == inf and (waited_for or sys.platform == "win32"):
            self._end = time.monotonic() + PATIENCE_S
        return self._end - time.monotonic()


def _is_gone(parent: int) -> bool:
    """Whether the training process is gone."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    with contextlib.suppress(OSError):
        return ") Z " in Path(f"/proc/{parent}/stat").read_text(errors="replace")
    return False


def _has_word(within_s: float) -> bool:
    """Whether standard input has something to read, or has ended; waits for it so long."""
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([0], [], [], within_s)[0])
    return True


def attend(parent: int, gives_way: bool) -> int:
    """Waits for jobs on standard input and does them.

    Args:
        parent: The process that trains.
        gives_way: Whether to leave the processor to it.

    Returns:
        0, when the line has ended and all is done.
    """
    if _STATE in os.environ:  # started anew by itself
        staged = [Path(place) for place in json.loads(os.environ.pop(_STATE))]
    else:
        staged = []
        _become_nobodys_child()
        if gives_way:
            _step_back()
        _detach()
        with contextlib.suppress(OSError):
            os.write(0, str(os.getpid()).encode())  # ready: the training process waits for this
    line = Line(parent)
    _wait_for_orders(line)
    while line.orders:
        order = line.orders.popleft()
        staged.append(Path(order["job"]))
        _rest(line, order)
        _do(Path(order["job"]), line, order.get("uri"))
        if sys.platform == "win32":  # started anew it would be another process, which none knows
            _wait_for_orders(line)
        else:
            line.listen(0.0)
    if line.has_ended:
        for place in staged:
            _give_back_events(place, line)
        _deliver(staged)
    elif line.is_quiet:
        _start_anew(staged)
    return 0


def _wait_for_orders(line: Line) -> None:
    while not line.orders and not line.has_ended:
        line.listen(_LOOK_EVERY_S)


def _rest(line: Line, order: dict[str, Any]) -> None:
    """Leaves the processor to the rest of the step that was recorded."""
    end = time.monotonic() + order.get("rest_s", 0.0)
    while (left := end - time.monotonic()) > 0 and sys.platform != "win32":
        if line.has_ended or order["job"] in line.released:
            return
        line.listen(left)


def _become_nobodys_child() -> None:
    if hasattr(os, "fork") and os.fork():
        os._exit(0)


def _start_anew(staged: list[Path]) -> None:
    """Gives back the memory that a job took; what is staged is still remembered."""
    os.environ[_STATE] = json.dumps([str(place) for place in staged if place.exists()])
    os.execv(sys.executable, sys.orig_argv)


def _deliver(places: list[Path]) -> None:
    """Writes the staged events that nobody has taken: the process that owned the writer is gone."""
    waiting = [place for place in places if (place / "events").exists()]
    if not waiting:
        for place in places:
            _discard_if_done(place)
        return
    from modelviz_callbacks.jobs.run_job import deliver

    for place in waiting:
        deliver(place)
    for place in places:
        _discard_if_done(place)


def _give_back_events(place: Path, line: Line) -> None:
    """Lets the events be taken again that a training process was killed over."""
    taken, end = place / "events-taken", time.monotonic() + _LOOK_EVERY_S
    while taken.exists() and time.monotonic() < end:
        if line.is_alone:
            with contextlib.suppress(OSError):
                taken.rename(place / "events")
        else:
            time.sleep(_LOOK_AGAIN_S)


def _discard_if_done(place: Path) -> None:
    if not (place / "done").exists():
        return
    from modelviz_callbacks.jobs.job import discard

    discard(place)


def _log_to(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def main(arguments: list[str]) -> int:
    """Does one job that was left undone.

    Args:
        arguments: The job's folder.

    Returns:
        0: it is done, and what was refused is in the report. 2: it is no job.
    """
    if len(arguments) != 1 or not arguments[0]:
        print("usage: python -m modelviz_callbacks.jobs JOB", file=sys.stderr)
        return 2
    line = Line(0)
    line.has_ended = True
    place = Path(arguments[0])
    status = _do(place, line, os.environ.get("MLFLOW_TRACKING_URI"), is_again=True)
    if status == 0:
        _deliver([place])
    return status


def _do(place: Path, line: Line, uri: str | None, is_again: bool = False) -> int:
    """Does a job, unless it was taken back; all that is slow to import comes before that."""
    from modelviz_callbacks.errors import WorkerError

    if not is_again and _is_done_elsewhere(place, line):
        return 0
    import torch

    torch.set_num_threads(1)  # what nobody misses
    from modelviz_callbacks.artifacts.directory import remove_unfinished
    from modelviz_callbacks.jobs.job import Job
    from modelviz_callbacks.jobs.run_job import work

    try:
        job = Job.load(place)
    except (OSError, ValueError, KeyError, TypeError, WorkerError) as error:
        print(f"{place} is not a job of this version: {error!r}", file=sys.stderr)
        return 2
    if not is_again:
        _log_to(job.folder / LOG)
    sys.path += [entry for entry in job.sys_path if entry not in sys.path]
    while not job.begin() and not is_again:
        if _is_done_elsewhere(place, line):
            return 0
    if is_again or line.is_alone:
        remove_unfinished(job.folder)
    work(job, Deadline(line, place).remaining_s, uri)
    job.finish()
    if job.is_left_alone:
        _deliver([place])
    return 0


def _is_done_elsewhere(place: Path, line: Line) -> bool:
    """Whether the training process has done a job itself; waits for it while it is at it.

    If that is killed over it, the job is to be begun again.
    """
    taken_back = place / "taken-back.json"
    while taken_back.exists() and not (place / "done").exists():
        if line.is_alone:
            with contextlib.suppress(OSError):
                taken_back.rename(place / "job.json")
            break
        line.listen(_LOOK_EVERY_S)
        if line.has_ended:
            time.sleep(_LOOK_AGAIN_S)
    return not (place / "job.json").exists()


def _step_back() -> None:
    """Leaves the processor to whoever trains; the training process takes that back at its end."""
    if sys.platform == "linux":
        # With the least of niceness a process still gets its share of a core, and threads that
        # compute on all of them wait for the one on that core: a ResNet-18's steps on two cores
        # took 1.05 times as long beside the worker, with this policy 1.00 to 1.01.
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    if sys.platform != "win32":  # there whoever starts it says so
        with contextlib.suppress(OSError):
            os.nice(19)


def _detach() -> None:
    """Keeps Ctrl-C and the end of the terminal away, which are for the training process.

    A session of its own would do so, too, but Linux may share the processor among sessions
    first, by halves: priority counts within one only.
    """
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
    # Who asks the terminal for a password here is told that there is none, and is not stopped.
    for name in ("SIGHUP", "SIGTTIN", "SIGTTOU"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
