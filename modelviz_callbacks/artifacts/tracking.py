"""A recording in a tracker's run: files, what runs are found and compared by, a description.

The training process, the job and ``modelviz upload`` make the same calls here, so that a run
that got its files later has the same as one that got them at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.costs import is_uncounted
from modelviz_callbacks.artifacts.changes import CHANGES, changes_told
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.interface import (
    ARTIFACT_SCHEME,
    FOLDER,
    Heard,
    MultiTracker,
    unheard,
)
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from modelviz_callbacks.trackers.registry import make_tracker
from modelviz_callbacks.writers.markdown import escaped_markdown

# An escaped underline with letters or digits on both sides.
_UNDERLINE = re.compile(r"(?<=[^\W_])\\_(?=[^\W_])")

# The end of the name of an ONNX file that is for running.
_TRAINED = "model.onnx"


def publish(
    target: MlflowTarget,
    report: Report,
    analysis: Analysis | None,
    names: list[str],
    deadline_s: float | Callable[[], float],
    tries: int | None = None,
    heard: Heard = unheard,
) -> None:
    """Logs everything of one recording to a tracker's run, and says in the report where it is.

    Args:
        target: The run.
        report: Of the recording; learns where the files are, and of a new run its id.
        analysis: That of the graph; ``None``: only the files, and the models among them.
        names: The files, in the report's folder.
        deadline_s: Seconds for all of it, or a function that says how many are left.
        tries: How often a call is made that fails for the moment; ``None``: until time is up.
        heard: Is told of each call.

    Raises:
        TrackerError: Something did not arrive; the rest did.
    """
    tracker = make_tracker(target.tracker, target, report.name, deadline_s, tries, heard)
    trackers = MultiTracker([tracker])
    folder = Path(report.folder)
    log_recording(trackers, {name: folder / name for name in names}, analysis)
    if not any(what == "everything" for what, _ in trackers.errors):
        report.mlflow_run_id = tracker.run_id
    error = trackers.error()
    if error is not None:
        raise error
    line = f"{tracker.name}: {tracker.place}"
    if line not in report.stored:
        report.stored.append(line)


def log_recording(
    trackers: MultiTracker, files: Mapping[str, Path], analysis: Analysis | None
) -> None:
    """Logs everything of one recording: whatever does not fail arrives.

    Args:
        trackers: Not opened yet; they are closed afterwards, and have the errors.
        files: Name below the run's artifact folder to the file on disk.
        analysis: That of the graph; ``None``: only the files, and the models among them.
    """
    trackers.open()
    try:
        trackers.log_files(files)
        if analysis is not None:
            trackers.log_tags(tags_of(analysis))
            trackers.log_metrics(metrics_of(analysis.graph))
            trackers.log_description(_section(analysis.graph, files))
        if CHANGES in files:
            trackers.log_tags({"modelviz.changes": "\n".join(changes_told(files[CHANGES]))})
        for name, path in files.items():
            if name.endswith(_TRAINED):
                trackers.log_model(path, path.name.removesuffix(".onnx"))
    finally:
        trackers.close()


def tags_of(analysis: Analysis) -> dict[str, object]:
    """What runs are found by: ``modelviz.class`` and ``modelviz.fingerprint``."""
    graph = analysis.graph
    return {"modelviz.class": graph.class_name, "modelviz.fingerprint": analysis.fingerprint}


def metrics_of(graph: ModelGraph) -> dict[str, float]:
    """What runs are compared by; FLOPs of one forward, a sample (the first input's first size).

    Where not all that multiplies could be counted, the name says that they are a lower bound:
    ``modelviz.flops_per_sample_at_least``.
    """
    flops = sum(node.flops or 0 for node in graph.ops) / _batch(graph)
    # A figure that runs are compared by must not be taken for another one.
    bound = "_at_least" if any(is_uncounted(node) for node in graph.ops) else ""
    depth = max((call.name.count("/") + 1 for call in graph.modules), default=0)
    return {
        "modelviz.parameters": graph.parameter_count,
        "modelviz.parameters_trainable": graph.trainable_count,
        f"modelviz.flops_per_sample{bound}": flops,
        "modelviz.ops": len(graph.ops),
        "modelviz.depth": depth,
    }


def _batch(graph: ModelGraph) -> int:
    inputs = graph.of_kind("input")
    shape = inputs[0].outputs[0].shape if inputs else None
    return max(1, shape[0]) if shape else 1


def _section(graph: ModelGraph, files: Mapping[str, Path]) -> str:
    """Markdown: the picture and the figures."""
    metrics = metrics_of(graph)
    # An underline inside a word means nothing; it is common, and stays as it is.
    name = _UNDERLINE.sub("_", escaped_markdown(graph.name))
    picture = next((name for name in ("graph.svg", "graph.png") if name in files), None)
    told = [
        f"{'at least ' if key.endswith('_at_least') else ''}{value:,.0f}"
        for key, value in metrics.items()
    ]
    # The picture first: of a long description trackers show the beginning.
    lines = [f"**{name}** as recorded in the first training batch", ""]
    if picture is not None:
        lines += [f"![{name}]({ARTIFACT_SCHEME}{FOLDER}/{picture})", ""]
    lines += [
        "| parameters | trainable | FLOPs per sample | ops | depth |",
        "| --: | --: | --: | --: | --: |",
        "| " + " | ".join(told) + " |",
    ]
    if "index.html" in files:
        lines += ["", f"Interactive: `{FOLDER}/index.html` among the artifacts."]
    return "\n".join(lines)
