"""What a worker process is told to do, on disk."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.mlflow_target import MlflowTarget

_JOB, _RECORDING, _EVENTS = "job.json", "recording.pickle", "events"
_REPORT, _LEFT = "report.json", "left-alone"

# Values of ``Job.tensorboard`` with which events are left in the job.
STAGED = ("staged", "extras")

# Options that tell where, which the training process has decided.
_DECIDED = ("dirpath", "tensorboard", "mlflow")


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
        run: The MLflow run, without its store: that is in the worker's environment.
        upload: Names of files to upload beside those that the worker makes.
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
    upload: list[str] = field(default_factory=list)
    sys_path: list[str] = field(default_factory=list)
    parent: int = field(default_factory=os.getpid)
    place: Path = Path()

    def save(self, recording: bytes | None) -> None:
        """Puts the job into a new folder beside its files.

        Args:
            recording: From `modelviz_callbacks.tracing.pack`; ``None``: nothing is to be made.

        Raises:
            OSError: It cannot be written.
        """
        self.place = self.folder / f".job-{secrets.token_hex(8)}"
        self.place.mkdir(parents=True)
        try:
            if recording is not None:
                (self.place / _RECORDING).write_bytes(recording)
            (self.place / _JOB).write_text(json.dumps(self._as_json()), encoding="utf-8")
        except BaseException:
            self.discard()
            raise

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
            "upload": self.upload,
            "sys_path": self.sys_path,
            "parent": self.parent,
        }

    @staticmethod
    def load(place: Path) -> Job:
        """Reads a job that `save` wrote.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no job.
        """
        given = json.loads((place / _JOB).read_text(encoding="utf-8"))
        run = given["run"]
        return Job(
            Path(given["folder"]),
            Options(**given["options"]),
            Report.from_json(given["report"]),
            given["tensorboard"],
            given["event_folder"],
            None if run is None else MlflowTarget(**run),
            given["upload"],
            given["sys_path"],
            given["parent"],
            place,
        )

    def recording(self) -> bytes | None:
        """The packed recording, if there is one."""
        path = self.place / _RECORDING
        return path.read_bytes() if path.exists() else None

    @property
    def staged_events(self) -> Path:
        """Where staged events are, once all of them are there."""
        return self.place / _EVENTS

    def tell(self) -> None:
        """Leaves the report for the process that waits.

        Raises:
            OSError: It cannot be written.
        """
        unfinished = self.place / f"{_REPORT}.part"
        unfinished.write_text(self.report.to_json(), encoding="utf-8")
        unfinished.replace(self.place / _REPORT)

    def told(self) -> Report | None:
        """What the worker has told so far; ``None``: nothing yet."""
        try:
            text = (self.place / _REPORT).read_text(encoding="utf-8")
            return Report.from_json(json.loads(text))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def leave_alone(self) -> None:
        """Says that nobody waits any longer, and nobody will take the staged events."""
        with contextlib.suppress(OSError):
            (self.place / _LEFT).touch()

    @property
    def is_left_alone(self) -> bool:
        """Whether somebody said so."""
        return (self.place / _LEFT).exists()

    def take_events(self) -> Path | None:
        """The folder of the staged events, for the one who asks first; ``None``: none are there."""
        taken = self.place / f"{_EVENTS}-taken"
        try:
            return self.staged_events.rename(taken)
        except OSError:
            return None

    def done(self) -> None:
        """Removes what only the worker needed; who waits takes the rest and discards it."""
        for name in (_JOB, _RECORDING):
            (self.place / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes the job's folder."""
        shutil.rmtree(self.place, ignore_errors=True)
