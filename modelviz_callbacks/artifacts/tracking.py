"""The MLflow run's page: files, what makes runs comparable, a section in the description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.mlflow import MlflowSink, MlflowTarget

# The artifact folder, see `MlflowSink.store`.
_HOME = "model_graph"


def publish(
    target: MlflowTarget,
    report: Report,
    analysis: Analysis | None,
    names: list[str],
    deadline_s: float | Callable[[], float],
) -> None:
    """Stores everything of one recording in an MLflow run.

    Args:
        target: The run.
        report: Of the recording; learns where the files are, and of a new run its id.
        analysis: That of the graph; ``None``: only the files.
        names: The files, in the report's folder.
        deadline_s: Seconds for all of it, or a function that says how many are left.

    Raises:
        SinkError: Something did not arrive; the rest did.
    """
    sink = MlflowSink(target, run_name=report.name, deadline_s=deadline_s)
    folder = Path(report.folder)
    try:
        report.mlflow_run_id = sink.run_id
        place = sink.store({name: folder / name for name in names}, _HOME)
        if analysis is not None:
            sink.set_tags(tags_of(analysis))
            sink.log_metrics(metrics_of(analysis.graph))
            sink.describe(_section(sink, report, analysis.graph))
        for name in names:
            if name.endswith("model.onnx"):
                _log_model(sink, folder / name)
        line = f"MLflow: {place}"
        if line not in report.stored:
            report.stored.append(line)
    finally:
        sink.close()


def tags_of(analysis: Analysis) -> dict[str, object]:
    """What runs are found by: ``modelviz.class`` and ``modelviz.fingerprint``."""
    graph = analysis.graph
    return {"modelviz.class": graph.class_name, "modelviz.fingerprint": analysis.fingerprint}


def metrics_of(graph: ModelGraph) -> dict[str, float]:
    """What runs are compared by; FLOPs of one forward, a sample (the first input's first size)."""
    depth = max((call.name.count("/") + 1 for call in graph.modules), default=0)
    return {
        "modelviz.parameters": graph.parameter_count,
        "modelviz.parameters_trainable": graph.trainable_count,
        "modelviz.flops_per_sample": sum(node.flops or 0 for node in graph.ops) / _batch(graph),
        "modelviz.ops": len(graph.ops),
        "modelviz.depth": depth,
    }


def _batch(graph: ModelGraph) -> int:
    inputs = graph.of_kind("input")
    shape = inputs[0].outputs[0].shape if inputs else None
    return max(1, shape[0]) if shape else 1


def _section(sink: MlflowSink, report: Report, graph: ModelGraph) -> str:
    """Markdown: the picture and the figures."""
    metrics = metrics_of(graph)
    picture = next((name for name in ("graph.svg", "graph.png") if name in report.files), None)
    # The figures first: of a long description MLflow shows the beginning.
    lines = [
        f"**{graph.name}** as recorded in the first training batch",
        "",
        "| parameters | trainable | FLOPs per sample | ops | depth |",
        "| --: | --: | --: | --: | --: |",
        "| " + " | ".join(f"{value:,.0f}" for value in metrics.values()) + " |",
    ]
    if picture is not None:
        lines += ["", f"![{graph.name}]({sink.artifact_link(f'{_HOME}/{picture}')})"]
    if "index.html" in report.files:
        lines += ["", f"Interactive: `{_HOME}/index.html` among the artifacts."]
    return "\n".join(lines)


def _log_model(sink: MlflowSink, path: Path) -> None:
    from modelviz_callbacks.trackers.mlflow_model import log_onnx_model

    log_onnx_model(sink, path, path.name.removesuffix(".onnx"))
