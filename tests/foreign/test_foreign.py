"""Graphs of others: the modules, shapes and edges that are in their files are in ours."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from modelviz_callbacks import trace
from modelviz_callbacks.errors import GraphFormatError
from modelviz_callbacks.foreign.fx_graph import from_graph_module, read_exported
from modelviz_callbacks.foreign.onnx_file import read
from modelviz_callbacks.graph.model import ModelGraph
from tests.networks import ArticleCnn


def makers(graph: ModelGraph, op: str) -> list[str]:
    """What the ops of a kind read, by what made it, parameters left out."""
    return [
        graph.by_name[ref.node].op
        for node in graph.ops
        if node.op == op
        for ref in node.inputs
        if graph.by_name[ref.node].kind in ("op", "input")
    ]


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.zeros(2, 1, 28, 28)


def test_an_exported_program_keeps_modules_parameters_shapes_and_lines(
    tmp_path: Path, x: torch.Tensor
) -> None:
    path = tmp_path / "cnn.pt2"
    torch.export.save(torch.export.export(ArticleCnn(), (x,)), path)
    graph = read_exported(path)
    classes = {call.path: call.type_name for call in graph.modules}
    assert classes["cnn"] == "Sequential"
    assert classes["cnn.0"] == "Conv2d"
    assert classes["fc"] == "Linear"
    assert graph.parameter_count == sum(p.numel() for p in ArticleCnn().parameters())
    (output,) = graph.of_kind("output")
    assert graph.spec(output.inputs[0]).shape == (2, 10)
    assert makers(graph, "cat") == ["relu", "relu"]
    (cat,) = (node for node in graph.ops if node.op == "cat")
    assert cat.source is not None
    assert cat.source.function == "forward"


def test_an_fx_module_keeps_modules_and_edges() -> None:
    graph = from_graph_module(torch.fx.symbolic_trace(ArticleCnn()))
    assert [call.path for call in graph.modules][:2] == ["cnn", "cnn.0"]
    assert makers(graph, "cat") == ["ReLU", "ReLU"]
    assert len(graph.of_kind("output")) == 1


def test_an_onnx_file_keeps_names_weights_and_edges(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "body.conv.weight"], ["a"], name="/body/conv/Conv", strides=[2, 2]),
        make("Relu", ["a"], ["b"], name="/body/act/Relu"),
        make("Add", ["b", "a"], ["y"], name="/Add"),
    ]
    value = onnx.helper.make_tensor_value_info
    weight = onnx.helper.make_tensor("body.conv.weight", 1, [4, 1, 1, 1], [0.0] * 4)
    ends = [value("x", 1, [1, 1, 8, 8])], [value("y", 1, [1, 4, 4, 4])]
    graph = onnx.helper.make_graph(nodes, "net", *ends, [weight])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    found = read(path)
    assert [call.name for call in found.modules] == ["body", "body/conv", "body/act"]
    assert [node.name for node in found.ops] == ["body/conv/Conv", "body/act/Relu", "Add"]
    assert found.by_name["body/conv/Conv"].arguments[-1].value == (2, 2)
    assert makers(found, "Add") == ["Relu", "Conv"]
    assert [p.name for p in found.parameters] == ["body.conv.weight"]


def test_our_own_onnx_file_opens_with_its_functions_as_boxes(
    tmp_path: Path, x: torch.Tensor
) -> None:
    path = trace(ArticleCnn(), x).save_onnx(tmp_path / "graph.onnx")
    graph = read(path)
    assert sum(node.op == "Conv" for node in graph.ops) == 2
    assert len(graph.modules) >= 4
    assert len(graph.of_kind("output")) == 1


def test_what_is_no_such_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("hello")
    with pytest.raises(GraphFormatError, match="not an ONNX file"):
        read(path)
    with pytest.raises(GraphFormatError, match="not an exported program"):
        read_exported(path)
