"""A run of Weights & Biases: files, the page as a panel, summary, config.

The run belongs to the process that began it, so it is written to from there; what goes over the
network is sent by W&B's own service process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers import checked_name
from modelviz_callbacks.trackers.interface import FOLDER, Tracker, store_each

_PAGE = "index.html"


class WandbTracker(Tracker):
    """Writes into a run that somebody has begun, and never ends it.

    Args:
        target: A ``wandb.Run``, online, offline or disabled.
    """

    name = "W&B"

    def __init__(self, target: Any) -> None:
        self._run = target

    @property
    def place(self) -> str:
        """The run's address; offline its folder."""
        return str(getattr(self._run, "url", None) or getattr(self._run, "dir", ""))

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(getattr(self._run, "id", ""))

    def open(self) -> None:
        """Checks that the run still goes on.

        Raises:
            TrackerError: It is no run, or has ended.
        """
        if not hasattr(self._run, "log") or not hasattr(self._run, "config"):
            raise TrackerError(f"expected a wandb.Run, found a {type(self._run).__name__}.")
        try:
            self._run.log({}, commit=False)  # W&B refuses it once the run has ended
        except Exception as error:
            raise TrackerError(
                f"the W&B run {self.run_id} was finished before the recording was: end the "
                "GraphHook, or the training, before wandb.finish().",
                "the run was finished",
            ) from error

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Puts the files among the run's, and the page into a panel.

        Raises:
            UploadError: Not all could be handed over.
        """
        home = Path(self._run.dir)
        try:
            store_each(files, lambda name, path: self._store(home, name, path), self.name)
        finally:
            if _PAGE in files and (home / FOLDER / _PAGE).exists():
                self._try("show the page", lambda: self._log_page(files[_PAGE]))

    def _store(self, home: Path, name: str, path: Path) -> None:
        kept = home / FOLDER / checked_name(name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
        self._run.save(str(kept), base_path=str(home), policy="now")

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Puts the tags into the run's config, where runs are filtered by them.

        Raises:
            TrackerError: They were not taken.
        """
        config = {_plain(name): str(value) for name, value in tags.items()}
        self._try("set the config", lambda: self._run.config.update(config, allow_val_change=True))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Puts the metrics into the run's summary; the history and its steps stay the user's.

        Raises:
            TrackerError: They were not taken.
        """
        summary = {_plain(name): value for name, value in metrics.items()}
        self._try("write the summary", lambda: self._run.summary.update(summary))

    def close(self) -> None:
        """Leaves the run to whoever began it."""

    def _log_page(self, page: Path) -> None:
        import wandb

        # Without a commit it belongs to the step that the user logs next: no step is added.
        self._run.log({"modelviz/page": wandb.Html(str(page))}, commit=False)

    def _try(self, what: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            said = without_credentials(f"{type(error).__name__}: {error}")
            raise TrackerError(f"could not {what} of the W&B run {self.run_id}: {said}.") from error


def _plain(name: str) -> str:
    """A name for W&B, which makes groups at ``/`` and reads a dot as a way into a dictionary."""
    return name.replace(".", "/", 1)
