"""The text, table and Mermaid writers, and what all writers have in common."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.view.text_tree import tree_text
from modelviz_callbacks.writers import table, text
from tests.networks import NETWORKS, Stack, graph_of, mlp, recorded

WRITERS = ["text", "table", "markdown", "mermaid", "svg", "png", "html"]


def render(writer: str, graph: ModelGraph, depth: int | None = None) -> bytes:
    made = importlib.import_module(f"modelviz_callbacks.writers.{writer}").render(
        Analysis(graph), depth=depth
    )
    assert isinstance(made, bytes)
    return made


@pytest.mark.slow
@pytest.mark.process
def test_every_writer_gives_the_same_bytes_in_any_process() -> None:
    program = (
        "import hashlib, importlib\n"
        "from tests.networks import graph_of\n"
        "from modelviz_callbacks.analysis import Analysis\n"
        f"for writer in {WRITERS}:\n"
        "    module = importlib.import_module(f'modelviz_callbacks.writers.{writer}')\n"
        "    print(hashlib.sha256(module.render(Analysis(graph_of('unet')))).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "7", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [hashlib.sha256(render(writer, graph_of("unet"))).hexdigest() for writer in WRITERS]
    assert done.stdout.split() == here


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_takes_any_graph_at_any_depth(writer: str) -> None:
    empty = ModelGraph("Empty", "torch.nn.modules.linear.Identity")
    idle = recorded(nn.Identity(), torch.zeros(3))
    for graph in (empty, idle, graph_of("gan")):
        for depth in (None, 1, 2, 9):
            assert render(writer, graph, depth)


@pytest.mark.parametrize("writer", [writer for writer in WRITERS if writer != "html"])
def test_every_still_picture_and_text_opens_deeper_modules_on_request(writer: str) -> None:
    assert len(render(writer, graph_of("resnet34"), 1)) < len(
        render(writer, graph_of("resnet34"), 3)
    )


def test_the_text_file_is_the_tree_and_what_the_parts_cost() -> None:
    graph = graph_of("bert")
    tree, costs = text.render(Analysis(graph)).decode().split("\n\ncosts ")
    assert tree == tree_text(graph)
    assert costs.splitlines()[-1].startswith("in all")


def rows_of(graph: ModelGraph, depth: int | None = None) -> list[dict[str, str]]:
    return list(
        csv.DictReader(io.StringIO(table.render(Analysis(graph), depth=depth).decode(), newline=""))
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("depth", [None, 1, 2])
def test_the_rows_add_up_to_the_model(name: str, depth: int | None) -> None:
    graph = graph_of(name)
    rows = rows_of(graph, depth)
    model = NETWORKS[name]()[0]
    used = {node.path for node in graph.of_kind("parameter")}
    expected = [p for path, p in model.named_parameters() if path in used]
    assert sum(int(row["parameters"]) for row in rows) == sum(p.numel() for p in expected)
    assert sum(int(row["parameter_bytes"]) for row in rows) == 4 * sum(p.numel() for p in expected)
    assert sum(float(row["parameter_share"]) for row in rows) == pytest.approx(1, abs=0.01)
    assert sum(int(row["flops"] or 0) for row in rows) == sum(n.flops or 0 for n in graph.nodes)


def test_a_row_holds_shapes_bytes_and_parameters_of_its_layer() -> None:
    rows = {row["name"]: row for row in rows_of(graph_of("article_cnn"))}
    row = rows["cnn/3_Conv2d"]
    assert row["class"] == "Conv2d"
    assert row["input_shape"] == "64×32×14×14"
    assert row["output_shape"] == "64×64×14×14"
    assert int(row["parameters"]) == 64 * 32 * 9 + 64
    assert int(row["output_bytes"]) == 64 * 64 * 14 * 14 * 4
    assert rows["cat"]["input_shape"] == "64×128; 64×128"


def test_frozen_parameters_are_counted_but_not_as_trainable() -> None:
    model = Stack(mlp(4), mlp(5))
    model.blocks[0].requires_grad_(False)
    rows = rows_of(recorded(model, torch.zeros(2, 8)))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(int(row["trainable_parameters"]) for row in rows) == trainable
    assert sum(int(row["parameters"]) for row in rows) > trainable


def test_a_folded_table_has_repeats_once_and_adds_up_to_the_same() -> None:
    graph = graph_of("bert")
    whole, folded = table.layers(Analysis(graph)), table.layers(Analysis(graph), folded=True)
    assert len(folded) < len(whole) / 4
    assert sum(row.parameters * row.times for row in folded) == sum(row.parameters for row in whole)


def test_names_with_commas_and_quotes_come_back_from_the_table() -> None:
    model = nn.Sequential()
    model.add_module('a,"b"', nn.Linear(2, 2))
    graph = recorded(model, torch.zeros(1, 2))
    (row,) = rows_of(graph)
    assert row["name"] == graph.modules[0].name
    assert "," in row["name"]


def test_what_the_parts_cost_stands_below_the_tree() -> None:
    graph = trace(nn.Sequential(nn.Linear(8, 64), nn.ReLU()), torch.ones(2, 8)).graph
    first = next(node.name for node in graph.ops)
    measured = MeasuredCosts({first: 1500.0}, {first: 3000.0}, optimizer_bytes={"0.weight": 4096})
    plain = text.render(Analysis(graph)).decode().split("\n\n")[-1].splitlines()
    timed = text.render(Analysis(graph).with_measured(measured)).decode().splitlines()

    assert plain[0].split() == ["costs", "kept", "peak", "parameters", "gradients"]
    assert plain[1].split() == ["0", "64", "B", "512", "B", "2.25", "KiB", "2.25", "KiB"]
    assert timed[-1].split()[:2] == ["in", "all"]
    for cell in ("4 KiB", "1.5 ms", "3 ms"):
        assert cell in timed[-1]
    assert all(len(line) <= 80 for line in timed)
