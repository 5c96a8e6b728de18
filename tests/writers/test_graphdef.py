"""The op graph, as TensorBoard's own messages."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.graph import (
    Argument,
    Items,
    ModelGraph,
    Node,
    PythonText,
    Ref,
    SliceValue,
    TensorSpec,
)
from modelviz_callbacks.writers.graphdef import graph_def
from tests.networks import Collecting
from tests.writers.graphdef_reading import by_name, run_metadata, texts_of
from tests.writers.graphdef_rules import model_name, violations
from tests.writers.graphs_by_hand import GRAPHS, GraphByHand, chain, layers, two_branches


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_every_graph_keeps_the_rules_of_the_page_and_shows_all_of_it(graph: ModelGraph) -> None:
    assert violations(graph_def(Analysis(graph)), graph) == []


def test_nodes_are_named_as_in_the_model_graph_where_no_box_is_too_full() -> None:
    graph = two_branches()

    names = {node.name for node in graph.nodes}
    assert set(by_name(graph_def(Analysis(graph)))) == names - {"x"} | {"x/Input"}


def test_both_branches_enter_the_concatenation_and_it_enters_the_classifier() -> None:
    nodes = by_name(graph_def(Analysis(two_branches())))

    assert list(nodes["cat"].input) == ["mlp1/linear", "mlp2/linear"]
    assert nodes["fc/linear"].input[0] == "cat"
    assert list(nodes["output"].input) == ["fc/linear"]


def test_arguments_are_told_by_name_and_tensors_by_who_made_them() -> None:
    texts = texts_of(by_name(graph_def(Analysis(two_branches())))["cnn/0_Conv2d/conv2d"])

    assert texts["input"] == "x"
    assert texts["weight"] == "cnn/0_Conv2d/weight"
    assert texts["stride"] == "(1, 1)"
    assert texts["groups"] == "1"
    assert texts["source line"] == "model.py:12 in forward"
    assert texts["module path"] == "cnn.0 (Conv2d)"
    assert texts["FLOPs"] == "3,612,672"


def test_parameters_are_circles_that_tell_shape_dtype_and_whether_they_are_trained() -> None:
    nodes = by_name(graph_def(Analysis(two_branches())))

    weight = nodes["mlp1/weight"]
    assert weight.op == "Parameter(Const)"
    assert texts_of(weight)["shape"] == "[64, 6272]"
    assert texts_of(weight)["dtype"] == "float32"
    assert texts_of(weight)["trainable"] == "False"
    assert texts_of(nodes["mlp2/weight"])["trainable"] == "True"


def test_what_trains_and_what_is_frozen_can_be_coloured() -> None:
    nodes = by_name(graph_def(Analysis(two_branches())))
    clusters = {name: texts_of(node).get("_XlaCluster") for name, node in nodes.items()}

    assert clusters["mlp1/linear"] == clusters["mlp1/weight"] == "frozen"
    assert clusters["mlp2/linear"] == clusters["cnn/0_Conv2d/bias"] == "trainable"
    assert clusters["cat"] is None


def test_shapes_label_the_edges() -> None:
    def shape(node: NodeDef) -> list[int]:
        return [dim.size for dim in node.attr["_output_shapes"].list.shape[0].dim]

    nodes = by_name(graph_def(Analysis(two_branches())))

    assert shape(nodes["x/Input"]) == [8, 1, 28, 28]
    assert shape(nodes["cat"]) == [8, 128]
    assert "_output_shapes" not in nodes["output"].attr


def test_a_tensor_without_one_shape_has_no_edge_label() -> None:
    build = GraphByHand()
    build.output(build.op("", "nested", build.leaf("input", "x"), shape=None))

    shapes = by_name(graph_def(Analysis(build.graph())))["nested"].attr["_output_shapes"].list.shape

    assert [shape.unknown_rank for shape in shapes] == [True]


@pytest.mark.parametrize(
    ("device", "shown"),
    [
        ("cpu", "/device:CPU:0"),
        ("cuda:1", "/device:cuda:1"),
        ("cuda", "/device:cuda:0"),
        ("meta", "/device:meta:0"),
    ],
)
def test_devices_are_real_and_in_the_form_that_the_page_lists(device: str, shown: str) -> None:
    build = GraphByHand()
    build.output(build.op("", "relu", build.leaf("input", "x", device=device), device=device))
    written = graph_def(Analysis(build.graph()))

    assert {node.device for node in written.node} == {shown}
    (stats,) = run_metadata(Analysis(build.graph())).step_stats.dev_stats
    assert stats.device == shown


def test_further_outputs_are_read_by_their_number() -> None:
    build = GraphByHand()
    pair = (TensorSpec((2, 4), "float32"), TensorSpec((2, 9), "int64"))
    build.op("", "split", build.leaf("input", "x"), outputs=pair)
    build.output(build.op("", "add", Ref("split", 0), Ref("split", 1)))
    nodes = by_name(graph_def(Analysis(build.graph())))

    assert list(nodes["add"].input) == ["split", "split:1"]
    assert texts_of(nodes["add"])["weight"] == "split:1"
    assert texts_of(nodes["split"])["output dtype 1"] == "int64"


def test_a_module_that_is_called_twice_says_so_in_both_places() -> None:
    build = GraphByHand()
    x = build.leaf("input", "x")
    for index in range(2):
        fc = build.module("", "fc", "fc", "linear.Linear", call_index=index)
        x = build.op(fc, "linear", x)
    build.output(x)
    nodes = by_name(graph_def(Analysis(build.graph())))

    assert texts_of(nodes["fc/linear"])["module reused"] == "call 1 of 2 of this module"
    assert texts_of(nodes["fc_1/linear"])["module reused"] == "call 2 of 2 of this module"


def test_what_cannot_be_seen_and_what_python_looked_at_is_marked() -> None:
    build = GraphByHand()
    hidden = build.op("", "ScriptedBlock", build.leaf("input", "x"), kind="opaque")
    build.op("", "item", hidden, outputs=(), reads_value=True)
    build.output(build.op("", "relu_", hidden, writes=(0,)))
    nodes = by_name(graph_def(Analysis(build.graph())))

    assert nodes["ScriptedBlock"].op == "opaque ScriptedBlock"
    assert "not recorded" in texts_of(nodes["ScriptedBlock"])["opaque call"]
    assert "another path" in texts_of(nodes["item"])["reads values"]
    assert "overwrites" in texts_of(nodes["relu_"])["in place"]


def test_every_kind_of_argument_is_put_into_short_words() -> None:
    build = GraphByHand()
    x = build.leaf("input", "x")
    arguments = {
        "none": None,
        "nan": float("nan"),
        "dtype": PythonText("torch.float32"),
        "index": (SliceValue(None, 3), SliceValue(1, None, 2), x),
        "options": Items((("mode", "mean"), ("list", (1, 2)))),
        "long": tuple(range(10_000)),
        "text": 'a\nb "ü" ' + "z" * 500,
    }
    build.output(build.op("", "op", arguments=arguments))
    texts = texts_of(by_name(graph_def(Analysis(build.graph())))["op"])

    assert texts["none"] == "None"
    assert texts["nan"] == "nan"
    assert texts["dtype"] == "torch.float32"
    assert texts["index"] == "(:3, 1::2, x)"
    assert texts["options"] == "{mode: mean, list: (1, 2)}"
    assert texts["long"].startswith("(0, 1, 2,")
    assert texts["long"].endswith("...")
    assert texts["text"].startswith('a b "\\xfc" zz')


@pytest.mark.parametrize("op", ["ConstantPad", "ImageSummary", "MyNoOpFunction"])
def test_an_op_with_a_name_that_the_page_gives_a_meaning_stays_an_ordinary_node(op: str) -> None:
    build = GraphByHand()
    build.output(build.op("", op, build.leaf("input", "x")))
    graph = build.graph()

    assert violations(graph_def(Analysis(graph)), graph) == []
    assert by_name(graph_def(Analysis(graph)))[op].op.lower() == op.lower()


def test_numbered_ops_of_one_type_are_not_folded_into_a_stack() -> None:
    types = [
        node.op
        for node in graph_def(Analysis(chain(30, ["relu"]))).node
        if node.name[:5] == "relu_"
    ]

    assert all(a != b for a, b in itertools.pairwise(types))
    assert {kind.strip() for kind in types} == {"relu"}


NASTY = [
    "<script>&\"'",
    "constructor",
    "__root__",
    "toString",
    "__proto__",
    "größe 層",
    "a:1",
    "^x",
    "a\\b\nc",
    " ",
    "..",
]


@pytest.mark.parametrize("label", NASTY)
def test_a_nasty_name_breaks_no_rule_wherever_it_stands(label: str) -> None:
    """The names are put into the graph raw, past the allocator and the graph's own check."""
    spec = TensorSpec((1,), "float32")
    nodes = (
        Node(label, "input", "input", outputs=(spec,), path=label),
        Node(f"{label}/w", "parameter", "parameter", label, (spec,), path=f"{label}.w"),
        Node(
            f"{label}/{label}",
            "op",
            label,
            label,
            (spec,),
            (Argument(label, Ref(label)), Argument("w", Ref(f"{label}/w"))),
            label,
        ),
        Node("out", "output", "output", "", (), (Argument("value", Ref(f"{label}/{label}")),)),
    )
    written = graph_def(Analysis(ModelGraph(label, label, nodes)))

    assert violations(written) == []
    assert len(written.node) == 4


def test_a_label_with_a_slash_makes_no_box_of_its_own() -> None:
    spec = TensorSpec((1,), "float32")
    nodes = (
        Node("a/b", "constant", "constant", outputs=(spec,)),
        Node("a/b/c", "op", "relu", "", (spec,), (Argument("input", Ref("a/b")),), "torch.relu"),
    )
    written = graph_def(Analysis(ModelGraph("M", "M", nodes)))

    assert violations(written) == []
    assert sorted(node.name for node in written.node) == ["a_b", "a_b_c"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=12), st.data())
def test_any_names_at_all_give_a_page_that_works(labels: list[str], data: st.DataObject) -> None:
    build = GraphByHand()
    scopes, x = [""], build.leaf("input", labels[0])
    for label in labels[1:]:
        parent = data.draw(st.sampled_from(scopes))
        scopes.append(build.module(parent, label, label, "model.Block"))
        x = build.op(scopes[-1], label, x, build.parameter(scopes[-1], label))
    build.output(x)
    graph = build.graph()

    assert [text for text in violations(graph_def(Analysis(graph))) if "one box" not in text] == []
    assert len(graph_def(Analysis(graph)).node) == len(graph.nodes)


def test_a_full_box_is_gathered_by_the_numbers_of_its_blocks() -> None:
    names = [node.name for node in graph_def(Analysis(layers(130))).node]
    boxes = list(dict.fromkeys(name.split("/")[1] for name in names if name[:7] == "layers/"))

    assert boxes[0] == "Block 0-14"
    assert boxes[-1] == "Block 120-129"
    assert "layers/Block 15-29/17_Block/fc/linear" in names


def test_gathering_changes_no_edge() -> None:
    graph = chain(3000)
    written = graph_def(Analysis(graph))
    edges = {
        model_name(node.name): [model_name(entry) for entry in node.input] for node in written.node
    }

    assert edges == {node.name: [ref.node for ref in node.inputs] for node in graph.nodes}


def test_many_inputs_are_gathered_apart_from_the_steps() -> None:
    build = GraphByHand()
    inputs = [build.leaf("input", f"x_{index}") for index in range(80)]
    build.output(build.op("", "cat", tuple(inputs)))
    names = [node.name for node in graph_def(Analysis(build.graph())).node]

    assert "inputs 0-9/x_3/Input" in names
    assert {"cat", "output"} <= set(names)


def test_an_empty_graph_is_refused_with_the_reason() -> None:
    with pytest.raises(WriterError, match="cannot show an empty graph"):
        graph_def(Analysis(ModelGraph("Nothing", "m.Nothing")))


class Levels(nn.Module):
    """Down through a list of layers, with a pool after each, which the list does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))
        self.pool = nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        for down in self.downs:
            x = self.pool(down(x))
        return {"scores": [head(x) for head in self.heads]}


def test_a_container_is_no_box_where_a_way_leaves_it_and_comes_back() -> None:
    graph = trace(Levels(), torch.ones(2, 4)).graph
    written = graph_def(Analysis(graph))
    assert violations(written, graph) == []
    tops = list(dict.fromkeys(node.name.partition("/")[0] for node in written.node))
    assert tops[1:] == [
        *("downs.0_Linear", "pool", "downs.1_Linear", "pool_1", "downs.2_Linear", "pool_2"),
        *("heads", "scores 0-2"),
    ]


def test_each_step_of_a_long_loop_is_a_box_that_reads_the_one_before() -> None:
    graph = trace(Collecting(), torch.ones(2, 30, 4)).graph
    written = graph_def(Analysis(graph))
    assert violations(written, graph) == []
    assert {node.name.partition("/")[0] for node in written.node} == {
        *("x", "mean", "loop 0-29", "stack", "output")
    }
    ops = {node.name for node in written.node if "source line" in texts_of(node)}
    read = {
        (name.split("/")[1], entry.split("/")[1])
        for name in ops
        for entry in (text.partition(":")[0] for text in by_name(written)[name].input)
        if name.startswith("loop") and entry.startswith("loop") and entry in ops
    }
    steps = {(f"step {t}", f"step {t - 1}") for t in range(1, 30)}
    assert {pair for pair in read if pair[0] != pair[1]} == steps
