"""The checker itself: every rule of it can be broken."""

from __future__ import annotations

import pytest
from tensorboard.compat.proto.graph_pb2 import GraphDef

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.writers.graphdef import graph_def
from tests.writers.graphdef_rules import model_name, violations
from tests.writers.graphs_by_hand import two_branches


def _of(*names: str, op: str = "relu", **fields: object) -> GraphDef:
    found = GraphDef()
    for name in names:
        found.node.add(name=name, op=op, device="/device:CPU:0", **fields)
    return found


def test_two_sound_nodes_break_no_rule() -> None:
    assert violations(_of("a", "b/c")) == []


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (_of(), "empty"),
        (_of("a", "b", "a"), "2 nodes are called 'a'"),
        (_of("a", "/b"), "empty part"),
        (_of("a", "b//c"), "empty part"),
        (_of("a", "b/"), "empty part"),
        (_of("a", "b:1"), "character"),
        (_of("a", "^b"), "character"),
        (_of("a", "b'c"), "character"),
        (_of("a", "constructor/b"), "breaks the page"),
        (_of("a", "__root__"), "breaks the page"),
        (_of("a", "b", "b/c", op="Parameter(Const)"), "named like a box"),
        (_of("a", "b", input=["c"]), "'c', which does not exist"),
        (_of("a", "b", input=["a:1"]), "reads output 1"),
        (_of(*(f"n{i}" for i in range(51))), "'' has 51 children"),
        (_of("a", *(f"b/n{i}" for i in range(101))), "'b' has 101 children"),
        (_of("model/a", "model/b"), "one box holds everything"),
        (_of("a", "b", op="NoOp"), "drawn at the side"),
    ],
)
def test_a_broken_rule_is_named(broken: GraphDef, complaint: str) -> None:
    assert any(complaint in text for text in violations(broken))


@pytest.mark.parametrize("value", [b"x" * 201, "é".encode()])
def test_a_long_or_foreign_attribute_is_named(value: bytes) -> None:
    broken = _of("a", "b")
    broken.node[0].attr["note"].s = value

    assert any("attribute 'note'" in text for text in violations(broken))


def test_a_device_that_the_page_does_not_list_is_named() -> None:
    broken = _of("a", "b")
    broken.node[0].device = "cpu"

    assert any("'cpu'" in text for text in violations(broken))


@pytest.mark.parametrize("lost", ["cat", "cnn/0_Conv2d/conv2d", "fc/weight", "x"])
def test_a_node_that_is_not_shown_is_named(lost: str) -> None:
    graph = two_branches()
    written = graph_def(Analysis(graph))
    kept = [node for node in written.node if model_name(node.name) != lost]
    del written.node[:]
    written.node.extend(kept)

    assert f"{lost!r} is shown 0 times" in violations(written, graph)


def test_an_op_drawn_as_a_circle_is_named() -> None:
    graph = two_branches()
    written = graph_def(Analysis(graph))
    next(node for node in written.node if node.name == "cat").op = "ConstCat"

    assert any("'cat' is a op" in text for text in violations(written, graph))


def test_a_node_that_is_not_in_the_model_is_named() -> None:
    written = graph_def(Analysis(two_branches()))

    assert any("the graph has 0" in text for text in violations(written, ModelGraph("M", "M")))
