"""The worker as the training process sees it: started, told, never depended on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelviz_callbacks.artifacts.directory import is_running
from modelviz_callbacks.errors import WorkerError
from modelviz_callbacks.ranks import IN_WORKER

# How long a worker without a job may take to end, in seconds.
_DISMISSAL_LIMIT_S = 1.0

# How often it is looked whether it has ended, in seconds.
_LOOK_EVERY_S = 0.02

# A worker that is gone must not end the training that writes to it.
_NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)


class Worker:
    """A process that waits for jobs and does one after the other.

    It is started before there is one, so that no training step pays for its start. Where
    processes can be forked it is nobody's child here: a loop over ``os.wait()`` in the user's
    own code never meets it.
    """

    def __init__(self, environment: Mapping[str, str], gives_way: bool = True) -> None:
        """Starts the process.

        Args:
            environment: Variables for it besides those of this process.
            gives_way: Whether it leaves the processor to whoever trains.

        Raises:
            OSError: No process can be started.
            WorkerError: This process cannot start another Python like itself.
        """
        if getattr(sys, "frozen", False) or not _is_python(sys.executable):
            raise WorkerError(
                f"{sys.executable or 'this program'} is not a Python interpreter that could be "
                "started again"
            )
        self.pid = 0
        self._line, others = socket.socketpair()
        with others:
            self._starter = subprocess.Popen(
                [sys.executable, "-c", _start_code(gives_way)],
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
                creationflags=_LOW_PRIORITY if gives_way else 0,
            )
        if sys.platform == "win32":
            self.pid = self._starter.pid

    def wait_until_ready(self, limit_s: float) -> None:
        """Waits until it has started and given way to others.

        Args:
            limit_s: Longest time, in seconds.
        """
        if sys.platform == "win32" or self.pid:
            return
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            self._line.settimeout(limit_s)
            self.pid = int(self._line.recv(64) or 0)
            self._starter.wait(limit_s)  # it ends as soon as it has started the worker

    def send(self, **message: Any) -> None:
        """Tells it something, over a line that only this process and the worker have.

        Args:
            **message: See `modelviz_callbacks.jobs.worker_program.Line`.

        Raises:
            OSError: It cannot be told.
            WorkerError: It has ended.
        """
        if self.has_ended:
            raise WorkerError(f"the process that makes the files {self._how_it_ended()}")
        text = json.dumps(message).encode() + b"\n"
        if self._starter.stdin is not None:
            self._starter.stdin.write(text)
            self._starter.stdin.flush()
            return
        self._line.settimeout(_DISMISSAL_LIMIT_S)
        self._line.sendall(text, _NO_SIGNAL)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        if sys.platform == "win32":
            return self._starter.poll() is not None
        if self._starter.poll() not in (None, 0):
            return True  # it could not start the worker
        self.wait_until_ready(0.0)
        try:
            self._line.setblocking(False)
            return not self._line.recv(64, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:  # the line is closed here: what is left is the process itself
            return not is_running(self.pid)

    def _how_it_ended(self) -> str:
        status = self._starter.poll()
        return f"could not start (status {status})" if status else "has ended"

    def hurry(self) -> bool:
        """Takes the processor's low priority from it, if this process may.

        Returns:
            Whether it competes like any other process now.
        """
        if sys.platform == "linux":
            try:
                os.sched_setscheduler(self.pid, os.SCHED_OTHER, os.sched_param(0))
            except (AttributeError, OSError):
                return False
        return sys.platform != "win32"

    def hang_up(self) -> None:
        """Tells it that training has ended: it does what it was given, and ends."""
        # Not by a word, which could raise a signal here, nor by closing alone: a process that
        # this one has forked may hold the line open.
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()
        if self._starter.stdin is not None:
            with contextlib.suppress(OSError):
                self._starter.stdin.close()

    def dismiss(self) -> None:
        """Ends it: there is nothing to do."""
        self.hang_up()
        if not self.wait(_DISMISSAL_LIMIT_S):
            self.kill()

    def kill(self) -> None:
        """Ends it at once, whatever it does; files appear whole or not at all.

        One that is still about to start is not known yet: it ends when it finds that nobody is on
        the line.
        """
        self.wait_until_ready(0.0)
        if self.pid:
            with contextlib.suppress(OSError):
                os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self.wait(_DISMISSAL_LIMIT_S)

    def wait(self, limit_s: float) -> bool:
        """Waits for its end.

        Args:
            limit_s: Longest time, in seconds.

        Returns:
            Whether it has ended.
        """
        end = time.monotonic() + limit_s
        while not self.has_ended and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
        return self.has_ended

    def seconds_used(self) -> float | None:
        """CPU time it has used, in seconds; ``None`` where that cannot be known."""
        if sys.platform == "win32":
            return None
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        # After the name in brackets: state is field 3, user and system time are 14 and 15.
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_python(executable: str | None) -> bool:
    return Path(executable or "").name.lower().startswith(("python", "pypy"))


def _start_code(gives_way: bool) -> str:
    """What the new interpreter runs: it imports from where this one does, in the same order."""
    paths = [str(Path(entry).absolute()) for entry in sys.path if Path(entry).exists()]
    # Last, so that it hides nothing: where this package is, should it have come another way.
    paths.append(str(Path(__file__).parents[2]))
    return (
        f"import sys; sys.path[:] = {paths!r}; "
        "from modelviz_callbacks.jobs.worker_program import attend; "
        f"sys.exit(attend({os.getpid()}, {gives_way}))"
    )


# A worker on Windows cannot lower its own priority as one elsewhere does.
_LOW_PRIORITY: int = getattr(subprocess, "IDLE_PRIORITY_CLASS", 0)
