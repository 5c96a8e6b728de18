"""Makes the files and the TensorBoard events of one recording, wherever that happens.

The worker process and the training process (``background=False``) run the same code here; what
differs is only when. Every part is guarded by itself: what fails is a line of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.artifacts.outputs import add_named_graphs, add_times, onnx_source, view_of
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report
from modelviz_callbacks.tracing import Recording, TimedStep, to_backward_graph, to_graph, with_flops
from modelviz_callbacks.tracing.lowering.networks import Unit, units
from modelviz_callbacks.trackers.tensorboard import TensorBoardSink
from modelviz_callbacks.writers.formats import FILES, render

_QUICK = ("text", "csv")

# Formats in which the backward pass is drawn, too.
_BACKWARD = {"svg": "backward.svg", "html": "backward.html"}


class Production:
    """One recording's way to its files.

    Attributes:
        graph: The model graph, once there is one.
        backward: The graph of the backward pass, if there is one.
        failed: What failed first.
    """

    def __init__(self, options: Options, folder: Path, report: Report) -> None:
        """Nothing is made yet.

        Args:
            options: What to make.
            folder: Where the files go.
            report: Gets a line for each file and each failure.
        """
        self.options = options
        self.folder = folder
        self.report = report
        self.graph: ModelGraph | None = None
        self.backward: ModelGraph | None = None
        self.failed: Exception | None = None

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turns any failure into a line of the report: nothing here ends a run."""
        try:
            yield
        except Exception as error:
            self.refuse(what, error)

    def refuse(self, what: str, error: Exception) -> None:
        """Notes a failure."""
        self.report.refuse(what, error)
        if self.failed is None:
            self.failed = error

    # --- the graph

    def lower(self, recording: Recording) -> None:
        """Makes the graph."""
        with self.guarded("the graph"), paused_collector():
            graph = self.graph = to_graph(recording, self.options.name)
            self.report.figures |= {
                "parameters": graph.parameter_count,
                "trainable": graph.trainable_count,
                "ops": len(graph.ops),
                "modules": sum(call.called for call in graph.modules),
            }
            self.report.remarks += [note.message for note in graph.notes]

    def lower_backward(self, recording: Recording) -> None:
        """Makes the graph of the backward pass."""
        if self.graph is not None and recording.backward is not None:
            with self.guarded("the backward graph"), paused_collector():
                self.backward = to_backward_graph(recording.backward, recording, self.graph)

    def add_costs(self, recording: Recording) -> None:
        """Fills in the FLOPs, which take too long for a training step."""
        if self.graph is None:
            return
        with self.guarded("the FLOPs"):
            self.graph = with_flops(self.graph, recording)
            self.report.figures["flops"] = sum(node.flops or 0 for node in self.graph.ops)

    # --- files

    def write_quick(self) -> None:
        """Writes the graph itself and its texts."""
        graph = self.graph
        if graph is None:
            return
        self._write("graph.json", lambda: dumps(graph).encode())
        for kind in _QUICK:
            if kind in self.options.formats:
                self._write_format(kind, graph)

    def write_pictures(self) -> None:
        """Writes the pictures and the page."""
        if self.graph is None:
            return
        for kind in self.options.formats:
            if kind not in _QUICK:
                self._write_format(kind, self.graph)
        if self.backward is None:
            return
        for drawn, name in _BACKWARD.items():
            if drawn in self.options.formats:
                self._write_format(drawn, self.backward, name)

    def write_views(self, recording: Recording) -> None:
        """Writes an ONNX file for looking at, for each network."""
        if self.graph is None or recording.error or not self.options.onnx:
            return
        with self.guarded("the ONNX files"):
            for unit, prefix in _named_units(recording):
                self._write_view(unit, f"{prefix}onnx" if prefix else "graph.onnx")

    def write_trained(self, recording: Recording) -> None:
        """Writes an ONNX file for running, for each network, with the weights of now."""
        if recording.error or not self.options.trained_onnx:
            return
        with self.guarded("the ONNX files"):
            for unit, prefix in _named_units(recording):
                self._write_trained(unit, f"{prefix}model.onnx", recording)

    def write_report(self) -> None:
        """Writes the report, which lists itself."""
        self._has("report.json")
        with self.guarded("report.json"):
            try:
                Directory(self.folder).write("report.json", self.report.to_json().encode())
            except Exception:
                self.report.files.remove("report.json")
                raise

    def find_files(self, since: float) -> None:
        """Lists what is in the folder since a moment: who wrote it cannot tell any more."""
        for path in sorted(self.folder.glob("*")):
            if path.name[0] != "." and path.is_file() and path.stat().st_mtime >= since:
                self._has(path.name)

    def _write(self, name: str, make: Callable[[], bytes]) -> None:
        with self.guarded(name):
            Directory(self.folder).write(name, make())
            self._has(name)

    def _has(self, name: str) -> None:
        if name not in self.report.files:
            self.report.files.append(name)

    def _write_format(
        self,
        kind: str,
        graph: ModelGraph,
        name: str | None = None,
        times_us: Mapping[str, float] | None = None,
    ) -> None:
        depth, rules = self.options.depth, self.options.rules
        self._write(name or FILES[kind][0], lambda: render(graph, kind, depth, rules, times_us))

    def _write_view(self, unit: Unit, name: str) -> None:
        options, graph = self.options, self.graph
        assert graph is not None
        with self.guarded(name):
            names = (options.input_names, options.output_names)
            view = view_of(unit, graph, *names, weights=options.onnx_weights)
            Directory(self.folder).write(name, view.data)
            self._has(name)
            self.report.remarks += view.remarks(name)

    def _write_trained(self, unit: Unit, name: str, recording: Recording) -> None:
        from modelviz_callbacks.writers.onnx import Names, Subject, View, write_trained

        options = self.options
        names = Names(options.input_names, options.output_names)

        def recorded() -> View:
            graph = self.graph or to_graph(recording, options.name)
            outputs = options.output_names or unit.program.outputs
            return view_of(unit, graph, options.input_names, outputs, weights=True)

        with self.guarded(name):
            path = self.folder / name
            subject = Subject(
                onnx_source(unit),
                unit.module,
                unit.call,
                unit.recorded_inputs(),
                recorded,
            )
            outcome = write_trained(subject, names, path)
            for file in outcome.files:
                self._has(file)
            self.report.remarks += outcome.remarks
            self.report.figures["onnx_max_difference"] = outcome.max_difference

    # --- the timed step

    def write_times(self, step: TimedStep, number: int, target: Any) -> None:
        """Writes the page and TensorBoard's graph with the times of a later step.

        Args:
            step: What was timed.
            number: Which step that was.
            target: TensorBoard's directory or writer; ``False``: none.

        Raises:
            ModelvizError: They cannot be written there.
            OSError: The graph cannot be read again.
        """
        graph = self.graph or ModelGraph.load(self.folder / "graph.json")
        found = step.times(graph)
        self.report.remarks += found.remarks
        if not found.times_us:
            return
        self.report.figures["step_us"] = found.total_us
        if "html" in self.options.formats:
            self._write_format("html", graph, times_us=found.times_us)
        if target is not False:
            add_times(target, graph, found.times_us, f"time of step {number}")

    # --- TensorBoard

    def write_run_graph(self, target: Any, is_staged: bool = False) -> None:
        """Writes the run's graph: the one event that a person waits for.

        Args:
            target: A directory, or a writer, which stays open.
            is_staged: Whether somebody else will take it to where it belongs.
        """
        graph = self.graph
        if graph is None:
            return
        with self.guarded("the TensorBoard graph"), TensorBoardSink(target) as sink:
            from modelviz_callbacks.writers.graphdef import graph_def

            with paused_collector():
                event = graph_def(graph).SerializeToString(deterministic=True)
            sink.add_graph(event)
            sink.flush()
            if not is_staged:
                self.is_in_tensorboard(sink.log_dir)

    def is_in_tensorboard(self, log_dir: str) -> None:
        """Notes where TensorBoard finds the graph."""
        line = f"TensorBoard: tensorboard --logdir {log_dir}"
        if line not in self.report.stored:
            self.report.stored.append(line)

    def write_extras(self, target: Any) -> None:
        """Writes the named graphs, the table and the picture into the same run."""
        graph = self.graph
        if graph is None:
            return
        with self.guarded("the TensorBoard extras"), TensorBoardSink(target) as sink:
            from modelviz_callbacks.writers.markdown import layer_table

            add_named_graphs(sink, graph, self.backward)
            # Each under a tag of its own: of two kinds under one, TensorBoard shows the first.
            if "graph.png" in self.report.files:
                sink.add_image(f"{graph.name}/picture", (self.folder / "graph.png").read_bytes())
            sink.add_text(f"{graph.name}/layers", layer_table(graph))
            sink.add_text(f"{graph.name}/modules", f"```\n{graph}\n```")
            sink.flush()


def _named_units(recording: Recording) -> list[tuple[Unit, str]]:
    """The networks of a recording, each with the beginning of its files' names."""
    found = units(recording)
    if len(found) == 1:
        return [(found[0], "")]
    return [(unit, f"{file_name(unit.name)}.") for unit in found]


def file_name(name: str) -> str:
    """A name that any file system takes."""
    cleaned = "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
    return cleaned.strip(".")[:100] or "model"
