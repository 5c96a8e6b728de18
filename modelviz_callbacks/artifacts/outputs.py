"""One output of a graph at a time: what the pipeline does for a run, `Trace` does on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.report import warn
from modelviz_callbacks.tracing import Recording, class_of, to_graph, with_flops
from modelviz_callbacks.tracing.lowering.networks import Unit
from modelviz_callbacks.tracing.lowering.to_program import FACTS
from modelviz_callbacks.trackers.tensorboard import TensorBoardSink
from modelviz_callbacks.writers.formats import render

if TYPE_CHECKING:
    from modelviz_callbacks.writers.onnx import Source as OnnxSource
    from modelviz_callbacks.writers.onnx import View as OnnxView


def graph_of(recording: Recording, name: str | None = None) -> ModelGraph:
    """The model graph of a recording, with costs; see `modelviz_callbacks.tracing.to_graph`."""
    with paused_collector():
        return with_flops(to_graph(recording, name), recording)


def save(graph: ModelGraph, kind: str, path: str | Path, depth: int | None = None) -> Path:
    """Writes one file of a graph, whole or not at all.

    Args:
        graph: Any graph.
        kind: As for `render`.
        path: The file.
        depth: How many levels of modules are opened.

    Returns:
        The path.

    Raises:
        WriterError: The graph cannot be written so.
        SinkError: The file cannot be written.
    """
    path = Path(path)
    return Directory(path.parent).write(path.name, render(graph, kind, depth))


def save_onnx(
    recording: Recording,
    graph: ModelGraph,
    path: str | Path,
    weights: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Path:
    """Writes the ONNX view of a recorded forward; see `modelviz_callbacks.Trace.save_onnx`."""
    view = view_of(Unit.whole(recording), graph, input_names, output_names, weights)
    path = Path(path)
    if view.missing:
        warn(view.remarks(path.name)[-1])
    return Directory(path.parent).write(path.name, view.data)


def view_of(
    unit: Unit,
    graph: ModelGraph,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    weights: bool,
) -> OnnxView:
    """A network's ``graph.onnx``.

    Args:
        unit: The network.
        graph: The graph of the recording that it is a part of.
        input_names: The user's names for its inputs.
        output_names: The user's names for its outputs.
        weights: Whether its weights go along.

    Returns:
        The content of the file, and what of it has no standard form.

    Raises:
        WriterError: The weights do not fit into one file.
        OptionError: The names do not fit.
    """
    from modelviz_callbacks.writers.onnx import Names, graph_view, view_model

    names = Names(input_names, output_names)
    path = "" if unit.recording.model is unit.module else unit.name
    calls = (call.name for call in graph.modules if call.called and call.path == path)
    scope = next(calls, "") if path else ""
    with paused_collector():
        try:
            source = onnx_source(unit)
        except Exception as error:  # the program itself could not be put together
            return graph_view(graph, names, _title(unit), str(error), scope)
        return view_model(source, names, graph, scope, weights)


def _title(unit: Unit) -> str:
    return f"{class_of(unit.module).__name__}, recorded by modelviz_callbacks"


def onnx_source(unit: Unit) -> OnnxSource:
    """A network in the form that the ONNX writers take."""
    from modelviz_callbacks.writers.onnx import Source

    program = unit.program
    return Source(
        program.module,
        program.inputs,
        unit.examples(),
        program.outputs,
        FACTS,
        program.state,
        _title(unit),
    )


def write_tensorboard(graph: ModelGraph, target: Any) -> None:
    """Writes a graph into a TensorBoard run.

    Args:
        graph: Any graph.
        target: A ``SummaryWriter``, or a directory for a new event file.

    Raises:
        SinkError: It cannot be written there.
    """
    from modelviz_callbacks.writers.graphdef import graph_def

    with TensorBoardSink(target) as sink:
        sink.add_graph(graph_def(graph).SerializeToString(deterministic=True))
        add_named_graphs(sink, graph)


def add_named_graphs(
    sink: TensorBoardSink, graph: ModelGraph, backward: ModelGraph | None = None
) -> None:
    """Adds the graphs that TensorBoard offers by a tag: with costs, of modules, the backward.

    Args:
        sink: The run.
        graph: Any graph.
        backward: The graph of its backward pass, if there is one.

    Raises:
        SinkError: They cannot be written there.
    """
    from modelviz_callbacks.writers.graphdef import named_graphs

    for named in named_graphs(graph, backward):
        add = sink.add_named_graph if named.has_graph else sink.add_profile
        add(named.tag, named.metadata)


def add_times(target: Any, graph: ModelGraph, times_us: Mapping[str, float], tag: str) -> None:
    """Adds a graph with measured times to a TensorBoard run.

    Args:
        target: A ``SummaryWriter``, or a directory for a new event file.
        graph: Any graph.
        times_us: Microseconds by the names of its ops.
        tag: What it is called there.

    Raises:
        SinkError: It cannot be written there.
        WriterError: A time belongs to no op.
    """
    from modelviz_callbacks.writers.graphdef import timed_graph

    with TensorBoardSink(target) as sink:
        named = timed_graph(graph, times_us, tag)
        add = sink.add_named_graph if named.has_graph else sink.add_profile
        add(named.tag, named.metadata)
