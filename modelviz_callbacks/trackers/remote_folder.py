"""A folder that fsspec knows (``s3://``, ``gs://``, ``memory://``): it gets the files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers import checked_name
from modelviz_callbacks.trackers.interface import Tracker, store_each


class RemoteFolderTracker(Tracker):
    """Copies the files.

    Args:
        target: The folder's URL; the file system's settings are those of fsspec.
    """

    name = "folder"

    def __init__(self, target: Any) -> None:
        self._url = str(target).rstrip("/")
        self._system: Any = None
        self._root = ""

    @property
    def place(self) -> str:
        """The URL, without credentials."""
        return without_credentials(self._url)

    def open(self) -> None:
        """Finds the file system.

        Raises:
            TrackerError: There is none for such a URL, or it cannot be used.
        """
        from fsspec.core import url_to_fs

        try:
            self._system, self._root = url_to_fs(self._url)
        except Exception as error:  # its package is missing, or refuses the address
            said = without_credentials(f"{type(error).__name__}: {error}")
            raise TrackerError(f"cannot write to {self.place}: {said}.") from error

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Copies the files, each whole.

        Raises:
            UploadError: Not all arrived.
        """
        store_each(files, self._store, self.place)

    def _store(self, name: str, path: Path) -> None:
        place = f"{self._root.rstrip('/')}/{checked_name(name)}"
        self._system.makedirs(place.rpartition("/")[0], exist_ok=True)
        self._system.pipe_file(place, path.read_bytes())

    def close(self) -> None:
        """Nothing is open between two files."""
