"""Files, tags, metrics and a description into an MLflow run.

Everything goes through an ``MlflowClient`` of its own: no active run, tracking URI, experiment or
setting of the user's process is changed, and a server that is down costs a bounded time.
"""

from __future__ import annotations

import getpass
import posixpath
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from modelviz_callbacks.errors import SinkError
from modelviz_callbacks.trackers import checked_name
from modelviz_callbacks.trackers.credentials import without_credentials
from modelviz_callbacks.trackers.mlflow_calls import Caller, CallFailed, bounded
from modelviz_callbacks.trackers.mlflow_note import LONGEST_TAG, NOTE_TAG, merged_note
from modelviz_callbacks.trackers.mlflow_target import MlflowTarget, find_target

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "MlflowSink",
    "MlflowTarget",
    "UploadError",
    "bounded",
    "find_target",
    "merged_note",
    "without_credentials",
]

T = TypeVar("T")

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404


class UploadError(SinkError):
    """Some files did not arrive in the run.

    Attributes:
        arrived: Names of the files that are in the run.
        missing: Names of the files that are not; pass only these to try again.
    """

    def __init__(self, message: str, arrived: tuple[str, ...], missing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.arrived = arrived
        self.missing = missing


class MlflowSink:
    """Stores into one MLflow run, whatever its state: running, nested or finished.

    What fails for the moment (no connection, a server's error) is tried again with growing pauses
    until the deadline; what cannot work is not. One deadline covers all that a sink does and its
    clock starts with the first call, so make a new sink for each occasion.

    Args:
        target: The run, or the store for a new one (which ``close`` ends).
        deadline_s: Longest time for everything together, in seconds; or a function that says how
            many seconds are left.
        timeout_s: Longest silence of the server in one request, in seconds.
        max_retries: How often MLflow itself repeats a request; each repetition is logged by
            urllib3, the sink's own are not.
        run_name: Name of a new run; None lets MLflow choose.
    """

    def __init__(
        self,
        target: MlflowTarget,
        *,
        deadline_s: float | Callable[[], float] = 60.0,
        timeout_s: float = 10.0,
        max_retries: int = 0,
        run_name: str | None = None,
    ) -> None:
        self.target = target
        self._caller = Caller(deadline_s, timeout_s, max_retries)
        self._run_name = run_name
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._experiment_id = "0"
        self._started = False

    @property
    def run_id(self) -> str:
        """The run that is written to; a new one is started here where none was given.

        Raises:
            SinkError: The store cannot be reached, or has no such run.
        """
        if self._run_id is None:
            opening = self._start_run if self.target.run_id is None else self._find_run
            self._run_id = self.ask("open", opening)
        return self._run_id

    @property
    def experiment_id(self) -> str:
        """The experiment of the run.

        Raises:
            SinkError: The store cannot be reached, or has no such run.
        """
        _ = self.run_id
        return self._experiment_id

    def store(self, files: Mapping[str, Path], artifact_path: str = "model_graph") -> str:
        """Upload files as artifacts of the run.

        Every file is tried. After a failure the others get a short try each, and what is missing
        is tried again until all of it arrived, cannot arrive, or time is up.

        Args:
            files: Name below ``artifact_path`` to the file on disk.
            artifact_path: Folder among the run's artifacts.

        Returns:
            Where the files are now, for people.

        Raises:
            UploadError: Not all arrived; it names those that did and those that did not.
            SinkError: A name is not plain.
        """
        for name in (artifact_path, *files):
            checked_name(name)
        names = tuple(files)
        try:
            run_id = self.run_id
        except SinkError as error:
            raise UploadError(
                f"{error} Nothing was uploaded: {', '.join(names)}.", (), names
            ) from None
        failed = self._upload(run_id, files, artifact_path)
        if not failed:
            return self._place(artifact_path)
        arrived = tuple(name for name in names if name not in failed)
        reasons = "; ".join(f"{name}: {error.reason}" for name, error in failed.items())
        raise UploadError(
            f"could not upload {len(failed)} of {len(names)} files to {self._described()}. "
            f"Missing: {reasons}. Arrived: {', '.join(arrived) or 'none'}. "
            f"{_advice(list(failed.values()))}",
            arrived,
            tuple(failed),
        )

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run, all in one request.

        Args:
            tags: Name to value; written as text, cut at MLflow's limit of 8000 characters.

        Raises:
            SinkError: They could not be set.
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
            SinkError: They could not be logged.
        """
        run_id = self.run_id
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        batch = [Metric(name, float(value), now_ms, 0) for name, value in metrics.items()]
        self.ask("log metrics of", lambda client: client.log_batch(run_id, metrics=batch))

    def describe(self, section: str, key: str = "model_graph") -> bool:
        """Put a section into the run's description, beside what the user wrote.

        Args:
            section: Markdown. ``artifact_link`` makes the address of a picture.
            key: Which of our sections this is; an older one of this key is replaced.

        Returns:
            Whether the description has the section now. It has not where there is no room for it
            (8000 characters in all), or where the user took away one of the section's two markers.

        Raises:
            SinkError: The description could not be read or written.
        """
        run_id = self.run_id

        def merge(client: MlflowClient) -> bool:
            before = client.get_run(run_id).data.tags.get(NOTE_TAG, "")
            after = merged_note(before, section, key)
            if after is not None and after != before:
                client.set_tag(run_id, NOTE_TAG, after)
            return after is not None

        return self.ask("describe", merge)

    def artifact_link(self, path: str) -> str:
        """The address of an artifact of this run, as MLflow's description understands it.

        Args:
            path: The artifact, for example ``"model_graph/graph.svg"``.

        Raises:
            SinkError: The run could not be opened.
        """
        return f"get-artifact?path={quote(path, safe='')}&run_uuid={self.run_id}"

    def close(self) -> None:
        """End the run if this sink started it; a run of the user is left as it is.

        Raises:
            SinkError: The run could not be ended.
        """
        if not self._started or self._run_id is None:
            return
        run_id, self._started = self._run_id, False
        try:
            client = self.client
            self._caller.once(lambda: client.set_terminated(run_id), last=True)
        except CallFailed as error:
            raise self._refusal("end", error) from None

    @property
    def client(self) -> MlflowClient:
        """The client of the store; made once, without touching MLflow's own current one."""
        if self._client is None:
            try:
                # Imported here, so that the seconds it takes are not the server's.
                from mlflow import MlflowClient

                self._client = self._caller.once(lambda: MlflowClient(self.target.tracking_uri))
            except ImportError as error:
                raise self._refusal("open", CallFailed(str(error), lasting=True)) from error
            except CallFailed as error:
                raise self._refusal("open", error) from None
        return self._client

    def ask_once(self, what: str, action: Callable[[MlflowClient], T]) -> T:
        """Make a call on the store that must not be made twice, or that ends what was begun.

        Args:
            what: What the call does to the run, for the message.
            action: The call.

        Returns:
            What the call returns.

        Raises:
            SinkError: It failed.
        """
        client = self.client
        try:
            return self._caller.once(lambda: action(client), last=True)
        except CallFailed as error:
            raise self._refusal(what, error) from None

    def ask(self, what: str, action: Callable[[MlflowClient], T]) -> T:
        """Make a call on the store, again and again until it works or time is up.

        Args:
            what: What the call does to the run, for the message.
            action: The call; it must be harmless when made twice.

        Returns:
            What the call returns.

        Raises:
            SinkError: It cannot work, or did not in time.
        """
        client = self.client
        try:
            return self._caller.until_done(lambda: action(client))
        except CallFailed as error:
            raise self._refusal(what, error) from None

    def _refusal(self, what: str, error: CallFailed) -> SinkError:
        return SinkError(
            f"could not {what} {self._described()}: {error.reason}. {_advice([error])}"
        )

    def _upload(
        self, run_id: str, files: Mapping[str, Path], artifact_path: str
    ) -> dict[str, CallFailed]:
        """Upload all files, in rounds; what is returned did not arrive, with the last reason."""
        refused: dict[str, CallFailed] = {}
        waiting: dict[str, CallFailed | None] = dict.fromkeys(files)
        for _ in self._caller.rounds():
            down = False
            for name in tuple(waiting):
                try:
                    self._upload_one(run_id, name, files[name], artifact_path, quick=down)
                except CallFailed as error:
                    down = not error.lasting
                    waiting[name] = error
                    if error.lasting:
                        refused[name] = error
                        del waiting[name]
                else:
                    down = False
                    del waiting[name]
            if not waiting:
                break
        refused.update({name: error for name, error in waiting.items() if error is not None})
        return {name: refused[name] for name in files if name in refused}

    def _upload_one(
        self, run_id: str, name: str, path: Path, artifact_path: str, *, quick: bool
    ) -> None:
        """Upload one file under its name, which need not be the one it has on disk."""
        folder, base = posixpath.split(posixpath.join(artifact_path, name))
        client = self.client
        with tempfile.TemporaryDirectory(prefix="modelviz-") as scratch:
            source = path
            if base != path.name:
                source = Path(scratch, base)
                try:
                    shutil.copyfile(path, source)
                except OSError as error:
                    raise CallFailed(str(error), lasting=True) from error
            self._caller.once(lambda: client.log_artifact(run_id, str(source), folder), quick=quick)

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

    def _place(self, artifact_path: str) -> str:
        """Where a person looks for the artifacts."""
        uri = self.target.public_uri
        if uri.startswith(("http://", "https://")):
            page = f"{uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{self._run_id}"
            return f"{page}/artifacts/{artifact_path}"
        return f"MLflow run {self._run_id} in {uri}, artifacts under {artifact_path}/"


def _advice(failures: list[CallFailed]) -> str:
    """What a person can do about it."""
    statuses = {failure.status for failure in failures}
    if statuses & {_UNAUTHORIZED, _FORBIDDEN}:
        advice = "Check the credentials (MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN)."
    elif _NOT_FOUND in statuses:
        advice = "Check the run id and the tracking URI: this store has no such run."
    elif all(failure.lasting for failure in failures):
        advice = "Trying again will not help: correct what it names."
    else:
        advice = "Check that the server runs and is reachable, then upload again."
    return f"{advice} What was written to disk stays there."


def _user() -> str:
    """Who started the run; a user id without a name is nobody's mistake."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
