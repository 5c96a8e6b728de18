"""Calls that a compiler or an exporter makes to look at a model are no step to be recorded."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks import GraphHook, ModelGraph

FEW: dict[str, Any] = {"formats": ["text"], "tensorboard": False, "background": False}
X = torch.ones(3, 4)


class Net(nn.Module):
    """A frozen part and a trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.body(x))


def _add_graph(model: nn.Module, folder: Path) -> None:
    with SummaryWriter(folder) as writer:
        writer.add_graph(model, X)


LOOKS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "torch.jit.trace": lambda model, _: torch.jit.trace(model, (X,)),
    "add_graph": _add_graph,
    "symbolic_trace": lambda model, _: torch.fx.symbolic_trace(model),
    "symbolic_trace of what is around it": lambda model, _: torch.fx.symbolic_trace(
        nn.Sequential(model)
    ),
    "torch.export": lambda model, _: torch.export.export(model, (X,)),
    "torch.save": lambda model, _: torch.save(model, io.BytesIO()),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_before_the_training_goes_as_without_us_and_the_training_is_recorded(
    look: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Net()
    with GraphHook(model, dirpath=tmp_path / "graph", **FEW) as hook:
        LOOKS[look](model, tmp_path / "board")
        model(X * 2).sum().backward()

    assert hook.report.refused == []
    graph = ModelGraph.load(tmp_path / "graph" / "graph.json")
    assert [node.path for node in graph.of_kind("input")] == ["x"]
    assert [op.op for op in graph.ops] == ["linear", "add_", "batch_norm", "linear"]


def test_what_symbolic_trace_made_is_trained_and_its_modules_are_recorded(tmp_path: Path) -> None:
    model = Net()
    with GraphHook(model, dirpath=tmp_path, **FEW) as hook:
        torch.fx.symbolic_trace(model)(X).sum().backward()
    assert not [said for said in hook.report.remarks if "never called" in said or "No op" in said]
    graph = ModelGraph.load(tmp_path / "graph.json")
    assert [op.op for op in graph.ops][:4] == ["linear", "add_", "batch_norm", "linear"]


def test_a_frozen_part_that_is_called_by_itself_is_not_called_unused(tmp_path: Path) -> None:
    model = Net()
    with GraphHook(model, dirpath=tmp_path, **FEW) as hook:
        model.head(model.body(X)).sum().backward()
    (said,) = [said for said in hook.report.remarks if "frozen" not in said]
    assert "the first call of body to the backward" in said
