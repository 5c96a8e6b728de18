"""A module that holds nearly all of a model is opened for viewers that show closed boxes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.wrappers import opened_wrappers, with_open_top
from modelviz_callbacks.graph.model import ModelGraph


class Block(nn.Sequential):
    """A block of some layers."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__(*(layer for _ in range(depth) for layer in (nn.Linear(4, 4), nn.ReLU())))


class Body(nn.Module):
    """A stem, blocks in a list, and a norm; may collect what each block made."""

    def __init__(self, depths: list[int], collects: bool = False) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.blocks = nn.ModuleList(Block(depth) for depth in depths)
        self._collects = collects

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        made = []
        for block in self.blocks:
            x = block(x)
            made.append(x)
        return [self.norm(x), *(made if self._collects else ())]


class Headed(nn.Module):
    """A body and a small head."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, *others = self.body(x)
        return [self.head(first), *others]


class Framed(nn.Module):
    """A frame around one module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        made: list[torch.Tensor] = self.inner(x)
        return made


def graph_of(model: nn.Module) -> ModelGraph:
    return trace(model, torch.ones(2, 4)).graph


@pytest.mark.parametrize(
    ("model", "opened"),
    [
        (Headed(Body([6, 6, 6, 6])), {"body"}),
        (Headed(Body([6, 7, 8, 9])), {"body", "body/blocks"}),
        (Headed(Body([6, 7, 8, 9], collects=True)), {"body"}),
        (Framed(Headed(Body([6, 6, 6, 6]))), {"inner", "inner/body"}),
        (Framed(nn.Sequential(nn.Linear(4, 4))), set()),
        (Headed(Body([*range(1, 41)])), {"body"}),
        (nn.Sequential(Block(6), Block(6)), set()),
        (Block(), set()),
    ],
    ids=["repeats", "differ", "collected", "in a frame", "one layer", "many", "halves", "flat"],
)
def test_what_holds_nearly_all_is_opened_unless_its_parts_are_better_told_by_one_box(
    model: nn.Module, opened: set[str]
) -> None:
    assert opened_wrappers(Analysis(graph_of(model))) == opened


@pytest.mark.parametrize("collects", [False, True])
def test_layers_that_repeat_or_are_collected_stay_in_one_box_where_groups_have_none(
    collects: bool,
) -> None:
    graph = graph_of(Headed(Body([6, 7, 8, 9] if collects else [6] * 4, collects=collects)))
    called = {call.name: call.called for call in with_open_top(Analysis(graph)).modules}

    assert not called["body"]
    assert called["body/blocks"]
    assert not graph.module_by_name["body/blocks"].called


def test_a_model_without_a_wrapper_stays_as_it_is() -> None:
    graph = graph_of(nn.Sequential(Block(6), Block(6)))

    assert with_open_top(Analysis(graph)) is graph
