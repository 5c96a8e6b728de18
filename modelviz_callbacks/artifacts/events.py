"""What TensorBoard gets of a recording: the run's graph, named graphs, a table, a picture."""

from __future__ import annotations

from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.tensorboard import TensorBoardSink
from modelviz_callbacks.view.text_tree import tree_text


def write_graph(analysis: Analysis, target: Any) -> None:
    """Writes a graph into a TensorBoard run, outside of any training.

    Args:
        analysis: That of any graph.
        target: A ``SummaryWriter``, or a directory for a new event file.

    Raises:
        SinkError: It cannot be written there.
    """
    with TensorBoardSink(target) as sink:
        sink.add_graph(_graph_event(analysis))
        _add_named_graphs(sink, analysis, None)


def add_run_graph(maker: Maker, products: Products) -> None:
    """Writes the run's graph: the one event that a person waits for.

    Args:
        maker: Knows where the events go.
        products: Has a graph.

    Raises:
        SinkError: It cannot be written there.
        WriterError: It cannot be drawn.
    """
    events = maker.events
    assert events is not None
    assert products.analysis is not None
    with TensorBoardSink(events.target) as sink:
        sink.add_graph(_graph_event(products.analysis))
        sink.flush()
        if not events.is_staged:
            mention(maker.report, sink.log_dir)


def add_extras(maker: Maker, products: Products) -> None:
    """Writes the named graphs, the table and the picture into the same run.

    Args:
        maker: Knows where the events go, and whether there is a ``graph.png``.
        products: Has a graph.

    Raises:
        SinkError: They cannot be written there.
        WriterError: They cannot be drawn.
    """
    from modelviz_callbacks.writers.markdown import layer_table

    assert maker.events is not None
    analysis = products.analysis
    assert analysis is not None
    name = analysis.graph.name
    with TensorBoardSink(maker.events.target) as sink:
        _add_named_graphs(sink, analysis, products.backward_analysis)
        # Each under a tag of its own: of two kinds under one, TensorBoard shows the first.
        if "graph.png" in maker.report.files:
            sink.add_image(f"{name}/picture", (maker.folder / "graph.png").read_bytes())
        sink.add_text(f"{name}/layers", layer_table(analysis))
        sink.add_text(f"{name}/modules", f"```\n{tree_text(analysis)}\n```")
        sink.flush()


def add_times(maker: Maker, products: Products) -> None:
    """Writes the graph with the measured times of a step into the same run.

    Args:
        maker: Knows where the events go.
        products: Has a graph and times.

    Raises:
        SinkError: They cannot be written there.
        WriterError: A time belongs to no op.
    """
    from modelviz_callbacks.writers.graphdef import timed_graph

    assert maker.events is not None
    assert products.analysis is not None
    assert products.times_us is not None
    tag = f"time of step {maker.options.profile_step}"
    with TensorBoardSink(maker.events.target) as sink:
        named = timed_graph(products.analysis, products.times_us, tag)
        add = sink.add_named_graph if named.has_graph else sink.add_profile
        add(named.tag, named.metadata)
        sink.flush()


def mention(report: Report, log_dir: str) -> None:
    """Notes where TensorBoard finds the graph."""
    line = f"TensorBoard: tensorboard --logdir {log_dir}"
    if line not in report.stored:
        report.stored.append(line)


def _graph_event(analysis: Analysis) -> bytes:
    from modelviz_callbacks.writers.graphdef import graph_def

    with paused_collector():
        event: bytes = graph_def(analysis).SerializeToString(deterministic=True)
    return event


def _add_named_graphs(sink: TensorBoardSink, analysis: Analysis, backward: Analysis | None) -> None:
    """Adds the graphs that TensorBoard offers by a tag: with costs, of modules, the backward."""
    from modelviz_callbacks.writers.graphdef import named_graphs

    for named in named_graphs(analysis, backward):
        add = sink.add_named_graph if named.has_graph else sink.add_profile
        add(named.tag, named.metadata)
