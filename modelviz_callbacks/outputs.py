"""One output of a graph at a time: what the pipeline does for a run, `Trace` does on demand."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelviz_callbacks.collector import paused_collector
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.sinks.directory import Directory
from modelviz_callbacks.sinks.tensorboard import TensorBoardSink
from modelviz_callbacks.tracing import Recording, to_graph, with_flops
from modelviz_callbacks.tracing.to_program import FACTS
from modelviz_callbacks.tracing.units import Unit

if TYPE_CHECKING:
    from modelviz_callbacks.writers.onnx import Source as OnnxSource

# File names of the formats, and the writers that make them.
FILES = {
    "text": ("graph.txt", "text"),
    "markdown": ("graph.md", "markdown"),
    "csv": ("graph.csv", "table"),
    "svg": ("graph.svg", "svg"),
    "png": ("graph.png", "png"),
    "html": ("index.html", "html"),
    "mermaid": ("graph.mmd", "mermaid"),
}


def graph_of(recording: Recording, name: str | None = None) -> ModelGraph:
    """The model graph of a recording, with costs; see `modelviz_callbacks.tracing.to_graph`."""
    with paused_collector():
        return with_flops(to_graph(recording, name), recording)


def render(graph: ModelGraph, kind: str, depth: int | None = None) -> bytes:
    """A graph in one of the formats.

    Args:
        graph: Any graph.
        kind: A format of `Options`, or ``"mermaid"``.
        depth: How many levels of modules are opened.

    Returns:
        The content of the file.

    Raises:
        WriterError: The graph cannot be written so.
    """
    writer = importlib.import_module(f"modelviz_callbacks.writers.{FILES[kind][1]}")
    data: bytes = writer.render(graph, depth=depth)
    return data


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
    path: str | Path,
    weights: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Path:
    """Writes the ONNX view of a recorded forward; see `modelviz_callbacks.Trace.save_onnx`."""
    data = view_of(Unit.whole(recording), input_names, output_names, weights)
    path = Path(path)
    return Directory(path.parent).write(path.name, data)


def view_of(
    unit: Unit,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    weights: bool,
) -> bytes:
    """The content of a network's ``graph.onnx``."""
    from modelviz_callbacks.writers.onnx import Names, view_model

    return view_model(onnx_source(unit), Names(input_names, output_names), weights)


def onnx_source(unit: Unit) -> OnnxSource:
    """A network in the form that the ONNX writers take."""
    from modelviz_callbacks.writers.onnx import Source

    program = unit.program
    title = f"{type(unit.module).__name__}, recorded by modelviz_callbacks"
    return Source(
        program.module,
        program.inputs,
        unit.examples(),
        program.outputs,
        FACTS,
        program.state,
        title,
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


def add_named_graphs(sink: TensorBoardSink, graph: ModelGraph) -> None:
    """Adds the graphs that TensorBoard offers by a tag: with costs, and of modules only.

    Args:
        sink: The run.
        graph: Any graph.

    Raises:
        SinkError: They cannot be written there.
    """
    from modelviz_callbacks.writers.graphdef import run_graphs

    for named in run_graphs(graph).named:
        add = sink.add_named_graph if named.has_graph else sink.add_profile
        add(named.tag, named.metadata)
