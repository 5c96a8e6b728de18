"""fastai's learners: the first batch of each fit with its loss, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastai.callback.progress
import fastai.callback.schedule  # noqa: F401 - gives learners lr_find
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.torch_core import set_seed
from torch import nn

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.integrations.fastai import GraphCallback
from modelviz_callbacks.report import ModelvizWarning

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|fastai|fastcore)")

IN_PLACE: dict[str, Any] = {"background": False, "formats": ["text"], "onnx": False}


def learner(*callbacks: Callback) -> Learner:
    set_seed(0)  # Python's random numbers too: they shuffle the rows
    rows = list(zip(torch.randn(24, 4), torch.arange(24) % 3, strict=True))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
    loaders = DataLoaders.from_dsets(rows, rows[:8], bs=8, device="cpu")
    return Learner(loaders, model, loss_func=nn.CrossEntropyLoss(), cbs=list(callbacks))


def fitted(made: Learner) -> list[torch.Tensor]:
    with made.no_bar(), made.no_logging():
        made.fit(2)
    return [parameter.detach().clone() for parameter in made.model.parameters()]


def test_the_first_batch_is_recorded_with_its_loss_and_trains_as_without(tmp_path: Path) -> None:
    callback = GraphCallback(dirpath=tmp_path / "graph", **IN_PLACE)
    weights = fitted(learner(callback))
    graph = ModelGraph.load(tmp_path / "graph" / "graph.json")
    assert [node.op for node in graph.ops][-1] == "cross_entropy"
    assert [node.path for node in graph.of_kind("output")] == ["loss"]
    assert graph.parameter_count == sum(one.numel() for one in weights)
    assert callback.report is not None
    assert callback.report.refused == []
    for one, other in zip(weights, fitted(learner()), strict=True):
        assert torch.equal(one, other)


def test_neither_the_search_of_a_learning_rate_nor_a_prediction_is_recorded(tmp_path: Path) -> None:
    callback = GraphCallback(dirpath=tmp_path / "graph", **IN_PLACE)
    made = learner(callback)
    with made.no_bar(), made.no_logging():
        made.lr_find(num_it=4, show_plot=False)
        made.get_preds()
    assert callback.report is None
    assert not (tmp_path / "graph").exists()
    fitted(made)
    assert (tmp_path / "graph" / "graph.json").exists()


def test_a_validation_is_no_training(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    callback = GraphCallback(dirpath=tmp_path / "graph", **IN_PLACE)
    made = learner(callback)
    with made.no_bar(), made.no_logging():
        made.validate()
        assert callback.report is None
        made.fit(1)
        report = callback.report
        made.validate()
        made.get_preds()
    assert report is not None
    assert callback.report is report
    assert [node.path for node in ModelGraph.load(tmp_path / "graph/graph.json").of_kind("output")]
    assert [said for said in recwarn if said.category is ModelvizWarning] == []


def test_a_learner_with_the_callback_can_be_pickled_after_training(tmp_path: Path) -> None:
    callback = GraphCallback(dirpath=tmp_path / "graph", **IN_PLACE)
    made = learner(callback)
    fitted(made)
    torch.save(made, tmp_path / "learner.pt")
    (read,) = [
        one
        for one in torch.load(tmp_path / "learner.pt", weights_only=False).cbs
        if isinstance(one, GraphCallback)
    ]
    assert read.report is None


def test_a_wrong_option_is_said_where_it_is_written() -> None:
    with pytest.raises(OptionError, match="colour"):
        GraphCallback(colour="blue")  # type: ignore[call-arg]
