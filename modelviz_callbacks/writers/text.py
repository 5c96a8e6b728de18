"""A graph as plain text: the module tree that ``print(graph)`` shows, and what its parts cost."""

from __future__ import annotations

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.view.text_tree import WIDTH, tree_text
from modelviz_callbacks.writers.cost_text import cost_lines


def render(analysis: Analysis, *, depth: int | None = None, width: int | None = WIDTH) -> bytes:
    """Writes a graph as lines of text.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules to show; ``None``: all.
        width: How many characters a line has at most; ``None``: as many as it takes.

    Returns:
        UTF-8, ending in a newline.
    """
    return (full_text(analysis, depth=depth, width=width) + "\n").encode()


def full_text(analysis: Analysis, *, depth: int | None = None, width: int | None = WIDTH) -> str:
    """The same as text, without a newline at the end.

    Args:
        analysis: As for `render`.
        depth: Likewise.
        width: Likewise.
    """
    costs = cost_lines(analysis, width)
    tree = tree_text(analysis, width=width, depth=depth)
    return "\n".join([tree, *([""] if costs else []), *costs])
