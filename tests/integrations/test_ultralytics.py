"""What Ultralytics asks of a callback, with a trainer that stands in for its own.

The library itself needs torchvision, of which there is no build beside the torch of these tests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.integrations.ultralytics import GraphCallback


class Detector(nn.Module):
    """As Ultralytics' models do, it gives a loss for a batch that is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        error = nn.functional.mse_loss(self.body(batch["img"]), batch["bboxes"])
        return error * len(batch["img"]), error.detach()


class StandIn:
    """The part of a trainer that a callback sees."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.save_dir = folder
        self.model = Detector()
        self.callbacks: dict[str, list[Callable[[StandIn], None]]] = {}

    def add_callback(self, event: str, function: Callable[[StandIn], None]) -> None:
        self.callbacks.setdefault(event, []).append(function)

    def run_callbacks(self, event: str) -> None:
        for function in self.callbacks.get(event, []):
            function(self)

    def train(self) -> list[torch.Tensor]:
        optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.run_callbacks("on_train_start")
        for _ in range(2):
            loss, _items = self.model({"img": torch.randn(2, 4), "bboxes": torch.randn(2, 3)})
            loss.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.run_callbacks("on_train_end")
        return [parameter.detach() for parameter in self.model.parameters()]


def test_the_trainers_model_is_recorded_into_the_runs_folder(tmp_path: Path) -> None:
    callback = GraphCallback(background=False, formats=["text"], onnx=False)
    trainer = StandIn(tmp_path / "train")
    trainer.add_callback("on_train_start", callback)
    weights = trainer.train()
    graph = ModelGraph.load(tmp_path / "train" / "model_graph" / "graph.json")
    assert "mse_loss" in [node.op for node in graph.ops]
    assert {node.path for node in graph.of_kind("input")} == {"batch['bboxes']", "batch['img']"}
    assert callback.report is not None
    assert callback.report.refused == []
    for one, other in zip(weights, StandIn(tmp_path).train(), strict=True):
        assert torch.equal(one, other)


def test_the_folder_that_is_asked_for_goes_before_the_runs(tmp_path: Path) -> None:
    callback = GraphCallback(
        dirpath=tmp_path / "mine", background=False, formats=["text"], onnx=False
    )
    trainer = StandIn(tmp_path / "train")
    trainer.add_callback("on_train_start", callback)
    trainer.train()
    assert (tmp_path / "mine" / "graph.json").exists()
    assert not (tmp_path / "train").exists()


def test_a_wrong_option_is_said_where_it_is_written() -> None:
    with pytest.raises(OptionError, match="colour"):
        GraphCallback(colour="blue")  # type: ignore[call-arg]
