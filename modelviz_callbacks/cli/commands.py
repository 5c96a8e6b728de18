"""What the commands share: how they are declared, and how they find and read a graph."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from modelviz_callbacks.cli.verbs import ABOUT
from modelviz_callbacks.errors import GraphFormatError, OptionError
from modelviz_callbacks.graph.model import ModelGraph

# What argparse gives for adding commands; its class has no public name.
Commands: TypeAlias = Any

GRAPH_FILE = "graph.json"
# Below this folder the files are among an MLflow run's artifacts, and in a run's log folder.
FOLDER = "model_graph"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def declare(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], more: str
) -> argparse.ArgumentParser:
    """Adds a command.

    Args:
        commands: Where to.
        name: What it is called, one of `ABOUT`.
        run: Does it; gives the exit status.
        more: The rest of its help.

    Returns:
        The parser of its arguments.
    """
    about = ABOUT[name]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.\n\n{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


ABOUT_MODELS = """\
MODULE:FACTORY is a function that returns a model, a model class, or a model; MODULE is a module
that can be imported from here, or the path of a Python file. FACTORY may also return the model
together with its inputs: (model, args) or (model, args, kwargs).

An input is SHAPE[:DTYPE[:BELOW]]: sizes with x between them (or `scalar`), a dtype of torch if it
is not float32, and for integers the number they stay below (2 if none is said).
"""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which model runs, in which mode and on what."""
    add = parser.add_argument
    add("model", metavar="MODULE:FACTORY", help="where the model comes from")
    add("--input", action="append", default=[], dest="inputs", metavar="SHAPE", help="an input")
    add(
        "--kwarg",
        action="append",
        default=[],
        dest="kwargs",
        metavar="NAME=VALUE",
        help="an input by name: a shape as above with a dtype or an x, or a Python literal",
    )
    add(
        "--factory-kwarg",
        action="append",
        default=[],
        dest="factory_kwargs",
        metavar="NAME=VALUE",
        help="an argument for FACTORY, likewise",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--train", action="store_true", help="put the model into training mode")
    mode.add_argument(
        "--eval", action="store_true", help="put it into evaluation mode (default: as it comes)"
    )
    add("--seed", type=int, default=0, metavar="N", help="of the random numbers (default: 0)")


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says which MLflow store is meant."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the MLflow store, for example http://127.0.0.1:5000 or sqlite:///mlflow.db "
        "(default: MLFLOW_TRACKING_URI, else MLflow's own default)",
    )


def positive(text: str) -> int:
    """An argument that is a number from 1 on."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return number


def folder_of(path: Path) -> Path:
    """The folder with a graph's files: the one given, or ``model_graph`` in it.

    Raises:
        OptionError: There is no such folder.
    """
    if not path.is_dir():
        what = "is a file" if path.is_file() else "does not exist"
        raise OptionError(f"{path} {what}: expected the folder that the graph was written to.")
    inner = path / FOLDER
    return inner if not (path / GRAPH_FILE).exists() and inner.is_dir() else path


def read_graph(source: str, tracking_uri: str | None = None) -> ModelGraph:
    """A graph from wherever it is.

    Args:
        source: A ``graph.json``, a folder with one, or an MLflow run: its id or ``runs:/ID``.
        tracking_uri: The MLflow store; ``None``: the environment's.

    Returns:
        The graph.

    Raises:
        OptionError: There is nothing of that name.
        GraphFormatError: The file is not a graph.
        TrackerError: The run cannot be read.
    """
    path = Path(source)
    if path.is_file():
        return _loaded(path)
    if path.is_dir():
        file = folder_of(path) / GRAPH_FILE
        if not file.is_file():
            raise OptionError(f"The folder {path} has no {GRAPH_FILE}: was a graph written there?")
        return _loaded(file)
    run_id = source.removeprefix("runs:/")
    if run_id == source and not _RUN_ID.fullmatch(source):
        raise OptionError(
            f"There is no file or folder {source!r}, and it is no MLflow run id (32 hexadecimal "
            "digits) either. Give a graph.json, a folder with one, or a run id."
        )
    from modelviz_callbacks.trackers.mlflow.download import download
    from modelviz_callbacks.trackers.mlflow.target import MlflowTarget

    with tempfile.TemporaryDirectory(prefix="modelviz-") as scratch:
        target = MlflowTarget(tracking_uri, run_id)
        return _loaded(download(target, f"{FOLDER}/{GRAPH_FILE}", Path(scratch)))


def _loaded(path: Path) -> ModelGraph:
    try:
        return ModelGraph.load(path)
    except OSError as error:
        raise GraphFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
