"""A report for the process that started the training, where another process trained.

With ``ddp_spawn`` and ``ddp_notebook`` a trainer and its callbacks are copied into processes that
are gone when ``fit`` returns. What was recorded is on disk; the report finds its way back through a
file that only this user may read, under a name that nobody can guess.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from pathlib import Path

from modelviz_callbacks.report import Report


class ReportMailbox:
    """Made with a callback, and copied with it."""

    def __init__(self) -> None:
        """Nothing is on disk yet."""
        self._name = f"modelviz-report-{secrets.token_hex(16)}.json"
        self._home = os.getpid()

    def leave(self, report: Report) -> None:
        """Leaves a report for the process that made the mailbox, unless this is it.

        Args:
            report: Of a finished run.
        """
        if os.getpid() == self._home:
            return
        with (
            contextlib.suppress(OSError, ValueError),
            open(self._path, "x", encoding="utf-8", opener=_private) as file,
        ):
            file.write(report.to_json())

    def collect(self) -> Report | None:
        """Takes what another process has left; ``None``: nothing is there."""
        if os.getpid() != self._home:
            return None
        try:
            text = self._path.read_text(encoding="utf-8")
            self._path.unlink()
            return Report.from_json(json.loads(text))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    @property
    def _path(self) -> Path:
        return Path(tempfile.gettempdir()) / self._name


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
