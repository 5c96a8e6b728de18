"""Every graph of the zoo can be looked at in TensorBoard."""

from __future__ import annotations

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.writers.graphdef import graph_def
from tests.writers.graphdef_reading import modules_graph_def
from tests.writers.graphdef_rules import violations


def assert_drawn(graph: ModelGraph) -> None:
    """The op graph shows all of it, and neither it nor the overview breaks the page."""
    analysis = Analysis(graph)
    modules = modules_graph_def(analysis)
    broken = violations(graph_def(analysis), graph)
    broken += violations(modules) if modules.node else []
    assert not broken, f"TensorBoard's page would break: {'; '.join(broken[:5])}"
