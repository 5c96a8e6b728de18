"""The formats a graph can be written in: what the files are called, and who makes them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.view.display_rules import Rules, apply

# Name of the format: name of the file, module of the writer.
FILES = {
    "text": ("graph.txt", "text"),
    "markdown": ("graph.md", "markdown"),
    "csv": ("graph.csv", "table"),
    "svg": ("graph.svg", "svg"),
    "png": ("graph.png", "png"),
    "html": ("index.html", "html"),
    "mermaid": ("graph.mmd", "mermaid"),
}


def render(
    graph: ModelGraph | Analysis,
    kind: str,
    depth: int | None = None,
    rules: Rules | None = None,
    times_us: Mapping[str, float] | None = None,
) -> bytes:
    """A graph in one of the formats; only the writer of that format is imported.

    Args:
        graph: A sound graph, or its analysis: what several formats need is computed once then.
        kind: One of `FILES`.
        depth: How many levels of modules are opened; ``None``: as the format sees fit.
        rules: What to fold, to hide and to rename; tables are exact in any case.
        times_us: Microseconds by the names of ops; the page can be coloured by them.

    Returns:
        The content of the file.

    Raises:
        WriterError: There is no such format, or the graph cannot be written so.
    """
    if kind not in FILES:
        raise WriterError(f"There is no format {kind!r}. Known are {', '.join(FILES)}.")
    writer = importlib.import_module(f"modelviz_callbacks.writers.{FILES[kind][1]}")
    shown = Analysis.of(graph)
    if rules is not None and kind != "csv":
        shown = apply(shown, rules)
    more = {"times_us": times_us} if kind == "html" and times_us else {}
    data: bytes = writer.render(shown, depth=depth, **more)
    return data
