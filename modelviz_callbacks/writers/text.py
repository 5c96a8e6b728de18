"""A graph as plain text: the module tree that ``print(graph)`` shows."""

from __future__ import annotations

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.view.text_tree import WIDTH, tree_text


def render(analysis: Analysis, *, depth: int | None = None, width: int | None = WIDTH) -> bytes:
    """Writes a graph as lines of text.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules to show; ``None``: all.
        width: How many characters a line has at most; ``None``: as many as it takes.

    Returns:
        UTF-8, ending in a newline.
    """
    return (tree_text(analysis, width=width, depth=depth) + "\n").encode()
