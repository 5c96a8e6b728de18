"""``modelviz export``: a graph in other formats, from its ``graph.json`` alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.cli.commands import Commands, declare, folder_of, positive, read_graph
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.writers.formats import FORMATS, Direction, render

_MORE = """\
Only graph.json is needed: neither torch nor the model. Files that are there are replaced.

  modelviz export model_graph/Net                           the picture, graph.svg
  modelviz export model_graph/Net --format html --depth 3   the interactive page
  modelviz export graph.json --format mermaid --out -       to the terminal, or into a pipe
"""


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "export", run, _MORE)
    parser.add_argument("source", metavar="DIR|graph.json", help="a graph, or the folder with it")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=sorted(FORMATS),
        default=["svg"],
        dest="formats",
        metavar="FORMAT",
        help=f"one or more of {', '.join(FORMATS)} (default: svg)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where to (default: beside graph.json); '-': standard output"
    )
    parser.add_argument(
        "--depth",
        type=positive,
        metavar="N",
        help="how many levels of modules are opened (default: as many as stay readable)",
    )
    parser.add_argument(
        "--direction",
        choices=get_args(Direction),
        default="auto",
        help="which way pictures run (default: auto, down and in columns where that is too high)",
    )


def run(options: argparse.Namespace) -> int:
    """Writes the files; see `add_to` for the options."""
    analysis = Analysis(read_graph(options.source))
    if options.out == "-":
        if len(options.formats) > 1:
            raise OptionError("Only one --format can be written to standard output (--out -).")
        data = render(analysis, options.formats[0], options.depth, direction=options.direction)
        if options.formats[0] != "png":  # it may be a terminal, whatever the names are
            data = plain_text(data.decode()).encode()
        sys.stdout.buffer.write(data)
        return 0
    source = Path(options.source)
    folder = options.out or (source.parent if source.is_file() else folder_of(source))
    for kind in dict.fromkeys(options.formats):
        data = render(analysis, kind, options.depth, direction=options.direction)
        print(Directory(folder).write(FORMATS[kind].file, data))
    return 0
