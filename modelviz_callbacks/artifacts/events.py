"""What TensorBoard gets of a recording: the run's graph, named graphs, a table, a picture."""

from __future__ import annotations

from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.interface import Tracker
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker
from modelviz_callbacks.view.text_tree import tree_text


def write_graph(analysis: Analysis, target: Any) -> None:
    """Writes a graph into a TensorBoard run, outside of any training.

    Args:
        analysis: That of any graph.
        target: A ``SummaryWriter``, or a directory for a new event file.

    Raises:
        TrackerError: It cannot be written there.
    """
    with TensorBoardTracker(target) as tracker:
        tracker.add_graph(_graph_event(analysis))
        _add_named_graphs(tracker, analysis, None)


def add_run_graph(maker: Maker, products: Products) -> None:
    """Writes the run's graph: the one event that a person waits for.

    Args:
        maker: Knows where the events go.
        products: Has a graph.

    Raises:
        TrackerError: It cannot be written there.
        WriterError: It cannot be drawn.
    """
    events = maker.events
    assert events is not None
    assert products.analysis is not None
    with TensorBoardTracker(events.target) as tracker:
        tracker.add_graph(_graph_event(products.analysis))
        tracker.flush()
        if not events.is_staged:
            mention(maker.report, tracker)


def add_extras(maker: Maker, products: Products) -> None:
    """Writes the named graphs, the table and the picture into the same run.

    Args:
        maker: Knows where the events go, and whether there is a ``graph.png``.
        products: Has a graph.

    Raises:
        TrackerError: They cannot be written there.
        WriterError: They cannot be drawn.
    """
    from modelviz_callbacks.writers.markdown import layer_table

    assert maker.events is not None
    analysis = products.analysis
    assert analysis is not None
    name = analysis.graph.name
    with TensorBoardTracker(maker.events.target) as tracker:
        _add_named_graphs(tracker, analysis, products.backward_analysis, maker.stage)
        # Each under a tag of its own: of two kinds under one, TensorBoard shows the first.
        picture = maker.called("graph.png")
        if picture in maker.report.files:
            tracker.add_image(f"{name}/picture", (maker.folder / picture).read_bytes())
        tracker.add_text(f"{name}/layers", layer_table(analysis))
        tracker.add_text(f"{name}/modules", f"```\n{tree_text(analysis)}\n```")
        tracker.flush()


def add_times(maker: Maker, products: Products) -> None:
    """Writes the graph with the measured times of a step into the same run.

    Args:
        maker: Knows where the events go.
        products: Has a graph and times.

    Raises:
        TrackerError: They cannot be written there.
        WriterError: A time belongs to no op.
    """
    from modelviz_callbacks.writers.graphdef import timed_graph

    assert maker.events is not None
    assert products.analysis is not None
    assert products.times_us is not None
    step = f"step {maker.options.profile_step}"
    timed = {f"time of {step}": products.times_us}
    if products.times.backward_us:
        timed[f"time of the backward of {step}"] = products.times.backward_us
    with TensorBoardTracker(maker.events.target) as tracker:
        for tag, times_us in timed.items():
            named = timed_graph(products.analysis, times_us, tag)
            add = tracker.add_named_graph if named.has_graph else tracker.add_profile
            add(named.tag, named.metadata)
        tracker.flush()


def add_health(maker: Maker, products: Products) -> None:
    """Writes what was seen in a step that was looked into into the same run: a table, and colours.

    Args:
        maker: Knows where the events go.
        products: Has a graph and such a step.

    Raises:
        TrackerError: It cannot be written there.
        WriterError: Nothing in the graph can be drawn.
    """
    from modelviz_callbacks.writers.graphdef import shares_profile
    from modelviz_callbacks.writers.health_table import health_table

    assert maker.events is not None
    assert products.told_analysis is not None
    assert products.health is not None
    analysis, health = products.told_analysis, products.health
    shares = {} if maker.stage else health.shares(analysis.graph)  # as other profiles
    with TensorBoardTracker(maker.events.target) as tracker:
        table = health_table(analysis, health)
        tracker.add_text(f"{analysis.graph.name}/health of step {health.number}", table)
        for what, parts in shares.items():
            tag = f"squared {what} of step {health.number}, 10 s = all"
            tracker.add_profile(tag, shares_profile(analysis, parts, tag).metadata)
        tracker.flush()


def mention(report: Report, tracker: Tracker) -> None:
    """Notes where a tracker has the graph."""
    line = f"{tracker.name}: {tracker.place}"
    if line not in report.stored:
        report.stored.append(line)


def _graph_event(analysis: Analysis) -> bytes:
    from modelviz_callbacks.writers.graphdef import graph_def

    with paused_collector():
        event: bytes = graph_def(analysis).SerializeToString(deterministic=True)
    return event


def _add_named_graphs(
    tracker: TensorBoardTracker,
    analysis: Analysis,
    backward: Analysis | None,
    stage: str = "",
) -> None:
    """Adds the graphs that TensorBoard offers by a tag: with costs, of modules, the backward."""
    from modelviz_callbacks.writers.graphdef import named_graphs

    for named in named_graphs(analysis, backward):
        if named.has_graph:
            tracker.add_named_graph(f"{stage}: {named.tag}" if stage else named.tag, named.metadata)
        elif not stage:  # a profile belongs to the run's own graph
            tracker.add_profile(named.tag, named.metadata)
