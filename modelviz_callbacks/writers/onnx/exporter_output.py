"""What the exporters say goes into the package's log, not to the user's terminal.

torch and onnxscript print, warn and log while they convert. All of it is taken from the thread
that converts; what other threads say meanwhile goes where it always went.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

_LOG = logging.getLogger("modelviz_callbacks")

# The packages whose log lines are taken.
_SPEAKERS = ("torch", "onnxscript", "onnx_ir", "onnx", "onnxruntime")


@contextlib.contextmanager
def into_log() -> Iterator[None]:
    """Sends what this thread prints, warns of and logs to the log, at level ``DEBUG``.

    May be entered again inside, and by several threads at once; whoever leaves last puts
    everything back.
    """
    _ROUTER.enter()
    try:
        yield
    finally:
        _ROUTER.leave()


class _Router:
    """The one place that knows which threads are converting, and what was put in place for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depths: dict[int, int] = {}
        self._installed: contextlib.ExitStack | None = None
        self._filter = _Filter(self)

    def is_on(self) -> bool:
        """Whether the thread that asks is converting."""
        return threading.get_ident() in self._depths

    def enter(self) -> None:
        me = threading.get_ident()
        with self._lock:
            self._depths[me] = self._depths.get(me, 0) + 1
            if self._installed is None:
                with contextlib.ExitStack() as stack:
                    self._install(stack)
                    self._installed = stack.pop_all()

    def leave(self) -> None:
        me = threading.get_ident()
        with self._lock:
            self._depths[me] -= 1
            if not self._depths[me]:
                del self._depths[me]
            if not self._depths and self._installed is not None:
                installed, self._installed = self._installed, None
                installed.close()

    def _install(self, stack: contextlib.ExitStack) -> None:
        for name in ("stdout", "stderr"):
            self._route_stream(stack, name)
        self._route_warnings(stack)
        for logger in _loggers():
            logger.addFilter(self._filter)
            stack.callback(logger.removeFilter, self._filter)

    def _route_stream(self, stack: contextlib.ExitStack, name: str) -> None:
        original = getattr(sys, name)
        if original is None:
            return
        routed = _Stream(self, original)
        setattr(sys, name, routed)

        def restore() -> None:
            if getattr(sys, name) is routed:
                setattr(sys, name, original)

        stack.callback(restore)

    def _route_warnings(self, stack: contextlib.ExitStack) -> None:
        shown = warnings.showwarning

        def show(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
            if self.is_on():
                _LOG.debug("%s: %s (%s:%s)", category.__name__, message, filename, lineno)
            else:
                shown(message, category, filename, lineno, *rest)

        warnings.showwarning = show  # type: ignore[assignment]

        def restore() -> None:
            if warnings.showwarning is show:
                warnings.showwarning = shown

        stack.callback(restore)
        # Filters belong to all threads: this one matches in those that convert, whatever the text.
        entry: Any = ("always", _Here(self), Warning, None, 0)
        filters: Any = warnings.filters
        filters.insert(0, entry)

        def forget() -> None:
            present: Any = warnings.filters  # another list, if somebody has put one in its place
            for place in (filters, present):
                with contextlib.suppress(ValueError):
                    place.remove(entry)

        stack.callback(forget)


def _loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return [
        logger
        for name, logger in known
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _SPEAKERS
    ]


class _Here:
    """Matches every text in the threads that convert, and none in the others."""

    def __init__(self, router: _Router) -> None:
        self._router = router

    def match(self, _: str) -> bool:
        return self._router.is_on()


class _Filter(logging.Filter):
    """Takes the log lines of the threads that convert."""

    def __init__(self, router: _Router) -> None:
        super().__init__()
        self._router = router

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._router.is_on():
            return True
        with contextlib.suppress(Exception):  # a message that does not fit its arguments
            _LOG.debug("%s: %s", record.name, record.getMessage())
        return False


class _Stream:
    """A stream that sends what the threads that convert write into the log."""

    def __init__(self, router: _Router, original: TextIO) -> None:
        self._router = router
        self._original = original

    def write(self, text: str) -> int:
        if not self._router.is_on():
            return int(self._original.write(text))
        if text.strip():
            _LOG.debug("%s", text.rstrip())
        return len(text)

    def flush(self) -> None:
        self._original.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


_ROUTER = _Router()
