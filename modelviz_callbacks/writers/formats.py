"""The formats a graph can be written in: what the files are called, and who makes them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.view.display_rules import Rules, apply

# Which way a picture runs; `auto`: down, in columns where it would be too high.
Direction = Literal["auto", "down", "right"]

# The formats that a run writes unless it is told otherwise.
Format = Literal["svg", "png", "html", "text", "markdown", "csv"]


@dataclass(frozen=True)
class FormatRow:
    """One format.

    Attributes:
        file: What the file is called.
        writer: Module in this package with ``render(graph, depth=...) -> bytes``.
        early: Whether it is quick enough to be written in a training step.
        has_direction: Whether ``render`` takes a direction, too.
        backward_file: What the same picture of the backward pass is called; ``""``: none is made.
    """

    file: str
    writer: str
    early: bool = False
    backward_file: str = ""
    has_direction: bool = False


# In the order in which they are written: what is quick first.
FORMATS: Mapping[str, FormatRow] = {
    "text": FormatRow("graph.txt", "text", early=True),
    "csv": FormatRow("graph.csv", "table", early=True),
    "svg": FormatRow("graph.svg", "svg", backward_file="backward.svg", has_direction=True),
    "png": FormatRow("graph.png", "png", has_direction=True),
    "html": FormatRow("index.html", "html", backward_file="backward.html"),
    "markdown": FormatRow("graph.md", "markdown", has_direction=True),
    "mermaid": FormatRow("graph.mmd", "mermaid", has_direction=True),
}


def render(
    graph: ModelGraph | Analysis,
    kind: str,
    depth: int | None = None,
    rules: Rules | None = None,
    times_us: Mapping[str, float] | None = None,
    direction: Direction = "auto",
    code: Mapping[str, Mapping[int, str]] | None = None,
) -> bytes:
    """A graph in one of the formats; only the writer of that format is imported.

    Args:
        graph: A sound graph, or its analysis: what several formats need is computed once then.
        kind: One of `FORMATS`.
        depth: How many levels of modules are opened; ``None``: as the format sees fit.
        rules: What to fold, to hide and to rename; tables are exact in any case.
        times_us: Microseconds by the names of ops; the page can be coloured by them.
        direction: Which way a picture runs.
        code: Lines of source by their numbers, by the name of the file, for the page.

    Returns:
        The content of the file.

    Raises:
        WriterError: There is no such format, or the graph cannot be written so.
    """
    if kind not in FORMATS:
        raise WriterError(f"There is no format {kind!r}. Known are {', '.join(FORMATS)}.")
    writer = importlib.import_module(f"modelviz_callbacks.writers.{FORMATS[kind].writer}")
    shown = Analysis.of(graph)
    if rules is not None and kind != "csv":
        shown = apply(shown, rules)
    more: dict[str, object] = {}
    if kind == "html":
        more.update(times_us=times_us, code=code)
    if FORMATS[kind].has_direction:
        more["direction"] = direction
    data: bytes = writer.render(shown, depth=depth, **more)
    return data
