"""Pictures and text show the main path; what is beside it is a label, or not there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.main_path import bookkeeping
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.view.simplified import is_label, simplified
from tests.networks import graph_of
from tests.simplified import assert_honest


class Attends(nn.Module):
    """Attention under a mask made of token ids, with positions and shifted labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.positions = nn.Embedding(6, 8)
        self.out = nn.Linear(8, 11)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        mask = (ids != 0)[:, None, :].expand(-1, ids.shape[1], -1)
        if not mask.any():
            raise ValueError("nothing to attend to")
        h = self.embed(ids) + self.positions(torch.arange(ids.shape[1]))
        h = F.scaled_dot_product_attention(h, h, h, attn_mask=mask)
        shifted = F.pad(labels, (0, 1))[:, 1:].contiguous()
        return F.cross_entropy(self.out(h).flatten(0, 1), shifted.view(-1))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x).relu())


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + torch.randn_like(x.exp())


class CountsPixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.fc(pixels.float() / 255)


class GrowsACache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.tensor([]), self.key(x)], 0)


@pytest.fixture(scope="module")
def attends() -> ModelGraph:
    ids = torch.randint(1, 11, (2, 5))
    return trace(Attends(), ids, torch.randint(1, 11, (2, 5))).graph


def labels(graph: ModelGraph) -> set[str]:
    told = simplified(Analysis(graph)).graph
    return {node.path for node in told.of_kind("constant") if is_label(node)}


def test_masks_positions_and_label_shifting_are_labels_at_what_they_become(
    attends: ModelGraph,
) -> None:
    assert labels(attends) == {"attn_mask", "arange", "labels"}
    told = overview(attends)
    words = {box.name: box.title for box in told.boxes if box.kind == "label"}
    read = {(words[e.source], e.target) for e in told.edges if e.source in words}
    assert read == {
        ("attn_mask", "scaled_dot_product_attention"),
        ("arange", "positions"),
        ("labels", "cross_entropy"),
    }


def test_what_feeds_nothing_is_no_box(attends: ModelGraph) -> None:
    told = {node.op for node in simplified(Analysis(attends)).graph.ops}
    assert told.isdisjoint({"any", "__bool__", "bool", "ne", "arange", "pad"})


def test_a_mask_made_of_token_ids_is_beside_the_path_and_the_ids_are_on_it(
    attends: ModelGraph,
) -> None:
    beside = bookkeeping(Analysis(attends))
    assert "labels" in beside
    assert "ids" not in beside
    assert {"ne", "pad", "arange"} <= {attends.by_name[n].op for n in beside if n != "labels"}


def test_a_frozen_backbone_is_on_the_main_path() -> None:
    graph = trace(Frozen(), torch.ones(3, 4)).graph
    assert bookkeeping(Analysis(graph)) == frozenset()
    assert simplified(analysis := Analysis(graph)) is analysis


def test_where_only_a_shape_is_taken_no_value_flows() -> None:
    graph = trace(Noisy(), torch.ones(3, 4)).graph
    assert bookkeeping(Analysis(graph)) == {"exp", "randn_like"}
    assert labels(graph) == {"randn_like"}


def test_pixels_of_8_bits_are_an_input_like_any_other() -> None:
    graph = trace(CountsPixels(), torch.zeros(3, 4, dtype=torch.uint8)).graph
    assert bookkeeping(Analysis(graph)) == frozenset()


def test_an_empty_tensor_that_is_joined_to_something_is_not_told() -> None:
    graph = trace(GrowsACache(), torch.ones(3, 4)).graph
    told = simplified(Analysis(graph)).graph
    assert [node.op for node in told.ops] == ["linear"]
    assert labels(graph) == set()


MODELS: dict[str, Callable[[], ModelGraph]] = {
    "attends": lambda: (
        trace(Attends(), torch.randint(1, 11, (2, 5)), torch.randint(1, 11, (2, 5))).graph
    ),
    "cache": lambda: trace(GrowsACache(), torch.ones(3, 4)).graph,
    "bert": lambda: graph_of("bert"),
    "resnet18": lambda: graph_of("resnet18"),
}


@pytest.mark.parametrize("name", MODELS)
def test_adding_what_was_left_out_gives_the_exact_graph_back(name: str) -> None:
    assert_honest(MODELS[name]())
