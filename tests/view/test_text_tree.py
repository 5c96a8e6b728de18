"""What `print(trace.graph)` shows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.graph.model import ModelGraph, Note
from modelviz_callbacks.view.text_tree import tree_text
from tests.networks import NETWORKS, Stack, graph_of, mlp, recorded


def line_of(text: str, label: str) -> str:
    """The one line that begins with a label."""
    (found,) = [line for line in text.splitlines() if line.split()[:1] == [label]]
    return found


def test_printing_a_graph_shows_its_tree() -> None:
    assert str(graph_of("article_cnn")) == tree_text(graph_of("article_cnn"))


def test_branches_say_what_they_branch_from_and_joins_what_they_join() -> None:
    text = tree_text(graph_of("article_cnn"))
    assert line_of(text, "mlp2").endswith("<- flatten")
    assert line_of(text, "cat").endswith("<- mlp1, mlp2")
    assert "<-" not in line_of(text, "mlp1")  # it follows the line before it
    assert "<-" not in line_of(text, "fc")


def test_lines_hold_output_shape_and_parameter_count() -> None:
    text = tree_text(graph_of("article_cnn"), width=None)
    assert line_of(text, "fc").split() == ["fc", "Linear", "64×10", "2,570"]
    assert line_of(text, "cnn").split() == ["cnn", "Sequential", "64×64×7×7", "18,816"]
    first = text.splitlines()[0]
    assert "x 64×1×28×28 -> output 64×10" in first
    assert "824,458 parameters (all trainable)" in first


def test_a_skip_connection_is_named_by_the_argument_that_it_carries() -> None:
    text = tree_text(graph_of("resnet18"), width=None)
    sums = [line for line in text.splitlines() if line.split()[:1] == ["add"]]
    assert sums[0].endswith("<- bn2, x")
    assert sums[1].endswith("<- bn2, downsample")


@pytest.mark.parametrize("name", NETWORKS)
def test_modules_of_torch_hide_their_ops(name: str) -> None:
    graph = graph_of(name)
    labels = [line.split()[0] for line in tree_text(graph).splitlines()[1:] if line]
    assert not {"conv2d", "linear", "batch_norm", "layer_norm", "embedding"} & set(labels)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_columns_are_aligned(name: str) -> None:
    lines = tree_text(graph_of(name), width=None).splitlines()
    (heading,) = [line for line in lines if line.split() == ["output", "parameters"]]
    end = heading.index("parameters") + len("parameters")
    body = lines[lines.index(heading) + 1 :]
    body = [line for line in body if not line.startswith("note: ")]
    assert all(line[end : end + 2].strip() == "" for line in body)
    assert all(
        line[heading.index("output") - 1 : heading.index("output")] in ("", " ") for line in body
    )


def test_repeats_are_one_line_with_their_number() -> None:
    text = tree_text(graph_of("bert"))
    (layer,) = [line for line in text.splitlines() if "BertLayer" in line]
    assert layer.split()[:3] == ["layer.0-11", "BertLayer", "x12"]
    assert "12 × " in layer


def test_a_pattern_that_repeats_shows_its_steps_once() -> None:
    graph = recorded(
        nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(8, 8), nn.Tanh())]),
        torch.zeros(2, 8),
    )
    text = tree_text(graph)
    assert text.count("Linear") == 1
    assert re.search(r"0-9 \.\.\. +x5", text)


def test_frozen_parts_say_so() -> None:
    model = Stack(mlp(4), mlp(5))
    model.blocks[0].requires_grad_(False)
    text = tree_text(recorded(model, torch.zeros(2, 8)))
    assert line_of(text, "blocks.0").endswith("frozen")
    assert "frozen" not in line_of(text, "blocks.1")


def test_a_second_call_of_a_module_is_told_from_the_first() -> None:
    text = tree_text(graph_of("gan"))
    assert re.search(r"^discriminator \(call 2\) .* shared", text, re.MULTILINE)


def test_tied_weights_name_what_they_are_tied_to() -> None:
    text = tree_text(graph_of("gpt"), width=None)
    assert line_of(text, "lm_head").endswith("tied to transformer.wte.weight")


def test_what_is_made_of_nothing_is_told_where_it_is_read() -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.relu()
            return y + torch.ones(3)

    text = tree_text(recorded(Noise(), torch.zeros(3)))
    assert line_of(text, "add").endswith("with ones")
    assert not re.search(r"^ones", text, re.MULTILINE)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_line_is_wider_than_asked_for_and_no_count_is_cut(name: str, width: int) -> None:
    graph = graph_of(name)
    lines = tree_text(graph, width=width).splitlines()
    assert max(map(len, lines)) <= width
    wide = tree_text(graph, width=None)
    counts = re.findall(r"(?<=  )[\d,]+$", "\n".join(lines), re.MULTILINE)
    assert counts
    assert all(count in wide for count in counts)


def test_printing_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, str(graph_of("gpt")).splitlines())) <= 80


def test_a_depth_leaves_deeper_modules_out() -> None:
    text = tree_text(graph_of("bert"), depth=1)
    assert "BertModel" in text
    assert "BertEncoder" not in text


def test_notes_come_last_and_a_partial_graph_says_so() -> None:
    note = Note("unused-parameter", "spare.weight", "spare.weight was not used.")
    graph: ModelGraph = replace(graph_of("gan"), notes=(note,), partial=True)
    lines = tree_text(graph).splitlines()
    assert lines[-1] == "note: spare.weight was not used."
    assert "partial" in "\n".join(lines[:3])


def test_a_model_that_does_nothing_has_a_tree() -> None:
    text = tree_text(recorded(nn.Identity(), torch.zeros(3)))
    assert text.splitlines()[-1].split() == ["output", "3", "<-", "input"]


def test_two_long_class_names_that_are_shortened_alike_stand_whole_below() -> None:
    start, end = "AVeryLongNameOfAClassThatHasNoRoom", "InALineOfEightyColumnsAtAll"
    one, other = (type(f"{start}{word}{end}", (nn.Linear,), {}) for word in ("OneMore", "TwoMore"))
    text = tree_text(recorded(nn.Sequential(one(4, 4), other(4, 4)), torch.ones(1, 4)))
    assert f"{start}OneMore{end}" in text
    assert f"{start}TwoMore{end}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_structure_beside_another_output_of_its_module_has_a_line_of_its_own() -> None:
    class Encoder(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return x.tanh().exp().sin().cos(), [x + 1, x + 2, x + 3]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = Encoder(), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> dict[str, object]:
            last, states = self.encoder(x)
            return {"scores": self.head(last), "states": states, "last": last}

    text = tree_text(recorded(Model(), torch.ones(2, 4)))
    assert "outputs" not in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["last", "states"]


def test_a_list_of_tensors_is_told_by_their_shapes() -> None:
    class Lists(nn.Module):
        def forward(
            self, same: list[torch.Tensor], others: list[torch.Tensor], boxes: list[dict[str, Any]]
        ) -> dict[str, Any]:
            total = sum(one["xyxy"].sum() for one in boxes)
            return {"twice": [one * 2 for one in same], "all": others[0].sum() + total}

    x, box = torch.randn(3, 4), {"xyxy": torch.randn(5, 4)}
    said = str(trace(Lists(), [x, x + 1], [x[0], x[:, :2]], [box, {"xyxy": box["xyxy"] * 1}]).graph)
    assert "same 2 of 3×4, others 4, 3×2, boxes 2 × xyxy" in " ".join(said.split())
    assert "twice 2 of 3×4" in " ".join(said.split())
