"""``modelviz upload``: a folder's files into an MLflow run, for when the server was away."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modelviz_callbacks.cli.commands import (
    FOLDER,
    Commands,
    add_tracking_uri,
    declare,
    folder_of,
    positive,
)
from modelviz_callbacks.errors import OptionError

_MORE = f"""\
The files become artifacts under {FOLDER}/ in the run, which may have ended long ago. Use it when
the tracking server could not be reached at the end of training: the files stayed on disk.

Credentials come from the environment as MLflow reads it (MLFLOW_TRACKING_USERNAME, ..._PASSWORD,
..._TOKEN), and are never printed. The exit status is 0 if all arrived, 1 if some did, 2 if none.
"""
# TensorBoard's event files belong to the log folder, not among the run's artifacts.
_EVENTS = "events.out.tfevents"


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "upload", run, "put a folder's files into an MLflow run", _MORE)
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
    from modelviz_callbacks.trackers.mlflow import MlflowSink, MlflowTarget, UploadError

    folder = folder_of(options.folder)
    files = files_in(folder)
    if not files:
        raise OptionError(f"The folder {folder} has no files to upload.")
    target = MlflowTarget(options.tracking_uri, options.run_id.removeprefix("runs:/"))
    sink = MlflowSink(target, deadline_s=options.timeout)
    try:
        place = sink.store(files, FOLDER)
    except UploadError as error:
        if not error.arrived:
            raise
        print(f"modelviz upload: {error}", file=sys.stderr)
        return 1
    finally:
        sink.close()
    print(f"{len(files)} file{'s' * (len(files) > 1)} of {folder}: {place}")
    return 0


def files_in(folder: Path) -> dict[str, Path]:
    """The files to upload by their names below the folder; no hidden ones, no event files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not is_hidden and not path.name.startswith(_EVENTS):
            found[name.as_posix()] = path
    return found
