"""``modelviz upload``: a folder's files into an MLflow run, for when the server was away."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modelviz_callbacks.cli.commands import (
    FOLDER,
    GRAPH_FILE,
    Commands,
    add_tracking_uri,
    declare,
    folder_of,
    positive,
    read_graph,
)
from modelviz_callbacks.errors import ModelvizError, OptionError
from modelviz_callbacks.graph import ModelGraph

_MORE = f"""\
The files become artifacts under {FOLDER}/ in the run, which may have ended long ago. Use it when
the tracking server could not be reached at the end of training: the files stayed on disk. The run
gets its tags, metrics, description and trained model, too, as far as the files tell them.

Credentials come from the environment as MLflow reads it (MLFLOW_TRACKING_USERNAME, ..._PASSWORD,
..._TOKEN), and are never printed. The exit status is 0 if all arrived, 1 if some did, 2 if none.
"""
# TensorBoard's event files and what the worker said belong to the log folder, not among the
# run's artifacts.
_STAYS = ("events.out.tfevents", "worker.log")


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "upload", run, _MORE)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder with the files")
    parser.add_argument("--run", required=True, metavar="ID", dest="run_id", help="the run's id")
    add_tracking_uri(parser)
    parser.add_argument(
        "--timeout",
        type=positive,
        default=120,
        metavar="S",
        help="seconds for everything; a server that is down is asked again until then "
        "(default: 120)",
    )


def run(options: argparse.Namespace) -> int:
    """Uploads the files; see `add_to` for the options."""
    from modelviz_callbacks.analysis import Analysis
    from modelviz_callbacks.artifacts.tracking import log_recording
    from modelviz_callbacks.trackers.interface import MultiTracker
    from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
    from modelviz_callbacks.trackers.registry import make_tracker

    folder = folder_of(options.folder)
    files = files_in(folder)
    if not files:
        raise OptionError(f"The folder {folder} has no files to upload.")
    graph, fault = _graph_in(folder)
    target = MlflowTarget(options.tracking_uri, options.run_id.removeprefix("runs:/"))
    tracker = make_tracker("mlflow", target, folder.name, options.timeout)
    trackers = MultiTracker([tracker])
    log_recording(trackers, files, None if graph is None else Analysis(graph))
    error = trackers.error()
    if error is not None and not trackers.has_files:
        raise error
    for problem in (error, fault):
        if problem is not None:
            print(f"modelviz upload: {problem}", file=sys.stderr)
    if error is not None or fault is not None:
        return 1
    print(f"{len(files)} file{'s' * (len(files) > 1)} of {folder}: {tracker.place}")
    return 0


def _graph_in(folder: Path) -> tuple[ModelGraph | None, ModelvizError | None]:
    """The graph of a folder, whose tags, metrics and description go along; and why there is none.

    A folder without one is no mistake.
    """
    path = folder / GRAPH_FILE
    try:
        return (read_graph(str(path)) if path.is_file() else None), None
    except ModelvizError as error:
        return None, error


def files_in(folder: Path) -> dict[str, Path]:
    """The files to upload by their names below the folder; no hidden ones, events or logs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not is_hidden and not path.name.startswith(_STAYS):
            found[name.as_posix()] = path
    return found
