"""One graph of the stages of a pipeline."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.errors import GraphError
from modelviz_callbacks.graph.joined import join_stages


class Second(nn.Module):
    """Takes what the first stage gives, and a mask that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.norm(hidden)[:, :8], hidden[:, 8:]], 1)) * mask


def stages() -> list[ModelGraph]:
    first, second = nn.Sequential(nn.Linear(8, 16), nn.ReLU()), Second()
    return [
        trace(first, torch.ones(2, 8)).graph,
        trace(second, torch.ones(2, 16), torch.ones(2, 4)).graph,
    ]


def test_what_a_stage_returns_is_what_the_next_one_is_given() -> None:
    first, second = stages()
    joined = join_stages([first, second], "Both")
    assert [node.op for node in joined.ops] == [node.op for node in (*first.ops, *second.ops)]
    assert joined.parameter_count == first.parameter_count + second.parameter_count
    assert {call.name for call in joined.modules} >= {"stage_0", "stage_1", "stage_1/out"}
    assert {one.name for one in joined.parameters} >= {"stage_0.0.weight", "stage_1.out.bias"}
    assert {node.path for node in joined.of_kind("buffer")} <= {
        f"stage_1.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert [node.path for node in joined.of_kind("input")] == ["input", "mask"]
    assert len(joined.of_kind("output")) == 1
    (relu,) = [node for node in joined.ops if node.op == "relu"]
    readers = [node for node in joined.ops if relu.name in {ref.node for ref in node.inputs}]
    assert {node.op for node in readers} == {"batch_norm", "getitem"}
    assert all(node.scope.startswith("stage_1") for node in readers)


def test_what_does_not_fit_the_stage_before_stays_an_input() -> None:
    first, second = stages()
    joined = join_stages([second, first], "Odd")
    assert [node.name for node in joined.of_kind("input")] == [
        "stage_0/hidden",
        "stage_0/mask",
        "stage_1/input",
    ]


class Forks(nn.Module):
    """Gives the next stage its last result, and one that another stage wants its first."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.exp(), x.sin()


class Adds(nn.Module):
    def forward(self, hidden: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return hidden + skip


def test_a_skip_connection_passes_by_the_stages_between() -> None:
    x = torch.ones(2, 4)
    graphs = [trace(Forks(), x).graph, trace(nn.Tanh(), x).graph, trace(Adds(), x, x + 1).graph]
    joined = join_stages(graphs, "Skips", {1: [(0, 1)], 2: [(1, 0), (0, 0)]})
    reads = {node.op: [ref.node for ref in node.inputs] for node in joined.ops}
    assert reads["tanh"] == ["stage_0/sin"]
    assert reads["add"] == ["stage_1/tanh", "stage_0/exp"]
    assert len(joined.of_kind("input")) == 1
    for nowhere in (None, (7, 0), (0, 7), (-1, 0)):
        odd = join_stages(graphs, "Odd", {1: [(0, 1)], 2: [(1, 0), nowhere]})
        assert [node.name for node in odd.of_kind("input")] == ["stage_0/x", "stage_2/skip"]


def test_of_no_stage_there_is_nothing_to_join() -> None:
    with pytest.raises(GraphError, match="no graph was given"):
        join_stages([], "None")
