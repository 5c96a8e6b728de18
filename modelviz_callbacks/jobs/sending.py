"""How far an upload is: written by the worker, read by the process that waits for it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

_NAME = "sending.json"


class Sent(NamedTuple):
    """What a store has been asked and has got.

    Attributes:
        signs: How often a call began, ended or was seen to go on.
        answers: Calls that worked.
        files: Files that have arrived.
        size_bytes: How large these are.
        fails: Whether the last call failed.
    """

    signs: int = 0
    answers: int = 0
    files: int = 0
    size_bytes: int = 0
    fails: bool = False

    def __str__(self) -> str:
        """As a person is told of it."""
        size_kb = self.size_bytes / 1000
        size = f"{size_kb / 1000:.1f} MB" if size_kb >= 1000 else f"{size_kb:.0f} kB"
        return f"{self.files} sent ({size})"


class Sending:
    """Counts what a store answers, and leaves the figures in a job's folder."""

    def __init__(self, place: Path) -> None:
        """Nothing was asked yet, and nothing is written.

        Args:
            place: The job's folder.
        """
        self._path = place / _NAME
        self._sent = Sent()

    def heard(self, answered: bool | None, size_bytes: int | None = None) -> None:
        """Takes note of a call to the store.

        Args:
            answered: Whether it worked; ``None``: it has begun or goes on.
            size_bytes: Of the file that it sent.
        """
        sent = self._sent
        arrived = bool(answered) and size_bytes is not None
        self._sent = Sent(
            sent.signs + 1,
            sent.answers + bool(answered),
            sent.files + arrived,
            sent.size_bytes + (size_bytes or 0 if arrived else 0),
            sent.fails if answered is None else not answered,
        )
        unfinished = self._path.with_suffix(".part")
        with contextlib.suppress(OSError):
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                json.dump(self._sent, file)
            unfinished.replace(self._path)


def sent_of(place: Path) -> Sent | None:
    """How far the upload of a job is.

    Args:
        place: The job's folder.

    Returns:
        What the worker has said; ``None``: it has asked nothing yet.
    """
    try:
        signs, answers, files, size_bytes, fails = json.loads(
            (place / _NAME).read_text(encoding="ascii")
        )
        return Sent(int(signs), int(answers), int(files), int(size_bytes), bool(fails))
    except (OSError, ValueError, TypeError):
        return None
