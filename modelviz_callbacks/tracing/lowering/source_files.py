"""Where the source files are that the ops of a recording come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from modelviz_callbacks.tracing.capture.call_site import short_path
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import OpEntry


class SourceFile(NamedTuple):
    """A file of Python that ops come from.

    Attributes:
        path: Where it was when its code was loaded.
        functions: Names of functions in it, each with the line that it begins at: should the file
            be another one by now, they are elsewhere.
    """

    path: str
    functions: tuple[tuple[str, int], ...]


def source_files(recording: Recording) -> dict[str, SourceFile]:
    """The files of a recording's ops.

    Args:
        recording: What a capture gave.

    Returns:
        The files by the names that they have in the graph, without those that share one.
    """
    codes: dict[int, Any] = {id(one.code): one.code for one in _ops(recording) if one.code}
    functions: dict[str, dict[tuple[str, int], None]] = {}
    for code in codes.values():
        function = code.co_name, code.co_firstlineno
        functions.setdefault(code.co_filename, {})[function] = None
    by_name: dict[str, list[str]] = {}
    for path in functions:
        by_name.setdefault(short_path(path), []).append(path)
    return {
        name: SourceFile(paths[0], tuple(functions[paths[0]]))
        for name, paths in by_name.items()
        if len(paths) == 1
    }


def _ops(recording: Recording) -> Iterator[OpEntry]:
    return (entry for entry in recording.tape if isinstance(entry, OpEntry))
