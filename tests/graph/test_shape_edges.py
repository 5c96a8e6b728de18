"""An edge along which only a shape goes says so, on the graph and in JSON."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.errors import GraphError
from modelviz_callbacks.graph import Ref
from modelviz_callbacks.graph.json_format import dumps, loads
from tests.writers.graphs_by_hand import GraphByHand


class AsksForShapes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(x)
        blank = x.new_zeros(3, 4).zero_()
        return (x + noise).view_as(blank) + blank


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return trace(AsksForShapes(), torch.ones(3, 4)).graph


def asked(graph: ModelGraph) -> dict[str, list[bool]]:
    return {node.name: [ref.shape_only for ref in node.inputs] for node in graph.ops}


def test_an_op_that_asks_only_for_a_shape_reads_no_value(graph: ModelGraph) -> None:
    assert asked(graph) == {
        "randn_like": [True],
        "new_zeros": [True],
        "zero_": [True],
        "add": [False, False],
        "view_as": [False, True],
        "add_1": [False, False],
    }


def test_json_keeps_it_and_reads_files_that_do_not_say_it(graph: ModelGraph) -> None:
    text = dumps(graph)
    assert asked(loads(ModelGraph, text)) == asked(graph)
    old = text.replace(',0,"shape"]', ",0]")
    assert old != text
    assert loads(ModelGraph, old) == graph
    assert not any(any(told) for told in asked(loads(ModelGraph, old)).values())


def test_references_to_one_tensor_are_equal_however_they_are_read() -> None:
    assert Ref("x", 0, shape_only=True) == Ref("x")
    assert hash(Ref("x", 0, shape_only=True)) == hash(Ref("x"))


def test_an_op_of_torch_that_reads_values_cannot_say_otherwise() -> None:
    build = GraphByHand()
    x = build.leaf("input", "x")
    build.output(build.op("", "add", Ref(x.node, 0, shape_only=True), target="torch.add"))
    with pytest.raises(GraphError, match="reads the values of 'x', not only its shape"):
        build.graph()


def test_an_op_of_the_users_may_ask_only_for_a_shape() -> None:
    build = GraphByHand()
    x = build.leaf("input", "x")
    build.output(build.op("", "add", Ref(x.node, 0, shape_only=True), target="mylib.add"))
    assert asked(build.graph()) == {"add": [True]}


def test_an_output_is_never_only_a_shape() -> None:
    build = GraphByHand()
    x = build.leaf("input", "x")
    build.output(Ref(x.node, 0, shape_only=True))
    with pytest.raises(GraphError, match="not only its shape"):
        build.graph()
