"""What was written where, what was refused and why."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.libraries import missing_library

# Letters of a reason; somebody's error may be a page of a server.
_LONGEST_WHY = 5000


class ModelvizWarning(UserWarning):
    """Something of the graph could not be made or stored; training is not affected."""


@dataclass
class Refusal:
    """One thing that was not made or not stored.

    Attributes:
        what: The file or destination.
        why: One sentence, with what to do about it.
    """

    what: str
    why: str


@dataclass
class Report:
    """The outcome of one capture; grows until the logger or hook is closed.

    Attributes:
        name: What the graph is called.
        folder: Where the files are.
        files: Names of the files there.
        stored: The other places that have the graph now (a TensorBoard run, an MLflow run).
        refused: What was not made or not stored.
        remarks: What else a person should know.
        figures: Numbers about the model and the files: ``parameters``, ``trainable``, ``ops``,
            ``modules``, ``flops``, ``kept_bytes``, ``peak_bytes``, ``onnx_max_difference``.
        mlflow_run_id: The MLflow run that has the files; ``""``: none.
    """

    name: str
    folder: str
    files: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    mlflow_run_id: str = ""

    @staticmethod
    def from_json(given: dict[str, Any]) -> Report:
        """The report that `to_json` wrote, parsed."""
        refused = [Refusal(**refusal) for refusal in given["refused"]]
        return Report(**{**given, "refused": refused})

    def add(self, other: Report) -> None:
        """Takes over what another report of the same capture says."""
        self.files += [name for name in other.files if name not in self.files]
        self.stored += [place for place in other.stored if place not in self.stored]
        self.refused += other.refused
        self.remarks += other.remarks
        self.figures |= other.figures
        self.mlflow_run_id = other.mlflow_run_id or self.mlflow_run_id

    def refuse(self, what: str, error: BaseException | str) -> None:
        """Notes that something failed.

        Args:
            what: The file or destination.
            error: What went wrong.
        """
        missing = "" if isinstance(error, str) else missing_library(error)
        if missing:
            error = missing
        text = error if isinstance(error, str) else str(error) or type(error).__name__
        known = isinstance(error, str) or type(error).__module__.startswith("modelviz_callbacks")
        why = text if known else f"{type(error).__name__}: {text}"
        self.refused.append(Refusal(what, without_credentials(why, _LONGEST_WHY)))

    def to_json(self) -> str:
        """The report as JSON text, without credentials, ending in a newline."""
        told = asdict(self)
        for name in ("stored", "remarks"):
            told[name] = [without_credentials(line) for line in told[name]]
        return json.dumps(told, indent=2) + "\n"

    def summary(self) -> str:
        """One line, without credentials: what it is, how large, where it was put, how to look.

        Paths below the working directory are told from there. A command is told where it is there.
        """
        figures = self.figures
        counts = f"{figures.get('ops', 0):,.0f} ops, {figures.get('parameters', 0):,.0f} parameters"
        stored = [place for place in self.stored if _can_be_looked_at(place)]
        if not stored and self.folder:
            stored = [f"to look: modelviz show {shlex.quote(self.folder)}"]
        places = "".join(f"; {place}" for place in stored)
        line = f"modelviz: {self.name} ({counts}) is in {self.folder}{places}"
        return without_credentials(from_here(line))

    def warn(self) -> None:
        """One warning for all that was refused, a line for each reason; none if nothing was."""
        if not self.refused:
            return
        alike: dict[str, list[str]] = {}
        for what, why in dict.fromkeys((one.what, one.why) for one in self.refused):
            # A folder that cannot be written to is one reason, told with each file's own name.
            alike.setdefault(why.replace(what, "\0"), []).append(what)
        lines = [
            f"  {', '.join(whats)}: {why.replace(chr(0), whats[0] if len(whats) == 1 else '...')}"
            for why, whats in alike.items()
        ]
        count = len({one.what for one in self.refused})
        warn("\n".join([f"Of the graph of {self.name}, {count} part(s) are missing:", *lines]))


def _can_be_looked_at(place: str) -> bool:
    """Whether the program that a place is told with is installed here."""
    if not place.startswith("TensorBoard: tensorboard "):
        return True
    try:
        found = importlib.util.find_spec("tensorboard")
        # A folder of that name, with the logs of runs, is taken for a package without a file.
        return found is not None and found.origin is not None
    except (ImportError, ValueError):  # it is there, in a form of somebody's own
        return True


def from_here(line: str) -> str:
    """A line with paths as from the working directory; those in a URL stay as they are."""
    try:
        here = Path.cwd()
    except OSError:  # it is gone
        return line
    if here == here.parent:
        return line
    return re.sub(rf"(?<![\w/:.]){re.escape(f'{here}{os.sep}')}", "", line)


def say(message: str) -> None:
    """Prints a line, and never raises: the output may be closed, gone, or anybody's object."""
    line = plain_text(message)
    # An own object may raise anything; what ends the program (Ctrl-C) still does.
    with contextlib.suppress(Exception):
        try:
            print(line, flush=True)
        except UnicodeEncodeError:
            print(line.encode("ascii", "backslashreplace").decode(), flush=True)


def warn(message: str) -> None:
    """Warns, and never raises: warnings may be errors, and whoever shows them may fail."""
    try:
        # Not a line of ours: what failed is in the message.
        warnings.warn_explicit(message, ModelvizWarning, "modelviz_callbacks", 0)
    except Exception:
        with contextlib.suppress(Exception):
            print(f"modelviz_callbacks: {plain_text(message)}", file=sys.stderr)
