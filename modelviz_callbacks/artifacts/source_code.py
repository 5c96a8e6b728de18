"""Lines of source code around ops, for the interactive page.

They are read from the files that the recorded code itself was loaded from, right after the
recording; no name that stands in a graph leads to a file.
"""

from __future__ import annotations

import stat
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path

from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import SourceFile

# Lines before and after the one that an op comes from.
_AROUND = 3
# What a page may grow by: lines in all, letters of a line, and bytes of a file that is read.
_MOST_LINES = 6_000
_LONGEST_LINE = 160
_MOST_BYTES = 4 * 1024 * 1024
# How far below its first line, which may be a decorator's, a function's ``def`` is looked for.
_MOST_DECORATORS = 30


def lines_around(
    graphs: Iterable[ModelGraph], files: Mapping[str, SourceFile]
) -> dict[str, dict[int, str]]:
    """The lines around those that the ops of some graphs come from.

    Args:
        graphs: Graphs of one run.
        files: The files that may be read, by the names that they have in the graphs.

    Returns:
        Text by number of the line, by name of the file; of a file that cannot be read, or is
        another one by now, nothing. What looks like a credential is hidden.
    """
    wanted: dict[str, set[int]] = {}
    for graph in graphs:
        for node in graph.nodes:
            if node.source is not None and node.source.file in files:
                wanted.setdefault(node.source.file, set()).add(node.source.line)
    found: dict[str, dict[int, str]] = {}
    left = _MOST_LINES
    for name, numbers in wanted.items():
        lines = _lines_of(files[name])
        offsets = range(-_AROUND, _AROUND + 1)
        near = {number + offset for number in numbers for offset in offsets}
        kept = [line for line in sorted(near) if 0 < line <= len(lines)][:left]
        if kept:
            found[name] = {line: _shown(lines[line - 1]) for line in kept}
            left -= len(kept)
    return found


def _shown(line: str) -> str:
    line = line.rstrip().expandtabs(4)
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]}…"
    return without_credentials(line)


def _lines_of(file: SourceFile) -> list[str]:
    """The lines of a file; none where it cannot be read, or is not the one that was run."""
    try:
        path = Path(file.path)
        told = path.stat()
        if path.suffix != ".py" or not stat.S_ISREG(told.st_mode) or told.st_size > _MOST_BYTES:
            return []
        with tokenize.open(path) as text:  # as Python reads it
            lines = text.read().split("\n")
    except (OSError, SyntaxError, ValueError):
        return []
    return lines if all(_is_there(lines, *function) for function in file.functions) else []


def _is_there(lines: list[str], name: str, first: int) -> bool:
    """Whether a function still begins where it did; of one without a name nothing is known."""
    if not name.isidentifier():
        return True
    return any(f"def {name}" in line for line in lines[first - 1 : first + _MOST_DECORATORS])
