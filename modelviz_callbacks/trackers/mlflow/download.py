"""One artifact of an MLflow run, back on disk."""

from __future__ import annotations

from pathlib import Path

from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.mlflow.calls import Caller, CallFailed
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from modelviz_callbacks.trackers.mlflow.tracker import MlflowTracker

__all__ = ["download"]


def download(
    target: MlflowTarget, artifact: str, folder: Path, *, deadline_s: float = 30.0
) -> Path:
    """Download an artifact.

    Args:
        target: The run.
        artifact: Its path among the run's artifacts, for example ``"model_graph/graph.json"``.
        folder: An existing folder; the file goes below it.
        deadline_s: Longest time for everything together, in seconds.

    Returns:
        Where the file is now.

    Raises:
        TrackerError: There is no such run or artifact, or the store did not answer in time. No
            credentials are in the message.
    """
    tracker = MlflowTracker(target, deadline_s=deadline_s)
    run_id, client = tracker.run_id, tracker.client
    caller = Caller(deadline_s, min(10.0, deadline_s))
    try:
        found = caller.until_done(lambda: client.download_artifacts(run_id, artifact, str(folder)))
    except CallFailed as error:
        raise TrackerError(
            f"could not download {artifact} of MLflow run {run_id} in {target.public_uri}: "
            f"{error.reason}. Check that the run has this artifact: GraphLogger and GraphHook "
            "put their files there, `modelviz upload` does it later."
        ) from None
    path = Path(found)
    if not path.is_file():
        raise TrackerError(
            f"could not download {artifact} of MLflow run {run_id} in {target.public_uri}: the "
            "run has no such file."
        )
    return path
