"""A function of the user's as a tracker: called once, with the files and the figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.interface import Tracker


class FunctionTracker(Tracker):
    """Collects what is logged, and hands it over at the end.

    Args:
        target: Called as ``target(files, figures)``: name of each file to its path, and name of
            each metric and tag to its value.
    """

    def __init__(self, target: Any) -> None:
        self._call = target
        self._files: dict[str, Path] = {}
        self._figures: dict[str, object] = {}
        self.name = str(getattr(target, "__name__", type(target).__name__))

    @property
    def place(self) -> str:
        """The function's name."""
        return f"{self.name}(files, figures)"

    def open(self) -> None:
        """Checks that there is something to call.

        Raises:
            TrackerError: It cannot be called.
        """
        if not callable(self._call):
            raise TrackerError(
                f"tracker={self.name} cannot be called: give a function of (files, figures)."
            )

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Keeps the files for the call."""
        self._files.update(files)

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Keeps the tags for the call."""
        self._figures.update(tags)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Keeps the metrics for the call."""
        self._figures.update(metrics)

    def close(self) -> None:
        """Calls the function, if there is anything to hand over; again, does nothing.

        Raises:
            TrackerError: The function raised.
        """
        files, self._files = self._files, {}
        if not files:
            return
        try:
            self._call(files, dict(self._figures))
        except Exception as error:
            said = without_credentials(f"{type(error).__name__}: {error}")
            raise TrackerError(
                f"the function {self.name}, given as tracker=, failed: {said}. The files are on "
                "disk."
            ) from error
