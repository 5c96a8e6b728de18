"""``modelviz diff``: in what two graphs differ."""

from __future__ import annotations

import argparse
from pathlib import Path

from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.cli.commands import Commands, add_tracking_uri, declare, read_graph
from modelviz_callbacks.cli.terminal import print_diff
from modelviz_callbacks.writers.diff_text import lines

_MORE = """\
A and B are each a graph.json, a folder with one, or an MLflow run (its id, or runs:/ID).

  + was added, - was removed, ~ was changed

What only follows from a change, as the sizes of the layers after it, is told apart. Weights,
batch sizes, devices, names and numbers of modules, and source lines are no difference; with
--strict they are.

The exit status is 0 if both have the same architecture, 1 if not, 2 if they cannot be compared.
"""


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = declare(commands, "diff", run, _MORE)
    parser.add_argument("before", metavar="A", help="the graph before")
    parser.add_argument("after", metavar="B", help="the graph after")
    parser.add_argument(
        "--svg",
        type=Path,
        metavar="FILE",
        help="also draw both in one picture: green was added, red removed, amber changed",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write an interactive page of both, with a list of differences to step through",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="count names, sizes of the data, devices, source lines and torch's version, too",
    )
    add_tracking_uri(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the difference; see `add_to` for the options."""
    from modelviz_callbacks.diff.diff import diff

    before, after = (
        read_graph(source, options.tracking_uri) for source in (options.before, options.after)
    )
    found = diff(before, after, strict=options.strict)
    print_diff(lines(found))
    if options.svg is not None:
        from modelviz_callbacks.writers.diff_svg import render

        path = Directory(options.svg.parent).write(options.svg.name, render(found))
        print(f"\nThe picture is {path}")
    if options.html is not None:
        from modelviz_callbacks.writers.diff_html import render as render_page

        path = Directory(options.html.parent).write(options.html.name, render_page(found))
        print(f"\nThe page is {path}")
    return 0 if found.are_equal else 1
