"""``modelviz join``: one graph of the stages of a pipeline, from their ``graph.json`` alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.cli.commands import Commands, declare
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.joined import Sources, join_stages
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.writers.formats import FORMATS, render

_MORE = """\
Each rank of torch.distributed.pipelining has recorded its own stage, into stage_0, stage_1, ...

  modelviz join model_graph                 graph.json, index.html and graph.svg there
  modelviz join model_graph --out joined    in another folder
"""


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "join", run, _MORE)
    parser.add_argument("source", metavar="DIR", help="the folder with stage_0, stage_1, ...")
    parser.add_argument("--out", metavar="DIR", help="where to (default: the same folder)")
    parser.add_argument("--name", metavar="NAME", default="Pipeline", help="what it is called")


def run(options: argparse.Namespace) -> int:
    """Writes the files; see `add_to` for the options."""
    source = Path(options.source)
    there = sorted(source.glob("stage_*/graph.json"), key=_number)
    numbers = [_number(path) for path in there]
    if not there or numbers != list(range(len(there))):
        raise OptionError(
            f"{source} has graphs of the stages {numbers}; to join them there must be a graph.json "
            "in stage_0, stage_1 and so on, none left out."
        )
    sources = {number: _sources(source / f"stage_{number}.json") for number in numbers}
    known = {number: found for number, found in sources.items() if found is not None}
    joined = join_stages([ModelGraph.load(path) for path in there], options.name, known)
    directory, analysis = Directory(options.out or source), Analysis(joined)
    print(directory.write("graph.json", dumps(joined).encode()))
    for kind in ("html", "svg"):
        print(directory.write(FORMATS[kind].file, render(analysis, kind)))
    return 0


def _sources(path: Path) -> Sources | None:
    """Where a stage's inputs come from, as its rank has written it; ``None``: it does not say."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))["inputs"]
        return [None if one is None else (int(one[0]), int(one[1])) for one in given]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise OptionError(
            f"{path} should say where the inputs of a stage come from, as GraphHook writes it; it "
            f"cannot be read ({error!r}). Without the file, stages are joined in order."
        ) from error


def _number(path: Path) -> int:
    number = path.parent.name.removeprefix("stage_")
    return int(number) if number.isdecimal() else -1
