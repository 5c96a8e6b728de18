"""A task of ClearML: files as artifacts, figures as single values, properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.interface import FOLDER, Tracker, store_each


class ClearmlTracker(Tracker):
    """Writes into a task that somebody has begun, and never closes it.

    Args:
        target: A ``clearml.Task``, online or offline.
    """

    name = "ClearML"

    def __init__(self, target: Any) -> None:
        self._task = target

    @property
    def place(self) -> str:
        """The task's address; offline its id."""
        if self._task.is_offline():
            return self.run_id
        return str(self._task.get_output_log_web_page() or self.run_id)

    @property
    def run_id(self) -> str:
        """The task's id."""
        return str(getattr(self._task, "id", ""))

    def open(self) -> None:
        """Checks that it is a task.

        Raises:
            TrackerError: It is none.
        """
        if not hasattr(self._task, "upload_artifact"):
            raise TrackerError(f"expected a clearml.Task, found a {type(self._task).__name__}.")

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Stores the files as artifacts ``model_graph/<name>``.

        Raises:
            UploadError: Not all were taken.
        """
        store_each(files, self._store, self.name)

    def _store(self, name: str, path: Path) -> None:
        artifact = f"{FOLDER}/{name}"
        if not self._task.upload_artifact(artifact, artifact_object=path, auto_pickle=False):
            raise TrackerError("it was not taken")

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Sets the tags as properties of the task, where tasks are searched by them.

        Raises:
            TrackerError: They were not taken.
        """
        properties = {name.replace(".", "_"): str(value) for name, value in tags.items()}
        self._try("set the properties", lambda: self._task.set_user_properties(**properties))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Reports the metrics as single values; no plot gets a point.

        Raises:
            TrackerError: They were not taken.
        """
        logger = self._task.get_logger()
        for name, value in metrics.items():
            self._try("report a value", partial(logger.report_single_value, name, value))

    def close(self) -> None:
        """Leaves the task to whoever began it."""

    def _try(self, what: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            said = without_credentials(f"{type(error).__name__}: {error}")
            raise TrackerError(f"could not {what} of the ClearML task: {said}.") from error
