"""The way back from a simplified graph to the exact one."""

from __future__ import annotations

from dataclasses import replace

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import check
from modelviz_callbacks.view.simplified import simplification


def assert_honest(graph: ModelGraph) -> None:
    """The simplified graph is sound, and the exact one less its bookkeeping."""
    analysis = Analysis(graph)
    found = simplification(analysis)
    told = found.analysis.graph
    check(told)
    exact = {node.name: node for node in (*found.left_out, *found.changed)}
    back = {node.name: exact.get(node.name, node) for node in (*told.nodes, *found.left_out)}
    assert replace(told, nodes=tuple(back[node.name] for node in graph.nodes)).nodes == graph.nodes
    made_up = {node.name for node in told.nodes} - {node.name for node in graph.nodes}
    beside = {node.name for node in found.left_out}
    for node in found.changed:
        now = told.by_name[node.name]
        # What it reads is what it read, labels in the place of what is beside the path.
        kept = [ref for ref in now.inputs if ref.node not in made_up]
        assert all(ref in node.inputs or ref.node not in beside for ref in kept)
        assert [a.name for a in now.arguments] == [a.name for a in node.arguments]
