"""Lines of text in columns that fit a terminal: names and counts are never wrapped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

# What a column may take of a line that is too narrow for all of them.
_MOST_OF_LABEL = 0.38
_MOST_OF_SHAPES = 0.26
_LEAST = 8


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One line of a tree.

    Attributes:
        depth: How far it is indented.
        label: What it is called.
        what: Its class, or what its op does.
        made: Shapes of what it hands on.
        parameters: How many it has.
        comment: Where its input comes from, and what else is to be said.
    """

    depth: int
    label: str
    what: str = ""
    made: str = ""
    parameters: str = ""
    comment: str = ""

    @property
    def indented(self) -> str:
        """The label where it stands."""
        return "  " * self.depth + self.label


def column_lines(lines: Sequence[TreeLine], width: int | None) -> Iterator[str]:
    """Lines with their fields below each other, numbers to the right.

    Args:
        lines: In their order.
        width: How many characters a line has at most; ``None``: as many as it takes.

    Returns:
        Lines; a comment that has no room beside its line stands below it.
    """
    rows = [TreeLine(0, "", made="output", parameters="parameters"), *lines]
    widths = _widths(rows, width)
    rows = _told_apart(rows, widths[1])
    for row in rows:
        label, what, made, parameters = (
            shortened_to(text, most)
            for text, most in zip(
                (row.indented, row.what, row.made, row.parameters), widths, strict=True
            )
        )
        start = f"{label:<{widths[0]}}  {what:<{widths[1]}}  {made:<{widths[2]}}  "
        line = f"{start}{parameters:>{widths[3]}}  {row.comment}".rstrip()
        if width is None or len(line) <= width:
            yield line
            continue
        close = f"{start.rstrip()}  {row.comment}"
        if not parameters and len(close) <= width:
            yield close
            continue
        yield f"{start}{parameters:>{widths[3]}}".rstrip()
        indent = " " * min(2 * row.depth + 4, width // 2)
        yield from wrapped(row.comment, width, indent)


def _told_apart(rows: Sequence[TreeLine], most: int) -> list[TreeLine]:
    """Rows in which classes that look the same when shortened stand whole in the comment."""
    meant: dict[str, set[str]] = {}
    for row in rows:
        meant.setdefault(shortened_to(row.what, most), set()).add(row.what)
    return [
        replace(row, comment="; ".join(text for text in (row.what, row.comment) if text))
        if len(meant[shortened_to(row.what, most)]) > 1
        else row
        for row in rows
    ]


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """Text in lines of a width, the first one indented like the others."""
    if width is None:
        return [indent + text]
    return textwrap.wrap(
        text, max(width, len(indent) + 10), initial_indent=indent, subsequent_indent=indent
    )


def shortened_to(text: str, most: int) -> str:
    """Text with an ellipsis in its middle if it is longer; an indentation stays."""
    if len(text) <= most:
        return text
    bare = text.lstrip(" ")
    indent = min(len(text) - len(bare), max(0, most - _LEAST))
    room = max(most - indent, 1)
    if len(bare) <= room:
        return " " * indent + bare
    tail = (room - 1) // 2
    return " " * indent + bare[: room - 1 - tail] + "…" + (bare[-tail:] if tail else "")


def _widths(rows: Sequence[TreeLine], width: int | None) -> list[int]:
    """How wide the columns are of label, what, made and parameters."""
    fields = [(row.indented, row.what, row.made, row.parameters) for row in rows]
    needed = [max(len(field[column]) for field in fields) for column in range(4)]
    if width is None or sum(needed) + 6 <= width:
        return needed
    room = max(width - 6, 4 * _LEAST)
    parameters = min(needed[3], max(_LEAST, room // 4))
    label = min(needed[0], int(room * _MOST_OF_LABEL))
    made = min(needed[2], int(room * _MOST_OF_SHAPES))
    what = min(needed[1], room - label - made - parameters)
    # What one column leaves, another can have.
    label = min(needed[0], room - what - made - parameters)
    made = min(needed[2], room - what - label - parameters)
    return [label, what, made, parameters]
