"""``GraphLogger(stage=...)``: other steps than that of training, and several in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader

from modelviz_callbacks import GraphLogger, ModelGraph
from modelviz_callbacks.errors import OptionError, SinkError
from modelviz_callbacks.report import ModelvizWarning
from tests.lightning_modules import IN_PLACE, Classifier, data, ops_of, trainer_for
from tests.writers.page_visit import content

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

PAIR: Any = ("train", "validate")


class AllStages(Classifier):
    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("worst", self.head(self.backbone(batch)).amax())

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("least", self.head(self.backbone(batch)).amin())

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.head(self.backbone(batch)).softmax(-1)


@pytest.mark.parametrize(
    ("stage", "last"), [("validate", "amax"), ("test", "amin"), ("predict", "softmax")]
)
def test_another_stages_first_batch_is_recorded_if_asked_for(
    stage: Any, last: str, tmp_path: Path
) -> None:
    callback = GraphLogger(dirpath=tmp_path / "graphs", stage=stage, **IN_PLACE)
    getattr(trainer_for(tmp_path, callback), stage)(AllStages(), data())
    assert callback.report is not None
    assert callback.report.refused == []
    graph = ModelGraph.load(tmp_path / "graphs" / "graph.json")
    assert last in ops_of(graph)
    assert not any(call.training for call in graph.modules)


def test_the_validation_within_a_fit_is_recorded_but_not_the_sanity_check(tmp_path: Path) -> None:
    callback = GraphLogger(dirpath=tmp_path / "graphs", stage="validate", **IN_PLACE)
    trainer = trainer_for(tmp_path, callback, num_sanity_val_steps=1, max_epochs=1, max_steps=-1)
    module = AllStages()
    with torch.no_grad():
        before = module.head[2].weight.clone()
    trainer.fit(module, data(), DataLoader(torch.randn(6, 4), 3))
    assert not torch.equal(before, module.head[2].weight)
    graph = ModelGraph.load(tmp_path / "graphs" / "graph.json")
    assert "amax" in ops_of(graph)
    assert graph.of_kind("input")[0].outputs[0].shape == (3, 4)


@pytest.mark.parametrize("stage", ["eval", (), ("train", "train"), ("train", "eval")])
def test_a_stage_that_is_none_is_refused(stage: Any) -> None:
    with pytest.raises(OptionError, match="one or several of train, validate"):
        GraphLogger(stage=stage)


def fit(folder: Path, callback: GraphLogger, loggers: Any) -> None:
    trainer = trainer_for(folder, callback, logger=loggers, max_epochs=1, max_steps=-1)
    trainer.fit(AllStages(), data(), DataLoader(torch.randn(6, 4), 3))


@pytest.mark.process
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_stages_are_in_one_folder_one_page_one_run_of_each_tracker(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    board = TensorBoardLogger(tmp_path, name="runs")
    mlflow = MLFlowLogger("stages", tracking_uri=store, artifact_location=str(tmp_path / "store"))
    counters.clear()  # a step is not timed where something was compiled before
    callback = GraphLogger(stage=PAIR, profile_step=2, **way)
    fit(tmp_path, callback, [board, mlflow])

    report = callback.report
    assert report is not None
    assert report.refused == []
    folder = Path(report.folder)
    train, validate = (
        ModelGraph.load(folder / name) for name in ("graph.json", "validate.graph.json")
    )
    assert "mean" in ops_of(train)
    assert "amax" in ops_of(validate)
    assert validate.of_kind("input")[0].outputs[0].shape == (3, 4)
    assert report.figures["ops"] == len(train.ops)
    assert {"validate.graph.svg", "validate.graph.txt", "validate.head.onnx"} <= {*report.files}
    assert not (folder / "validate.index.html").exists()

    shown = json.loads(content((folder / "index.html").read_bytes()))["graphs"]
    assert [graph["name"] for graph in shown] == ["AllStages", "AllStages (validate)"]
    assert ["times" in graph for graph in shown] == [True, False], report.remarks

    events = EventAccumulator(board.log_dir, size_guidance={"graph": 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    for start in ("forward, cost", "validate: forward, cost"):
        assert sum(tag.startswith(start) for tag in tags) == 1, tags

    run = MlflowClient(store).get_run(str(mlflow.run_id))
    assert run.data.metrics["modelviz.ops"] == len(train.ops)
    stored = {path.name for path in (tmp_path / "store").rglob("model_graph/*")}
    assert {"graph.json", "validate.graph.json", "index.html"} <= stored


def test_a_second_fit_keeps_both_graphs(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, name="runs")
    callback = GraphLogger(stage=PAIR, **IN_PLACE)
    for _ in range(2):
        fit(tmp_path, callback, board)
    assert callback.report is not None
    assert callback.report.refused == []
    assert [path.name for path in Path(board.log_dir).glob("model_graph*")] == ["model_graph"]


def test_a_stage_that_never_ran_is_told(tmp_path: Path) -> None:
    callback = GraphLogger(dirpath=tmp_path / "graphs", stage=PAIR, **IN_PLACE)
    trainer_for(tmp_path, callback, max_steps=2).fit(Classifier(), data())
    assert callback.report is not None
    assert callback.report.refused == []
    assert any("'validate'" in remark for remark in callback.report.remarks)


def test_what_fails_of_a_further_stage_alone_is_raised_if_asked_for(tmp_path: Path) -> None:
    in_the_way = tmp_path / "graphs" / "validate.graph.json"
    in_the_way.mkdir(parents=True)
    (in_the_way / "something").touch()
    options = IN_PLACE | {"on_error": "raise"}
    callback = GraphLogger(dirpath=tmp_path / "graphs", stage=PAIR, **options)
    with (
        pytest.warns(ModelvizWarning, match=r"validate: graph\.json"),
        pytest.raises(SinkError, match=r"validate\.graph\.json"),
    ):
        fit(tmp_path, callback, False)
    assert (tmp_path / "graphs" / "graph.json").is_file()
