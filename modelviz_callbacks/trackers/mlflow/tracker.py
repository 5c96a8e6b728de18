"""Files, tags, metrics and a description into an MLflow run.

Everything goes through an ``MlflowClient`` of its own: no active run, tracking URI, experiment or
setting of the user's process is changed, and a server that is down costs a bounded time.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import posixpath
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from modelviz_callbacks.errors import SinkError, TrackerError
from modelviz_callbacks.trackers import checked_name
from modelviz_callbacks.trackers.interface import (
    FOLDER,
    Heard,
    Tracker,
    UploadError,
    linked,
    unheard,
)
from modelviz_callbacks.trackers.mlflow.calls import Caller, CallFailed
from modelviz_callbacks.trackers.mlflow.note import LONGEST_TAG, NOTE_TAG, merged_note
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowTracker"]

T = TypeVar("T")

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
# What MLflow says of a store that only the whole of it can open.
_IN_A_DATABASE = re.compile(r"unsupported URI '(sqlite|mysql|postgresql|mssql)")


class MlflowTracker(Tracker):
    """Stores into one MLflow run, whatever its state: running, nested or finished.

    What fails for the moment (no connection, a server's error) is tried again with growing pauses
    until the deadline; what cannot work is not. One deadline covers all that a tracker does and its
    clock starts with the first call, so make a new tracker for each occasion.

    Args:
        target: The run, or the store for a new one (which ``close`` ends).
        deadline_s: Longest time for everything together, in seconds; or a function that says how
            many seconds are left.
        timeout_s: Longest silence of the server in one request, in seconds.
        max_retries: How often MLflow itself repeats a request; each repetition is logged by
            urllib3, the tracker's own are not.
        run_name: Name of a new run; None lets MLflow choose.
        tries: How often a call is made that fails for the moment; None: until the deadline.
        heard: Is told of each call.
    """

    name = "MLflow"

    def __init__(
        self,
        target: MlflowTarget,
        *,
        deadline_s: float | Callable[[], float] = 60.0,
        timeout_s: float = 10.0,
        max_retries: int = 0,
        run_name: str | None = None,
        tries: int | None = None,
        heard: Heard = unheard,
    ) -> None:
        self.target = target
        self._caller = Caller(deadline_s, timeout_s, max_retries, tries, heard)
        self._run_name = run_name
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._experiment_id = "0"
        self._started = False

    @property
    def run_id(self) -> str:
        """The run that is written to; a new one is started here where none was given.

        Raises:
            TrackerError: The store cannot be reached, or has no such run.
        """
        if self._run_id is None:
            opening = self._start_run if self.target.run_id is None else self._find_run
            self._run_id = self.ask("open", opening)
        return self._run_id

    @property
    def experiment_id(self) -> str:
        """The experiment of the run.

        Raises:
            TrackerError: The store cannot be reached, or has no such run.
        """
        _ = self.run_id
        return self._experiment_id

    @property
    def place(self) -> str:
        """Where a person looks for the artifacts.

        Raises:
            TrackerError: The store cannot be reached, or has no such run.
        """
        run_id, uri = self.run_id, self.target.public_uri
        if uri.startswith(("http://", "https://")):
            page = f"{uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{run_id}"
            return f"{page}/artifacts/{FOLDER}"
        return f"MLflow run {run_id} in {uri}, artifacts under {FOLDER}/"

    def open(self) -> None:
        """Finds the run, or starts it.

        Raises:
            TrackerError: The store cannot be reached, or has no such run.
        """
        _ = self.run_id

    def log_files(self, files: Mapping[str, Path]) -> None:
        """Uploads files as artifacts of the run.

        Every file is tried. After a failure the others get a short try each, and what is missing
        is tried again until all of it arrived, cannot arrive, or time is up.

        Args:
            files: Name below ``model_graph`` to the file on disk.

        Raises:
            UploadError: Not all arrived; it names those that did and those that did not.
        """
        names = tuple(files)
        try:
            run_id = self.run_id
        except TrackerError as error:
            raise UploadError(
                f"{error} Nothing was uploaded: {', '.join(names)}.", (), names
            ) from None
        failed = self._upload(run_id, files)
        if not failed:
            return
        arrived = tuple(name for name in names if name not in failed)
        reasons = "; ".join(f"{name}: {error.reason}" for name, error in failed.items())
        raise UploadError(
            f"could not upload {len(failed)} of {len(names)} files to {self._described()}. "
            f"Missing: {reasons}. Arrived: {', '.join(arrived) or 'none'}. "
            f"{_advice(list(failed.values()))}",
            arrived,
            tuple(failed),
        )

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run, all in one request.

        Args:
            tags: Name to value; written as text, cut at MLflow's limit of 8000 characters.

        Raises:
            TrackerError: They could not be set.
        """
        run_id = self.run_id
        from mlflow.entities import RunTag

        batch = [RunTag(name, str(value)[:LONGEST_TAG]) for name, value in tags.items()]
        self.ask("set tags of", lambda client: client.log_batch(run_id, tags=batch))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics of the run at step 0, all in one request.

        Args:
            metrics: Name to value, in the unit that the name says.

        Raises:
            TrackerError: They could not be logged.
        """
        run_id = self.run_id
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        batch = [Metric(name, float(value), now_ms, 0) for name, value in metrics.items()]
        self.ask("log metrics of", lambda client: client.log_batch(run_id, metrics=batch))

    def log_description(self, section: str) -> None:
        """Puts our section into the run's description, beside what the user wrote.

        Args:
            section: Markdown; see `Tracker.log_description`. An older section is replaced.

        Raises:
            TrackerError: The description could not be read or written, has no room for the section
                (8000 characters in all), or lacks one of the section's two markers.
        """
        self.open()
        text = linked(section, self.artifact_link)
        if not self.ask("describe", lambda client: self._merge(client, text)):
            raise TrackerError(
                f"could not describe {self._described()}: its description has no room for the "
                f"model's section ({LONGEST_TAG} characters in all), or lacks one of the section's "
                "two markers. Shorten it, or take the other marker away, then upload again.",
                "the run's description has no room for it",
            )

    def log_model(self, path: Path, name: str) -> None:
        """Registers an ONNX file as a model of the run, unless the run has it already.

        Args:
            path: The ONNX file.
            name: What the model is called.

        Raises:
            TrackerError: It is no ONNX model, or MLflow did not take it.
        """
        from modelviz_callbacks.trackers.mlflow.model import log_onnx_model

        log_onnx_model(self, path, name)

    def artifact_link(self, path: str) -> str:
        """The address of an artifact of this run, as MLflow's description understands it.

        Args:
            path: The artifact, for example ``"model_graph/graph.svg"``.

        Raises:
            TrackerError: The run could not be opened.
        """
        return f"get-artifact?path={quote(path, safe='')}&run_uuid={self.run_id}"

    def close(self) -> None:
        """End the run if this tracker started it; a run of the user is left as it is.

        Raises:
            TrackerError: The run could not be ended.
        """
        if not self._started or self._run_id is None:
            return
        run_id, self._started = self._run_id, False
        try:
            client = self.client
            self._caller.once(lambda: client.set_terminated(run_id), last=True)
        except CallFailed as error:
            raise self._failed("end", error) from None

    @property
    def client(self) -> MlflowClient:
        """The client of the store; made once, without touching MLflow's own current one."""
        if self._client is None:
            try:
                # Imported here, so that the seconds it takes are not the server's.
                from mlflow import MlflowClient

                self._client = self._caller.once(lambda: MlflowClient(self.target.tracking_uri))
            except ImportError as error:
                raise self._failed("open", CallFailed(str(error), lasting=True)) from error
            except CallFailed as error:
                raise self._failed("open", error) from None
        return self._client

    def ask_once(self, what: str, action: Callable[[MlflowClient], T]) -> T:
        """Make a call on the store that must not be made twice, or that ends what was begun.

        Args:
            what: What the call does to the run, for the message.
            action: The call.

        Returns:
            What the call returns.

        Raises:
            TrackerError: It failed.
        """
        client = self.client
        try:
            return self._caller.once(lambda: action(client), last=True)
        except CallFailed as error:
            raise self._failed(what, error) from None

    def ask(self, what: str, action: Callable[[MlflowClient], T]) -> T:
        """Make a call on the store, again and again until it works or time is up.

        Args:
            what: What the call does to the run, for the message.
            action: The call; it must be harmless when made twice.

        Returns:
            What the call returns.

        Raises:
            TrackerError: It cannot work, or did not in time.
        """
        client = self.client
        try:
            return self._caller.until_done(lambda: action(client))
        except CallFailed as error:
            raise self._failed(what, error) from None

    def _failed(self, what: str, error: CallFailed) -> TrackerError:
        return TrackerError(
            f"could not {what} {self._described()}: {error.reason}. {_advice([error])}",
            error.reason,
        )

    def _merge(self, client: MlflowClient, section: str) -> bool:
        """Puts the section into the description; whether it is there now."""
        run_id = self.run_id
        before = client.get_run(run_id).data.tags.get(NOTE_TAG, "")
        after = merged_note(before, section)
        if after is not None and after != before:
            client.set_tag(run_id, NOTE_TAG, after)
        return after is not None

    def _upload(self, run_id: str, files: Mapping[str, Path]) -> dict[str, CallFailed]:
        """Uploads all files, in rounds; what is returned did not arrive, with the last reason."""
        lasting: dict[str, CallFailed] = {}
        waiting: dict[str, CallFailed | None] = dict.fromkeys(files)
        for _ in self._caller.rounds():
            down = False
            for name in tuple(waiting):
                try:
                    self._upload_one(run_id, name, files[name], quick=down)
                except CallFailed as error:
                    down = not error.lasting
                    waiting[name] = error
                    if error.lasting:
                        lasting[name] = error
                        del waiting[name]
                else:
                    down = False
                    del waiting[name]
            if not waiting:
                break
        lasting.update({name: error for name, error in waiting.items() if error is not None})
        return {name: lasting[name] for name in files if name in lasting}

    def _upload_one(self, run_id: str, name: str, path: Path, *, quick: bool) -> None:
        """Uploads one file under its name, which need not be the one it has on disk."""
        try:
            folder, base = posixpath.split(posixpath.join(FOLDER, checked_name(name)))
        except SinkError as error:
            raise CallFailed(str(error), lasting=True) from error
        client = self.client
        with tempfile.TemporaryDirectory(prefix="modelviz-") as scratch:
            source = path
            if base != path.name:
                source = Path(scratch, base)
                try:
                    shutil.copyfile(path, source)
                except OSError as error:
                    raise CallFailed(str(error), lasting=True) from error
            self._caller.once(
                lambda: client.log_artifact(run_id, str(source), folder),
                quick=quick,
                size_bytes=source.stat().st_size if source.exists() else None,
            )

    def _find_run(self, client: MlflowClient) -> str:
        run = client.get_run(self.target.run_id or "")
        if run.info.lifecycle_stage != "active":
            raise ValueError(f"the run is {run.info.lifecycle_stage}; restore it first")
        self._experiment_id = str(run.info.experiment_id)
        return str(run.info.run_id)

    def _start_run(self, client: MlflowClient) -> str:
        # The experiment is asked for first: a server that hangs is noticed before a run is asked
        # for that it may still start much later.
        self._experiment_id = self._experiment(client)
        tags = {"mlflow.user": _user(), "mlflow.source.name": Path(sys.argv[0]).name or "python"}
        run = client.create_run(self._experiment_id, tags=tags, run_name=self._run_name)
        self._started = True
        return str(run.info.run_id)

    def _experiment(self, client: MlflowClient) -> str:
        """The experiment of a new run, made if it is missing."""
        target = self.target
        if target.experiment_id is not None:
            return str(client.get_experiment(target.experiment_id).experiment_id)
        name = target.experiment_name or "Default"
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return str(client.create_experiment(name))
        return str(experiment.experiment_id)

    def _described(self) -> str:
        run = self._run_id or self.target.run_id
        return f"{f'MLflow run {run}' if run else 'a new MLflow run'} in {self.target.public_uri}"


def _advice(failures: list[CallFailed]) -> str:
    """What a person can do about it."""
    statuses = {failure.status for failure in failures}
    if statuses & {_UNAUTHORIZED, _FORBIDDEN}:
        advice = "Check the credentials (MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN)."
    elif _NOT_FOUND in statuses:
        advice = "Check the run id and the tracking URI: this store has no such run."
    elif any(_IN_A_DATABASE.search(failure.reason) for failure in failures) and _is_skinny():
        advice = "The mlflow-skinny that is installed has no store of its own: pip install mlflow."
    elif all(failure.lasting for failure in failures):
        advice = "Trying again will not help: correct what it names."
    else:
        advice = "Check that the server runs and is reachable, then upload again."
    return f"{advice} What was written to disk stays there."


def _is_skinny() -> bool:
    """Whether MLflow's client is here without MLflow."""
    try:
        importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


def _user() -> str:
    """Who started the run; a user id without a name is nobody's mistake."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
