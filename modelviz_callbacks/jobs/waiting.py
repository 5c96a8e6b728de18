"""What a person sees while something is waited for: a line that moves, or one that stays."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelviz_callbacks.report import say


@contextlib.contextmanager
def shown(
    folder: Path, end: float, uploads: bool = False, is_known: bool = False
) -> Iterator[Callable[[str], None]]:
    """Shows what is waited for.

    Args:
        folder: Where the files go.
        end: Until when at most, in seconds of `time.monotonic`.
        uploads: Whether the wait is longer for as long as uploads arrive.
        is_known: Whether a line that stays was shown for an earlier wait of the same end.

    Yields:
        A function to be told how far it is.
    """
    limit_s = max(0.0, end - time.monotonic())
    message = f"modelviz: finishing the files in {folder} (at most {limit_s:.0f} s"
    message += ", longer while uploads arrive)" if uploads else ")"
    if not _is_terminal():
        if not is_known:
            say(message)
        yield lambda _: None
        return
    status = _started(message)
    if status is None and not is_known:
        say(message)

    def tell(progress: str) -> None:
        if status is not None:
            with contextlib.suppress(Exception):  # the terminal may go at any moment
                status.update(f"{message}: {progress}")

    try:
        yield tell
    finally:
        if status is not None:
            with contextlib.suppress(Exception):
                status.stop()


def _started(message: str) -> Any:
    """A line that moves; ``None`` where rich is not installed or the terminal takes none."""
    try:
        from rich.console import Console

        status = Console(stderr=True).status(message)
        status.start()
    except Exception:
        return None
    return status


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except Exception:  # somebody has put something else in its place
        return False
