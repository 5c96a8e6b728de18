"""What a worker is given to do, on disk, in a folder that belongs to this user alone."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modelviz_callbacks.artifacts.directory import remove_unfinished
from modelviz_callbacks.errors import WorkerError
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget

# Files of a job. Who renames the first one has the job: the worker to begin it, the training
# process to take it back.
_WAITING, _BEGUN, _TAKEN_BACK = "job.json", "begun.json", "taken-back.json"
_RECORDING, _MEASURED, _EVENTS = "recording", "measured.json", "events"
_REPORT, _DONE, _LEFT, _WRITTEN = "report.json", "done", "left-alone", "written.json"

# Values of ``Job.tensorboard`` with which events are left in the job.
STAGED = ("staged", "extras")

# Options that tell where, which the training process has decided.
_DECIDED = ("dirpath", "tensorboard", "mlflow", "tracker")


@dataclass
class Job:
    """One piece of work for a worker.

    Attributes:
        folder: Where the files go.
        options: What to make.
        report: Of this job alone.
        tensorboard: ``"folder"``: the worker writes the events where `event_folder` says;
            ``"staged"``: it leaves them in the job, for the process that owns the run's writer;
            ``"extras"``: it leaves all but the run's graph there; ``""``: there are none.
        event_folder: The folder of the events, or of the run's writer; ``""``: unknown.
        run: The MLflow run, without its store, whose address may hold credentials.
        stage: Which further recording of the run it is of; ``""``: the run's own.
        step: Of a later step that is compared with the graph before, its number; 0: none is.
        upload: Names of files to upload besides those that the worker makes.
        sys_path: Where the training process imports from.
        parent: Process that waits for the outcome.
        place: The job's own folder.
    """

    folder: Path
    options: Options
    report: Report
    tensorboard: str = ""
    event_folder: str = ""
    run: MlflowTarget | None = None
    stage: str = ""
    step: int = 0
    upload: list[str] = field(default_factory=list)
    sys_path: list[str] = field(default_factory=list)
    parent: int = field(default_factory=os.getpid)
    place: Path = Path()

    # --- made by the training process

    def save(self, recording: bytes | None = None, measured: bytes | None = None) -> None:
        """Puts the job into a new folder that nobody else may read or write.

        Args:
            recording: From `modelviz_callbacks.tracing.pack`; ``None``: there is none.
            measured: From `modelviz_callbacks.tracing.pack_measured`; ``None``: nothing was.

        Raises:
            OSError: It cannot be written.
        """
        self.place = _private_folder(self.folder)
        try:
            if recording is not None:
                self._write(_RECORDING, recording)
            if measured is not None:
                self._write(_MEASURED, measured)
            self._write(_WAITING, json.dumps(self._as_json()).encode())
        except BaseException:
            self.discard()
            raise

    def _write(self, name: str, data: bytes) -> None:
        with open(self.place / name, "xb", opener=_private) as file:
            file.write(data)

    def _as_json(self) -> dict[str, Any]:
        options = {
            entry.name: getattr(self.options, entry.name)
            for entry in fields(Options)
            if entry.name not in _DECIDED
        }
        run = None
        if self.run is not None:
            run = {
                "run_id": self.run.run_id,
                "experiment_id": self.run.experiment_id,
                "experiment_name": self.run.experiment_name,
            }
        return {
            "folder": str(self.folder),
            "options": options,
            "report": asdict(self.report),
            "tensorboard": self.tensorboard,
            "event_folder": self.event_folder,
            "run": run,
            "stage": self.stage,
            "step": self.step,
            "upload": self.upload,
            "sys_path": self.sys_path,
            "parent": self.parent,
        }

    def know(self, measured: bytes) -> bool:
        """Adds what was measured to a recording that waits for its files to be made.

        Args:
            measured: From `modelviz_callbacks.tracing.pack_measured`.

        Returns:
            Whether nobody has begun, so that all that is made will show it.

        Raises:
            OSError: It cannot be written.
        """
        if not (self.place / _WAITING).exists():
            return False
        unfinished = f"{_MEASURED}.part"
        self._write(unfinished, measured)
        self._rename(unfinished, _MEASURED)
        return (self.place / _WAITING).exists()

    def take_back(self) -> bool:
        """Takes the job away from the worker.

        Returns:
            Whether it had not begun; if so it never will.
        """
        return self._rename(_WAITING, _TAKEN_BACK)

    def take_over(self) -> bool:
        """Takes the job from a worker that has begun it and is about to be ended.

        Returns:
            Whether it had begun.
        """
        return self._rename(_BEGUN, _TAKEN_BACK)

    def offer_again(self) -> bool:
        """Lets a worker begin it: who had it was ended over it, or interrupted.

        Returns:
            Whether somebody had it.
        """
        remove_unfinished(self.folder)
        return self._rename(_BEGUN, _WAITING) or self._rename(_TAKEN_BACK, _WAITING)

    def leave_alone(self) -> None:
        """Says that nobody waits any longer, and nobody will take the staged events."""
        with contextlib.suppress(OSError):
            self._write(_LEFT, b"")

    # --- read by the worker

    @staticmethod
    def load(place: Path) -> Job:
        """Reads a job that `save` wrote.

        Args:
            place: The job's folder.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no job.
            WorkerError: The folder is not this user's own, or others may write to it.
        """
        check_private(place)
        names = [name for name in (_WAITING, _BEGUN, _TAKEN_BACK) if (place / name).exists()]
        given = json.loads((place / (names or [_WAITING])[0]).read_text(encoding="utf-8"))
        run = given["run"]
        return Job(
            Path(given["folder"]),
            Options(**given["options"]),
            Report.from_json(given["report"]),
            given["tensorboard"],
            given["event_folder"],
            None if run is None else MlflowTarget(**run),
            given["stage"],
            given["step"],
            given["upload"],
            given["sys_path"],
            given["parent"],
            place,
        )

    def begin(self) -> bool:
        """Claims the job.

        Returns:
            Whether nobody has taken it back.
        """
        return self._rename(_WAITING, _BEGUN)

    @property
    def has_begun(self) -> bool:
        """Whether a worker has claimed it."""
        return (self.place / _BEGUN).exists()

    def recording(self) -> bytes | None:
        """The packed recording, if there is one."""
        return self._read(_RECORDING)

    def measured(self) -> bytes | None:
        """What was measured in later steps, if anything was."""
        return self._read(_MEASURED)

    def _read(self, name: str) -> bytes | None:
        path = self.place / name
        return path.read_bytes() if path.exists() else None

    @property
    def staged_events(self) -> Path:
        """Where staged events are, once all of them are there."""
        return self.place / _EVENTS

    def note_events(self, row: str) -> None:
        """Remembers that the events of a row are where they belong, should it be done again.

        Args:
            row: The row's name.

        Raises:
            OSError: It cannot be written.
        """
        told = {"rows": [*self.events_written(), row], "stored": self.report.stored}
        unfinished = self.place / f"{_WRITTEN}.part"
        unfinished.unlink(missing_ok=True)
        self._write(unfinished.name, json.dumps(told).encode())
        unfinished.replace(self.place / _WRITTEN)

    def events_written(self) -> list[str]:
        """Names of the rows whose events are where they belong; the report learns where that is."""
        try:
            told = json.loads((self.place / _WRITTEN).read_bytes())
            names, stored = ([str(one) for one in told[key]] for key in ("rows", "stored"))
        except (OSError, ValueError, LookupError, TypeError):
            return []
        self.report.stored += [line for line in stored if line not in self.report.stored]
        return names

    @property
    def is_left_alone(self) -> bool:
        """Whether nobody waits for it any longer."""
        return (self.place / _LEFT).exists()

    # --- the outcome

    def publish_report(self) -> None:
        """Leaves the report for the process that waits.

        Raises:
            OSError: It cannot be written.
        """
        unfinished = self.place / f"{_REPORT}.part"
        unfinished.unlink(missing_ok=True)
        self._write(unfinished.name, self.report.to_json().encode())
        unfinished.replace(self.place / _REPORT)

    def published_report(self) -> Report | None:
        """What the worker has reported so far; ``None``: nothing yet."""
        try:
            text = (self.place / _REPORT).read_text(encoding="utf-8")
            return Report.from_json(json.loads(text))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def finish(self) -> None:
        """Says that all is done that will be, and removes what only the worker needed."""
        with contextlib.suppress(OSError):
            self._write(_DONE, b"")
        for name in (_RECORDING, _MEASURED):
            (self.place / name).unlink(missing_ok=True)

    @property
    def is_done(self) -> bool:
        """Whether the worker has said so; whoever waits takes the rest and discards it."""
        return (self.place / _DONE).exists()

    @property
    def is_over(self) -> bool:
        """Whether a worker has nothing more to do for it: it is done, taken back or discarded."""
        return self.is_done or (self.place / _TAKEN_BACK).exists() or not self.place.exists()

    @property
    def has_staged_events(self) -> bool:
        """Whether events wait to be taken."""
        return self.staged_events.exists()

    def take_events(self) -> Path | None:
        """The folder of the staged events, for the one who asks first; ``None``: none are there."""
        return self._taken_events if self._rename(_EVENTS, self._taken_events.name) else None

    @property
    def _taken_events(self) -> Path:
        return self.place / f"{_EVENTS}-taken"

    def events_delivered(self) -> None:
        """Says that the events that were taken are where they belong."""
        self._rename(self._taken_events.name, f"{_EVENTS}-delivered")

    @property
    def has_made_events(self) -> bool:
        """Whether all its staged events were made, taken or not."""
        endings = ("", "-taken", "-delivered")
        return any((self.place / f"{_EVENTS}{ending}").exists() for ending in endings)

    def _rename(self, name: str, new_name: str) -> bool:
        try:
            (self.place / name).rename(self.place / new_name)
        except OSError:
            return False
        return True

    def discard(self) -> None:
        """Removes the job's folder."""
        discard(self.place)


def discard(place: Path) -> None:
    """Removes a job's folder; the word that it is done last, for whoever finds what is left of it.

    Args:
        place: The folder.
    """
    with contextlib.suppress(OSError):
        for part in place.iterdir():
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            elif part.name != _DONE:
                part.unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _private_folder(folder: Path) -> Path:
    """A new folder for this user alone: beside the files, or where those of others cannot go."""
    folder.mkdir(parents=True, exist_ok=True)
    if _others_may_rename_in(folder):
        return Path(tempfile.mkdtemp(prefix="modelviz-job-"))
    place = folder / f".job-{secrets.token_hex(8)}"
    place.mkdir(0o700)
    return place


def _others_may_rename_in(folder: Path) -> bool:
    """Whether another user could put something else in the place of what is in a folder."""
    if not hasattr(os, "getuid"):
        return False
    for path in (folder.absolute(), *folder.absolute().parents):
        found = path.stat()
        is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_shared and not found.st_mode & stat.S_ISVTX:
            return True
        if found.st_uid not in (0, os.getuid()):
            return True
    return False


def check_private(place: Path) -> None:
    """Refuses a job's folder into which somebody else could have put something.

    Args:
        place: The folder.

    Raises:
        OSError: It cannot be looked at.
        WorkerError: It is a link, no folder, another user's, or open to others.
    """
    found = place.lstat()
    if not hasattr(os, "getuid"):
        return
    is_own = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not stat.S_ISDIR(found.st_mode) or not is_own:
        raise WorkerError(
            f"{place} is not a job of this user alone: nothing in it is read. It must be a "
            "folder that belongs to this user, with mode 700."
        )
