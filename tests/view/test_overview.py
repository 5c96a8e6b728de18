"""What a picture shows at first: what is open, what is one box, what labels say."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.graph.model import Note, Source
from modelviz_callbacks.view.display_rules import Rules, apply
from modelviz_callbacks.view.note_lines import MOST_LINES, note_lines
from modelviz_callbacks.view.overview import Overview, overview
from modelviz_callbacks.writers.formats import render
from tests.networks import graph_of, recorded
from tests.writers.graphs_by_hand import GraphByHand


def titles(view: Overview, kind: str = "") -> list[str]:
    return [box.title for box in view.boxes if not kind or box.kind == kind]


class Attention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.num_heads, self.dim_head = heads, 8 // heads
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)


class Encoder(nn.Module):
    """Two kinds of the same class: the second has other sizes only."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = Attention(4), Attention(2)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        h = self.narrow(self.wide(x).relu() * 0.5)[:, 0].clamp(0.8, 1.2)
        cache = [(h + n, h - n) for n in range(1, 4)]
        return {"cache": cache, "loss": h.mean(), "first": 1 - h}


@pytest.fixture(scope="module")
def encoder() -> ModelGraph:
    return trace(Encoder(), torch.zeros(2, 5, 8)).graph


def test_of_two_alike_the_first_one_is_open(encoder: ModelGraph) -> None:
    view = overview(encoder)
    assert [group.name for group in view.groups] == ["wide"]
    assert "narrow" in {box.name for box in view.boxes}


def test_a_depth_opens_all_of_a_level(encoder: ModelGraph) -> None:
    assert [group.name for group in overview(encoder, depth=2).groups] == ["wide", "narrow"]
    assert not overview(encoder, depth=1).groups


def test_a_structure_is_one_box_after_what_has_a_name_of_its_own(encoder: ModelGraph) -> None:
    view = overview(encoder)
    assert titles(view, "output") == ["loss", "first", "cache"]
    (cache,) = [box for box in view.boxes if box.title == "cache"]
    assert cache.details == "3 × 2 tensors"


def test_ops_with_numbers_are_written_with_their_signs(encoder: ModelGraph) -> None:
    found = titles(overview(encoder))
    assert {"× 0.5", "[:, 0]", "clamp 0.8–1.2", "1 −"} <= set(found)


def test_labels_tell_what_modules_say_of_themselves(encoder: ModelGraph) -> None:
    view = overview(encoder)
    assert view.groups[0].details == "4 heads"
    (narrow,) = [box for box in view.boxes if box.name == "narrow"]
    assert narrow.details == "2 heads"


def test_a_user_adds_facts_to_labels_and_takes_them_away(encoder: ModelGraph) -> None:
    rules = Rules.of(facts={"dim_head": "head width {}", "num_heads": ""})
    view = overview(apply(Analysis(encoder), rules))
    assert view.groups[0].details == "head width 2"


@pytest.mark.parametrize("words", ["no place", "two {} {}", "{!r}", "{", 3])
def test_facts_need_words_with_one_place(words: Any) -> None:
    with pytest.raises(OptionError, match=r"one \{\} for the value"):
        Rules.of(facts={"dim_head": words})


def test_a_frame_of_one_frame_is_one_frame() -> None:
    view = overview(graph_of("bert"))
    (layer,) = [group for group in view.groups if group.title.endswith("BertLayer")]
    assert layer.title == "BertEncoder › BertLayer"
    assert layer.label == "encoder.layer.0-11"
    assert "BertEncoder" not in [group.title for group in view.groups]


def test_one_tensor_that_is_two_inputs_has_both_names() -> None:
    class Copies(nn.Module):
        def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return ids * labels

    x = torch.ones(2)
    graph = trace(Copies(), ids=x, labels=x).graph
    assert titles(overview(graph), "input") == ["ids, labels"]
    assert "ids, labels 2" in str(graph)


def test_a_long_list_of_ops_is_told_by_the_lines_it_is_from() -> None:
    build = GraphByHand()
    made, chosen = build.leaf("input", "x"), Random(0)
    for number in range(300):
        op = chosen.choice(("tanh", "exp", "sin"))
        source = Source("model.py", 10 + number // 100, "forward")
        made = build.op("", op, made, source=source)
    build.output(made)
    found = titles(overview(build.graph()))
    assert found == ["x", "forward, line 10", "forward, line 11", "forward, line 12", "output"]


def test_notes_of_one_kind_are_one_line() -> None:
    notes = [Note("frozen", "", "Some are frozen.")]
    notes += [
        Note("module-never-called", f"h.{n}.attn.drop", f"The module h.{n} was never called.")
        for n in range(12)
    ]
    assert note_lines(notes) == [
        "12 modules were never called: h.0-11.attn.drop.",
        "Some are frozen.",
    ]


def test_there_are_at_most_ten_lines_of_notes() -> None:
    notes = [Note("remark", "", f"Remark {n}.") for n in range(30)]
    assert len(note_lines(notes)) == MOST_LINES
    assert note_lines(notes)[-1] == "21 more notes are in graph.json."


def test_attributes_of_torchs_own_layers_are_left_to_their_ops() -> None:
    graph = recorded(nn.Sequential(nn.Linear(4, 2)), torch.zeros(3, 4))
    assert graph.modules[0].attributes == ()


class _Queries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.norm(self.queries).T


def test_a_parameter_that_a_module_gets_as_an_argument_has_a_box_and_an_edge() -> None:
    graph = trace(_Queries(), torch.randn(2, 8)).graph
    drawn = overview(Analysis(graph))
    (held,) = [box for box in drawn.boxes if box.kind == "held"]
    assert (held.title, held.made) == ("queries", "5×8")
    (norm,) = [box for box in drawn.boxes if box.title == "LayerNorm"]
    assert any((edge.source, edge.target) == (held.name, norm.name) for edge in drawn.edges)
    assert re.search(r"^norm .*\n? +uses queries$|^norm .* uses queries$", str(graph), re.M)
    mermaid = render(graph, "mermaid").decode()
    assert "queries<br>parameter" in mermaid
