"""A run that goes on where an earlier recording is: the same graph again, or what has changed."""

from __future__ import annotations

import json
from pathlib import Path

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.maker import called
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.diff.diff import diff
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.report import Report
from modelviz_callbacks.tracing import Recording
from modelviz_callbacks.writers.diff_text import lines

_GRAPH, _REPORT = "graph.json", "report.json"

# How many lines of a difference are told; `modelviz diff` tells all.
_MOST_LINES = 6


def changes_since(
    folder: Path, recording: Recording, name: str | None, stage: str = ""
) -> list[str] | None:
    """In what a recording's graph differs from the one in a folder.

    Args:
        folder: Of an earlier recording.
        recording: The new one.
        name: What the graph is called.
        stage: Which further recording of the run is meant; ``""``: the run's own.

    Returns:
        Nothing where the architecture is the same, else sentences; ``None``: there is no graph.

    Raises:
        GraphFormatError: What is there is no graph.
        GraphError: A graph breaks the rules of graphs.
    """
    path = folder / called(_GRAPH, stage)
    if not path.is_file():
        return None
    before = Analysis(ModelGraph.load(path))
    after = Products(recording, name).early.analysis
    if after is None or before.graph.partial or after.graph.partial:
        return None
    if before.fingerprint == after.fingerprint:
        return []
    told = [line.text.strip() for line in lines(diff(before, after)) if line.text.strip()]
    return [f"The graph is another one than that in {folder}.", *told[:_MOST_LINES]]


def report_in(folder: Path) -> Report | None:
    """The report of the recording in a folder; ``None``: none that can be read."""
    try:
        return Report.from_json(json.loads((folder / _REPORT).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):
        return None
