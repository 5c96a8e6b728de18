"""From a recording to everything that is made of it: options in, report out.

The one place that knows tracing, writers and sinks. What is quick (the JSON, the text, the
TensorBoard graph) is written as soon as there is a recording; what is slow or may block (ONNX,
pictures, MLflow) when training ends or the hook is closed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelviz_callbacks.collector import paused_collector
from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.options import Options
from modelviz_callbacks.outputs import (
    FILES,
    add_named_graphs,
    onnx_source,
    render,
    view_of,
)
from modelviz_callbacks.report import Report
from modelviz_callbacks.sinks.directory import Directory
from modelviz_callbacks.sinks.mlflow_target import MlflowTarget, find_target
from modelviz_callbacks.sinks.tensorboard import TensorBoardSink
from modelviz_callbacks.tracing import Recording, to_graph, warm_up, with_flops
from modelviz_callbacks.tracing.units import Unit, units

if TYPE_CHECKING:
    pass

_QUICK = ("text", "csv")

# What TensorBoard's event files are written with; slow to import.
_EVENT_RECORDS = "tensorboard.summary.writer.record_writer"

# How long the end of training may wait for an MLflow server, in seconds.
_MLFLOW_LIMIT_S = 30


class Pipeline:
    """One capture's way to its files and destinations.

    Attributes:
        report: What was written where, what was refused and why.
    """

    def __init__(self, options: Options, class_name: str) -> None:
        """Nothing is written yet.

        Args:
            options: What to write, and where.
            class_name: What to call the graph if the options do not say.
        """
        self.options = options
        name = options.name or class_name
        folder = Path(options.dirpath or Path("model_graph") / _file_name(name))
        self.folder = folder.absolute()  # the working directory may change before the end
        self.report = Report(name, str(self.folder))
        self.tensorboard = options.tensorboard
        self._mlflow_target: MlflowTarget | None = None
        self._recording: Recording | None = None
        self._graph: ModelGraph | None = None
        self._failed: Exception | None = None
        self._finished = False
        warm_up()
        if self.tensorboard is not False:
            for name in ("modelviz_callbacks.writers.graphdef", _EVENT_RECORDS):
                importlib.import_module(name)

    # --- set by who knows more about the run

    def write_to(self, folder: Path) -> None:
        """Sets the folder for the files; an option ``dirpath`` goes before."""
        if self.options.dirpath is None:
            self.folder = folder.absolute()
        self.report.folder = str(self.folder)

    def find_mlflow(self, logger_uri: str | None = None, logger_run_id: str | None = None) -> None:
        """Finds out now which MLflow run is meant, in the thread that trains."""
        with self.guarded("the MLflow run"):
            self._mlflow_target = find_target(
                self.options.mlflow, logger_uri=logger_uri, logger_run_id=logger_run_id
            )

    # --- the two moments

    @property
    def is_finished(self) -> bool:
        """Whether everything was written that will be."""
        return self._finished

    def captured(self, recording: Recording) -> None:
        """Takes a recording over and writes what is quick to write."""
        with paused_collector():
            self._take(recording)

    def _take(self, recording: Recording) -> None:
        self._recording = recording
        with self.guarded("the graph"):
            graph = self._graph = to_graph(recording, self.options.name)
            self.report.figures |= {
                "parameters": graph.parameter_count,
                "trainable": graph.trainable_count,
                "ops": len(graph.ops),
                "modules": sum(call.called for call in graph.modules),
            }
            self.report.remarks += [note.message for note in graph.notes]
        if self._graph is None:
            return
        self._write_quick(graph)
        if self.tensorboard is not False:
            with self.guarded("the TensorBoard graph"):
                self._write_tensorboard(graph)

    def _write_quick(self, graph: ModelGraph) -> None:
        self._write("graph.json", lambda: dumps(graph).encode())
        for kind in _QUICK:
            if kind in self.options.formats:
                self._write_format(kind, graph)

    def _add_costs(self, recording: Recording, graph: ModelGraph) -> ModelGraph:
        """Fills in the FLOPs, which take too long for the training step."""
        with self.guarded("the FLOPs"):
            graph = with_flops(graph, recording)
            self.report.figures["flops"] = sum(node.flops or 0 for node in graph.ops)
            self._write_quick(graph)
        return graph

    def finish(self, if_nothing: str, may_raise: bool = True) -> None:
        """Writes what is slow, sends everything to MLflow, and ends the report.

        Args:
            if_nothing: What to say if there is no recording.
            may_raise: Whether nothing else is being raised.

        Raises:
            Exception: What failed first, if ``on_error`` is ``"raise"`` and ``may_raise``.
        """
        self._finished = True
        if self._recording is None or self._graph is None:
            if self._failed is None:
                self._refuse("the graph", CaptureError(f"Nothing was recorded. {if_nothing}"))
        else:
            self._graph = graph = self._add_costs(self._recording, self._graph)
            self._write_slow(self._recording, graph)
            if self.tensorboard is not False:
                with self.guarded("the TensorBoard extras"):
                    self._finish_tensorboard(graph)
        self._write_report()
        if self._mlflow_target is not None and self._graph is not None:
            with self.guarded("the MLflow run"):
                self._write_mlflow(self._mlflow_target, self._graph)
            self._write_report()
        self._recording = None
        self._say(may_raise)

    def _say(self, may_raise: bool) -> None:
        if self.report.files:
            print(_summary(self.report))
        self.report.warn()
        if may_raise and self._failed is not None and self.options.on_error == "raise":
            raise self._failed

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turns any failure into a line of the report: nothing here ends a run."""
        try:
            yield
        except Exception as error:
            self._refuse(what, error)

    def _refuse(self, what: str, error: Exception) -> None:
        self.report.refuse(what, error)
        if self._failed is None:
            self._failed = error

    # --- files

    def _write(self, name: str, make: Callable[[], bytes]) -> None:
        with self.guarded(name):
            Directory(self.folder).write(name, make())
            self._has(name)

    def _has(self, name: str) -> None:
        if name not in self.report.files:
            self.report.files.append(name)

    def _write_format(self, kind: str, graph: ModelGraph) -> None:
        depth = self.options.depth
        self._write(FILES[kind][0], lambda: render(graph, kind, depth))

    def _write_slow(self, recording: Recording, graph: ModelGraph) -> None:
        for kind in self.options.formats:
            if kind not in _QUICK:
                self._write_format(kind, graph)
        if recording.error or not (self.options.onnx or self.options.trained_onnx):
            return
        with self.guarded("the ONNX files"):
            found = units(recording)
            for unit in found:
                prefix = "" if len(found) == 1 else f"{_file_name(unit.name)}."
                if self.options.onnx:
                    self._write_onnx(unit, f"{prefix}onnx" if prefix else "graph.onnx")
                if self.options.trained_onnx:
                    self._write_trained(unit, f"{prefix}model.onnx")

    def _write_onnx(self, unit: Unit, name: str) -> None:
        options = self.options
        names = (options.input_names, options.output_names)
        self._write(name, lambda: view_of(unit, *names, weights=options.onnx_weights))

    def _write_trained(self, unit: Unit, name: str) -> None:
        from modelviz_callbacks.writers.onnx import Names, write_trained

        names = Names(self.options.input_names, self.options.output_names)
        outcome = None

        def export(path: Path) -> None:
            nonlocal outcome
            outcome = write_trained(onnx_source(unit), unit.module, unit.call, names, path)

        with self.guarded(name):
            Directory(self.folder).write(name, export)
            self._has(name)
        if outcome is not None:
            self.report.remarks += outcome.remarks
            self.report.figures["onnx_max_difference"] = outcome.max_difference

    def _write_report(self) -> None:
        self._has("report.json")  # it lists itself
        with self.guarded("report.json"):
            try:
                Directory(self.folder).write("report.json", self.report.to_json().encode())
            except Exception:
                self.report.files.remove("report.json")
                raise

    # --- destinations

    def _write_tensorboard(self, graph: ModelGraph) -> None:
        """The run's graph, at once. A writer of our own is closed again: it has a thread."""
        from modelviz_callbacks.writers.graphdef import graph_def

        with TensorBoardSink(self._tensorboard_target()) as sink:
            sink.add_graph(graph_def(graph).SerializeToString(deterministic=True))
            sink.flush()
            self.report.stored.append(f"TensorBoard: tensorboard --logdir {sink.log_dir}")

    def _finish_tensorboard(self, graph: ModelGraph) -> None:
        """The named graphs, the table and the picture, in the same run."""
        with TensorBoardSink(self._tensorboard_target()) as sink:
            add_named_graphs(sink, graph)
            if "graph.png" in self.report.files:
                sink.add_image(f"{graph.name}/graph", (self.folder / "graph.png").read_bytes())
            sink.add_text(f"{graph.name}/graph", f"```\n{graph}\n```")
            sink.flush()

    def _tensorboard_target(self) -> Any:
        return self.folder if self.tensorboard is True else self.tensorboard

    def _write_mlflow(self, target: MlflowTarget, graph: ModelGraph) -> None:
        from modelviz_callbacks.sinks.mlflow import MlflowSink

        print(f"modelviz: sending the files to MLflow (at most {_MLFLOW_LIMIT_S} s)", flush=True)
        sink = MlflowSink(target, run_name=self.report.name, deadline_s=_MLFLOW_LIMIT_S)
        try:
            files = {name: self.folder / name for name in self.report.files}
            self.report.stored.append(f"MLflow: {sink.store(files)}")
            sink.set_tags(
                {
                    "modelviz.class": graph.class_name,
                    "modelviz.parameters": graph.parameter_count,
                    "modelviz.trainable": graph.trainable_count,
                    "modelviz.ops": len(graph.ops),
                }
            )
        finally:
            sink.close()


def _summary(report: Report) -> str:
    figures = report.figures
    counts = f"{figures.get('ops', 0):,} ops, {figures.get('parameters', 0):,} parameters"
    return f"modelviz: {report.name} ({counts}) is in {report.folder}" + "".join(
        f"; {place}" for place in report.stored
    )


def _file_name(name: str) -> str:
    cleaned = "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
    return cleaned.strip(".")[:100] or "model"
