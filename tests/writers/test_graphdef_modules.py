"""The overview of modules, as TensorBoard's own messages."""

from __future__ import annotations

import pytest
from tensorboard.compat.proto.config_pb2 import RunMetadata

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import (
    ModelGraph,
    Ref,
    TensorSpec,
)
from modelviz_callbacks.writers.graphdef import named_graphs
from tests.writers.graphdef_reading import by_name, modules_graph_def, stats_of, texts_of
from tests.writers.graphdef_rules import violations
from tests.writers.graphs_by_hand import GRAPHS, GraphByHand, chain, layers, two_branches


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_every_overview_keeps_the_rules_of_the_page(graph: ModelGraph) -> None:
    drawn = modules_graph_def(Analysis(graph))
    assert bool(drawn.node) == bool(graph.modules)
    assert not drawn.node or violations(drawn) == []


def test_the_overview_has_one_node_a_module_call_and_the_place_where_branches_meet() -> None:
    nodes = by_name(modules_graph_def(Analysis(two_branches())))

    assert set(nodes) == {
        "x/Input",
        "cnn/0_Conv2d/Conv2d",
        "cnn/1_ReLU/ReLU",
        "cnn/2_Conv2d/Conv2d",
        "mlp1/Linear",
        "mlp2/Linear",
        "cat",
        "fc/Linear",
        "output",
    }
    assert list(nodes["mlp1/Linear"].input) == ["cnn/2_Conv2d/Conv2d"]  # flatten passes it on
    assert list(nodes["cat"].input) == ["mlp1/Linear", "mlp2/Linear"]
    assert list(nodes["fc/Linear"].input) == ["cat"]
    assert nodes["fc/Linear"].op == "Linear"
    assert texts_of(nodes["mlp1/Linear"])["parameters"] == "401,408"
    assert texts_of(nodes["mlp1/Linear"])["_XlaCluster"] == "frozen"
    assert texts_of(nodes["fc/Linear"])["output output"] == "float32 [8, 10]"


def test_a_residual_network_has_few_edges_in_the_overview() -> None:
    overview = modules_graph_def(Analysis(layers(20)))

    assert max(len(node.input) for node in overview.node) == 2
    assert len([node for node in overview.node if node.op == "add"]) == 20


def test_outputs_of_one_module_keep_their_numbers_in_the_overview() -> None:
    build = GraphByHand()
    lstm = build.module("", "lstm", "lstm", "rnn.LSTM")
    pair = (TensorSpec((2, 4), "float32"), TensorSpec((2, 9), "float32"))
    build.op(lstm, "lstm", build.leaf("input", "x"), outputs=pair)
    build.output(Ref("lstm/lstm", 0), "first")
    build.output(Ref("lstm/lstm", 1), "second")
    nodes = by_name(modules_graph_def(Analysis(build.graph())))

    assert list(nodes["first"].input) == ["lstm/LSTM"]
    assert list(nodes["second"].input) == ["lstm/LSTM:1"]


def test_the_overview_has_the_costs_of_the_whole_graph() -> None:
    graph = two_branches()
    forward, modules = (RunMetadata.FromString(n.metadata) for n in named_graphs(Analysis(graph)))

    def total(metadata: RunMetadata, column: int) -> int:
        return sum(row[column] for row in stats_of(metadata).values())

    assert total(modules, 2) == total(forward, 2) == 4 * sum(p.spec.numel for p in graph.parameters)
    assert total(modules, 1) == pytest.approx(total(forward, 1), abs=20)


def test_a_model_without_modules_has_no_overview() -> None:
    assert [named.tag[:7] for named in named_graphs(Analysis(chain(5)))] == ["forward"]
