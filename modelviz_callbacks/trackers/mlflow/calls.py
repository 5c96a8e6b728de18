"""Calls to MLflow that end: in time, in a result or in one sentence, and leave no trace behind."""

from __future__ import annotations

import contextvars
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.trackers.interface import Heard, unheard

__all__ = ["CallFailed", "Caller", "bounded"]

T = TypeVar("T")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_GRACE_S = 2.0
_LONGEST_CALL_S = 300.0
_LOOK_EVERY_S = 1.0
# Of a file that is being sent: what is read besides is less.
_GOES_ON_BYTES = 256 * 1024
_LONGEST_REASON = 300
_LONGEST_LINE = 50_000
_NO_TIME = "no answer before time was up"
_CAUSE = re.compile(r"""\(Caused by \w+\(["'](.{0,500}?)["']\)\)""")
_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT, _SERVER_ERRORS = 429, 408, 500


class CallFailed(Exception):
    """One call to MLflow failed.

    Attributes:
        reason: Why, without credentials.
        lasting: Whether trying again is useless.
        status: The HTTP status that says why, or None.
    """

    def __init__(self, reason: str, *, lasting: bool, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting
        self.status = status


class _Settings:
    """MLflow's settings in this process's environment, shared by all who need them at once.

    MLflow takes them from nowhere else. The first who comes keeps what was there, the last who
    leaves puts it back: two threads that are here at one time leave nothing behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: dict[str, str | None] = {}

    @contextmanager
    def apply(self, wanted: dict[str, str]) -> Iterator[None]:
        """Sets variables for a block; of several blocks at once the latest one's values count."""
        with self._lock:
            if not self._users:
                self._before = {name: os.environ.get(name) for name in wanted}
            self._users += 1
            os.environ.update(wanted)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    _restore(self._before)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_SETTINGS = _Settings()


@contextmanager
def bounded(max_retries: int = 0, timeout_s: float = 10.0) -> Iterator[None]:
    """Bound the time of MLflow's HTTP requests in this block, and let it print nothing.

    MLflow reads its bounds from the environment at each request. Left alone, one request to a
    server that is down takes four minutes, to one that hangs twenty. The environment belongs to
    the process, so the process that trains never comes here: what it uploads in place goes
    through one of its own (`modelviz_callbacks.jobs.upload_process`).

    Args:
        max_retries: How often MLflow itself repeats a failed request.
        timeout_s: Longest silence of the server, in seconds; whole seconds, at least 1.
    """
    seconds = str(max(1, round(timeout_s)))
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(max_retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": seconds,
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        # A server may ask to be left alone for an hour.
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
        "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": seconds,
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    with _SETTINGS.apply(wanted):
        yield


class Caller:
    """Makes calls under one deadline, which starts to run with the first of them.

    Requests over HTTP are bounded by MLflow's own settings; anything else that may hang (a
    database, a cloud's upload, a name lookup) by running the call in a thread that is left alone
    when time is up.

    Args:
        deadline_s: Seconds for all calls together, pauses included; or a function that says how
            many are left, which may be ``math.inf`` until it is known.
        timeout_s: Longest silence of a server in one request, in seconds.
        max_retries: How often MLflow itself repeats a failed request.
        tries: How often a call is made that fails for the moment; ``None``: until time is up.
        heard: Is told of each call.
    """

    def __init__(
        self,
        deadline_s: float | Callable[[], float],
        timeout_s: float,
        max_retries: int = 0,
        tries: int | None = None,
        heard: Heard = unheard,
    ) -> None:
        self._tries = tries
        self._heard = heard
        self._deadline_s = deadline_s
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._end: float | None = None

    def remaining_s(self) -> float:
        """Seconds left; the clock starts when this is first asked."""
        if callable(self._deadline_s):
            return max(0.0, self._deadline_s())
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._deadline_s
        return max(0.0, self._end - now)

    def once(
        self,
        action: Callable[[], T],
        *,
        quick: bool = False,
        last: bool = False,
        size_bytes: int | None = None,
    ) -> T:
        """Make one call.

        Args:
            action: The call.
            quick: Wait two seconds for the server at most, and let MLflow repeat nothing: for a
                server that has just failed.
            last: Take two seconds even when time is up: for calls that end what was begun.
            size_bytes: Of the file that the call sends.

        Returns:
            What the call returns.

        Raises:
            CallFailed: It raised, or time was up before it ended.
        """
        left = max(self.remaining_s(), _GRACE_S if last else 0.0)
        if left <= 0:
            raise CallFailed(_NO_TIME, lasting=False)
        timeout_s = min(self._timeout_s, left, _GRACE_S if quick else left)
        with bounded(0 if quick else self._max_retries, timeout_s):
            limit_s = min(left, _LONGEST_CALL_S)
            # Asked again meanwhile: what was time without limit may have become little.
            remaining_s = (lambda: limit_s) if last else self.remaining_s
            self._heard(None, None)
            try:
                result = _in_time(action, limit_s, remaining_s, self._look(size_bytes))
            except CallFailed:
                self._heard(False, None)
                raise
            self._heard(True, size_bytes)
            return result

    def _look(self, size_bytes: int | None) -> Callable[[], None]:
        """Says of a large file, while it is sent, that more of it was read."""
        before = _bytes_read()

        def look() -> None:
            nonlocal before
            now = _bytes_read()
            if size_bytes is not None and now - before >= _GOES_ON_BYTES:
                before = now
                self._heard(None, None)

        return look

    def until_done(self, action: Callable[[], T]) -> T:
        """Make one call again and again, with growing pauses, until it works or time is up.

        Args:
            action: The call; it must be harmless when made twice.

        Returns:
            What the call returns.

        Raises:
            CallFailed: It cannot work, or time was up; it says why it failed last.
        """
        for _ in self.rounds():
            try:
                return self.once(action)
            except CallFailed as error:
                failure = error
                if error.lasting:
                    break
        raise failure

    def rounds(self) -> Iterator[None]:
        """Give one turn now, and then more, with growing pauses between, until time is up.

        There are no more of them than tries.
        """
        pause_s, turns = _FIRST_PAUSE_S, 1
        yield
        # The pauses shrink towards the end, so that a server that is back late is still noticed.
        while (left := self.remaining_s()) > _FIRST_PAUSE_S and turns != self._tries:
            turns += 1
            time.sleep(min(pause_s, left / 2))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            yield


def _bytes_read() -> int:
    """How many bytes this process has read from files; 0 where that is not known."""
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _in_time(
    action: Callable[[], T],
    limit_s: float,
    remaining_s: Callable[[], float],
    look: Callable[[], None],
) -> T:
    """Run a call in a thread and wait for it.

    Args:
        action: The call.
        limit_s: Longest time, in seconds.
        remaining_s: Gives the seconds that are left for everything; asked while waiting.
        look: Called now and then while waiting.

    Returns:
        What the call returns.

    Raises:
        CallFailed: It raised, or time was up before it ended.
    """
    results: list[T] = []
    failures: list[CallFailed] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception as error:
            failures.append(_failure(error))

    # MLflow keeps the workspace and its request settings in context variables.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="modelviz-mlflow", daemon=True)
    thread.start()
    end = time.monotonic() + limit_s
    while thread.is_alive() and (left := end - time.monotonic()) > 0 and remaining_s() > 0:
        thread.join(min(left, _LOOK_EVERY_S))
        look()
    if results:
        return results[0]
    # The original is not chained: its text, which a traceback would print, may hold credentials.
    raise failures[0] if failures else CallFailed(_NO_TIME, lasting=False)


def _failure(error: Exception) -> CallFailed:
    """Say in one line why a call failed, and whether it is worth trying again."""
    status = _http_status(error)
    if status is not None:
        transient = status in (_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT) or status >= _SERVER_ERRORS
        lasting = not transient
    else:
        lasting = isinstance(
            error, (ImportError, TypeError, ValueError, FileNotFoundError, PermissionError)
        )
    return CallFailed(_reason(error), lasting=lasting, status=status)


def _reason(error: Exception) -> str:
    """The informative part of an error's text, without credentials."""
    said = str(error).strip()[:_LONGEST_LINE].splitlines()
    text = without_credentials(next(iter(said), ""))
    # The whole request stands in front of what went wrong with it, MLflow's advice to wait longer
    # behind it.
    cause = _CAUSE.search(text)
    text = (cause.group(1) if cause else text).partition(" To increase the timeout")[0]
    # Cut last: half a credential would not be recognised.
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON]}…"
    return text.strip(" .") or type(error).__name__


def _http_status(error: Exception) -> int | None:
    """The HTTP status that an error of MLflow or requests stands for."""
    response = getattr(error, "response", None)
    if response is not None and hasattr(response, "status_code"):
        return int(response.status_code)
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if callable(status) else None
