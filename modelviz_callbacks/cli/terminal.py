"""Text to a terminal: with colours where there is one, plain everywhere else."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable

from modelviz_callbacks.view.text_tree import WIDTH
from modelviz_callbacks.writers.diff_text import DiffLine

_DIFF_STYLES = {
    "title": "bold",
    "heading": "bold",
    "fact": "dim",
    "added": "green",
    "removed": "red",
    "changed": "yellow",
    "follows": "dim",
    "ignored": "dim",
}
# In the text of a graph: shapes, repeats, counts of parameters, where a line's input comes from.
_TREE_STYLES = (
    (re.compile(r"\b\d+(?:×\d+)+\b"), "cyan"),
    (re.compile(r"\bx\d+\b"), "bold magenta"),
    (re.compile(r"<- .*|^note: .*", re.MULTILINE), "yellow"),
    (re.compile(r"^\S+:", re.MULTILINE), "bold"),
)


def is_terminal() -> bool:
    """Whether somebody looks at what is printed."""
    return sys.stdout.isatty()


def width() -> int:
    """How many characters a line has: the terminal's, or 80 where there is none."""
    return max(shutil.get_terminal_size().columns, 40) if is_terminal() else WIDTH


def _has_colours() -> bool:
    """Whether what is printed is looked at, and rich, which is an extra, is there to colour it."""
    if not is_terminal():
        return False
    try:
        import rich.console  # noqa: F401
    except ImportError:
        return False
    return True


def print_tree(text: str) -> None:
    """Prints the text of a graph."""
    if not _has_colours():
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    told = Text(text)
    for pattern, style in _TREE_STYLES:
        for found in pattern.finditer(text):
            told.stylize(style, *found.span())
    Console().print(told, soft_wrap=True)


def print_diff(lines: Iterable[DiffLine]) -> None:
    """Prints the lines of a difference, each in the colour of what it tells."""
    if not _has_colours():
        print("\n".join(line.text for line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in lines:
        console.print(Text(line.text, style=_DIFF_STYLES[line.role]), soft_wrap=True)
