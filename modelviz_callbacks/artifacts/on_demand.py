"""One file at a time, when somebody asks for it: what a `Trace` saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.artifacts.onnx_files import view_of
from modelviz_callbacks.artifacts.source_code import lines_around
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.libraries import says_what_is_missing
from modelviz_callbacks.options import ShownFields, make_options
from modelviz_callbacks.report import warn
from modelviz_callbacks.tracing import Recording, source_files
from modelviz_callbacks.tracing.lowering.networks import Unit
from modelviz_callbacks.writers.formats import Direction, render


def save(
    graph: ModelGraph | Analysis,
    kind: str,
    path: str | Path,
    depth: int | None = None,
    direction: Direction = "auto",
    shown: ShownFields | None = None,
    recording: Recording | None = None,
) -> Path:
    """Writes one file of a graph, whole or not at all.

    Args:
        graph: Any graph, or its analysis.
        kind: As for `render`.
        path: The file.
        depth: How many levels of modules are opened.
        direction: Which way a picture runs.
        shown: What it folds, hides, renames and tells.
        recording: What it is the graph of, if lines of source are to stand in it (in a page).

    Returns:
        The path.

    Raises:
        MissingLibraryError: What makes the file is not installed.
        OptionError: A value of ``shown`` is impossible.
        WriterError: The graph cannot be written so.
        SinkError: The file cannot be written.
    """
    rules = make_options(**shown or {}).rules
    path = Path(path)
    analysis, code = Analysis.of(graph), None
    if recording is not None:
        code = lines_around([analysis.graph], source_files(recording))
    with says_what_is_missing():
        data = render(analysis, kind, depth, rules, direction=direction, code=code)
    return Directory(path.parent).write(path.name, data)


def save_onnx(
    recording: Recording,
    graph: ModelGraph,
    path: str | Path,
    weights: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Path:
    """Writes the ONNX view of a recorded forward; see `modelviz_callbacks.Trace.save_onnx`.

    Args:
        recording: The forward.
        graph: Its graph.
        path: The file.
        weights: Whether the weights go along.
        input_names: Names for its inputs.
        output_names: Names for its outputs.

    Returns:
        The path.

    Raises:
        WriterError: It cannot be written so.
        SinkError: The file cannot be written.
    """
    view = view_of(Unit.whole(recording), Analysis.of(graph), input_names, output_names, weights)
    path = Path(path)
    if view.missing:
        warn(view.remarks(path.name)[-1])
    return Directory(path.parent).write(path.name, view.data)


def warn_if_partial(recording: Recording) -> None:
    """Warns, and never raises, if a fault of the recorder kept it from seeing everything."""
    if recording.fault:
        warn(recording.fault)
