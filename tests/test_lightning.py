"""``GraphLogger``: the first training step of any LightningModule, and where its graph goes."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import (
    CSVLogger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.tuner import Tuner
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch.utils.data import DataLoader, Dataset

from modelviz_callbacks import GraphLogger, ModelGraph
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.report import ModelvizWarning
from tests.lightning_modules import (
    HEAD_OPS,
    IN_PLACE,
    QUICK,
    Classifier,
    Gan,
    WithForward,
    data,
    ops_of,
    recorded,
    trainer_for,
)

# --- what is recorded

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


def test_a_module_without_forward_is_recorded_with_its_loss(tmp_path: Path) -> None:
    graph = recorded(tmp_path, Classifier())
    assert ops_of(graph) == [*HEAD_OPS, "square", "mean"]
    assert [node.path for node in graph.of_kind("input")] == ["batch"]
    (loss,) = graph.of_kind("output")
    assert loss.name == "loss"
    assert [ref.node for ref in loss.inputs] == ["mean"]
    flags = {call.name: call.training for call in graph.modules}
    assert flags["backbone"] is False
    assert flags["head"] is True


def test_a_module_with_forward_is_recorded_with_its_loss(tmp_path: Path) -> None:
    graph = recorded(tmp_path, WithForward())
    assert ops_of(graph) == [*HEAD_OPS, "square", "mean"]
    assert [node.name for node in graph.of_kind("output")] == ["loss"]


class Rows(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.ones(4), "file": f"{index}.png", "more": (torch.zeros(2), index)}


class TakesDict(Classifier):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        assert len(batch["file"]) == 4
        scores = self.head(self.backbone(batch["image"]))
        return {"loss": scores.square().mean(), "scores": scores.detach(), "note": None}


def test_a_dict_batch_and_a_dict_result_are_recorded_with_their_keys(tmp_path: Path) -> None:
    graph = recorded(tmp_path, TakesDict(), DataLoader(Rows(), 4))
    paths = [node.path for node in graph.of_kind("input")]
    assert [path for path in paths if "image" in path]
    assert len(paths) == 3
    results = {node.name: graph.spec(node.inputs[0]).shape for node in graph.of_kind("output")}
    assert len(results) == 2
    assert results["loss"] == ()
    assert not any("_" in name for name in (*paths, *results))


def test_both_networks_and_both_losses_of_a_gan_are_recorded_whole(tmp_path: Path) -> None:
    graph = recorded(tmp_path, Gan())
    calls = [call.name for call in graph.modules if not call.parent]
    assert calls == ["generator", "critic", "critic_1", "critic_2"]
    one_network = ["linear", "relu", "linear"], ["linear", "leaky_relu", "linear"]
    wanted = ["randn", *one_network[0], "ones", *one_network[1]]
    wanted += ["binary_cross_entropy_with_logits", *one_network[1], "mse_loss", "detach"]
    wanted += [*one_network[1], "mul", "mse_loss", "add", "div"]
    assert sorted(ops_of(graph)) == sorted(wanted)
    parameters = {node.path: node.name for node in graph.of_kind("parameter")}
    assert parameters["generator.0.weight"] == "generator/0_Linear/weight"
    losses = [node.inputs[0].node for node in graph.of_kind("output")]
    assert losses == ["binary_cross_entropy_with_logits", "div"]


def test_each_network_of_a_gan_has_its_own_onnx_files(tmp_path: Path, way: dict[str, Any]) -> None:
    callback = GraphLogger(dirpath=tmp_path, formats=["text"], trained_onnx=True, **way)
    trainer_for(tmp_path, callback).fit(Gan(), data())
    found = {path.name for path in tmp_path.glob("*.onnx")}
    assert found == {
        f"{name}.{kind}" for name in ("generator", "critic") for kind in ("onnx", "model.onnx")
    }


def test_the_frameworks_own_bookkeeping_is_not_in_the_graph(tmp_path: Path) -> None:
    class LogsALot(Classifier):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log_dict({"a": loss, "b": 3.0}, on_step=True, on_epoch=True, sync_dist=True)
            self.log("c", loss.detach(), reduce_fx="max", on_epoch=True, on_step=False)
            return loss

    graph = recorded(tmp_path, LogsALot(), logger=CSVLogger(tmp_path))
    assert ops_of(graph) in (
        [*HEAD_OPS, "square", "mean"],
        [*HEAD_OPS, "square", "mean", "detach"],
    )


def test_mixed_precision_is_recorded_as_it_ran(tmp_path: Path) -> None:
    graph = recorded(tmp_path, Classifier(), precision="bf16-mixed")
    dtypes = {node.name: node.outputs[0].dtype for node in graph.ops if node.op == "linear"}
    assert dtypes == {"backbone/0_Linear/linear": "bfloat16", "head/2_Linear/linear": "bfloat16"}


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.1},
        {"detect_anomaly": True},
        {"precision": "64-true"},
        {"inference_mode": False},
        {"profiler": "simple"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_trainers_settings_do_not_change_what_is_recorded(
    options: dict[str, Any], tmp_path: Path
) -> None:
    graph = recorded(tmp_path, Classifier(), **options)
    assert ops_of(graph) == [*HEAD_OPS, "square", "mean"]


def test_a_closure_that_runs_the_step_many_times_is_recorded_once(tmp_path: Path) -> None:
    class Closure(Classifier):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.head.parameters(), max_iter=3)

    graph = recorded(tmp_path, Closure())
    assert ops_of(graph) == [*HEAD_OPS, "square", "mean"]


def test_the_sanity_check_is_not_what_is_recorded(tmp_path: Path, way: dict[str, Any]) -> None:
    class Validates(Classifier):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            assert not (tmp_path / "graphs").exists() or not self.trainer.sanity_checking
            self.log("accuracy", self.head(self.backbone(batch)).mean())

    callback = GraphLogger(dirpath=tmp_path / "graphs", **QUICK, **way)
    trainer = trainer_for(tmp_path, callback, num_sanity_val_steps=2)
    trainer.fit(Validates(), data(), DataLoader(torch.randn(14, 4), 7))
    graph = ModelGraph.load(tmp_path / "graphs" / "graph.json")
    assert graph.of_kind("input")[0].outputs[0].shape == (4, 4)
    assert graph.module_by_name["head"].training


# --- where it goes


def only_event_file(folder: Path) -> EventAccumulator:
    (events,) = folder.glob("events.out.*")
    return EventAccumulator(str(events)).Reload()


def test_a_tensorboard_run_gets_the_graph_in_the_file_of_its_scalars(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    logger = TensorBoardLogger(tmp_path, name="runs")
    callback = GraphLogger(**QUICK, **way)
    trainer_for(tmp_path, callback, logger=logger).fit(Classifier(), data())
    found = only_event_file(Path(logger.log_dir))
    names = {node.name for node in GraphDef.FromString(found.Graph().SerializeToString()).node}
    assert {"head/2_Linear/linear", "head/2_Linear/weight", "loss"} <= names
    assert "batch" in {name.partition("/")[0] for name in names}
    assert len(found.Scalars("loss_step")) == 3
    files = {path.name for path in (Path(logger.log_dir) / "model_graph").iterdir()}
    assert files - {"worker.log"} == {"graph.json", "graph.txt", "report.json"}


def test_a_remote_log_directory_gets_the_graph_and_a_copy_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = TensorBoardLogger(f"memory://{tmp_path.name}", name="", version="")
    callback = GraphLogger(**QUICK, **way)
    trainer_for(tmp_path, callback, logger=logger).fit(Classifier(), data())
    assert callback.report is not None
    assert callback.report.refused == []
    assert Path(callback.report.folder) == tmp_path / "model_graph"
    assert [path.name for path in tmp_path.iterdir()] == ["model_graph"]
    remote = fsspec.filesystem("memory")
    assert remote.glob(f"/{tmp_path.name}/**/model_graph/graph.txt")
    (events,) = remote.glob(f"/{tmp_path.name}/**/events.*")
    local = tmp_path / "events.out.tfevents.1"
    local.write_bytes(remote.cat(events))
    found = EventAccumulator(str(local))
    found.Reload()
    assert found.Tags()["graph"]
    assert "loss_step" in found.Tags()["scalars"]


@pytest.mark.process
def test_an_mlflow_run_gets_all_files_and_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MLFlowLogger(
        "tests", tracking_uri=store, artifact_location=(tmp_path / "artifacts").as_uri()
    )
    callback = GraphLogger(onnx=False, formats=["text", "svg", "markdown", "csv"], **way)
    trainer_for(tmp_path, callback, logger=logger).fit(Classifier(), data())
    client = MlflowClient(store)
    stored = {item.path for item in client.list_artifacts(logger.run_id, "model_graph")}
    on_disk = {path.name for path in (tmp_path / "model_graph").iterdir() if path.suffix != ".0"}
    assert callback.report is not None
    assert stored == {f"model_graph/{name}" for name in callback.report.files}
    assert set(callback.report.files) <= on_disk
    run = client.get_run(logger.run_id)
    graph = ModelGraph.load(tmp_path / "model_graph" / "graph.json")
    assert run.data.tags["modelviz.class"].endswith("Classifier")
    assert run.data.tags["modelviz.fingerprint"] == Analysis(graph).fingerprint
    assert run.data.metrics["modelviz.parameters"] == graph.parameter_count
    assert run.data.metrics["modelviz.ops"] == len(graph.ops)
    assert "get-artifact?path=model_graph%2Fgraph.svg" in run.data.tags["mlflow.note.content"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss_step"] > 0
    back = Path(client.download_artifacts(logger.run_id, "model_graph/graph.json", str(tmp_path)))
    assert ModelGraph.load(back) == graph


@pytest.mark.parametrize("kind", ["none", "csv"])
def test_without_a_tensorboard_logger_there_is_something_to_look_at(
    kind: str, tmp_path: Path, way: dict[str, Any]
) -> None:
    logger: Any = CSVLogger(tmp_path) if kind == "csv" else False
    callback = GraphLogger(**QUICK, **way)
    trainer_for(tmp_path, callback, logger=logger).fit(Classifier(), data())
    folder = (Path(logger.log_dir) if logger else tmp_path) / "model_graph"
    assert (folder / "graph.txt").read_text().startswith("Classifier: batch 4×4 -> loss")
    assert only_event_file(folder).Tags()["graph"]


@pytest.mark.parametrize("kind", ["fast_dev_run", "barebones"])
def test_a_run_that_leaves_no_trace_leaves_none_of_ours(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    callback = GraphLogger(**QUICK, **way)
    bare: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    ) | {"log_every_n_steps": None}
    more = {"fast_dev_run": True} if kind == "fast_dev_run" else bare | {"barebones": True}
    trainer_for(tmp_path, callback, **more).fit(Classifier(), data())
    assert callback.report is None
    assert list(tmp_path.iterdir()) == []


def test_every_tensorboard_logger_of_a_run_gets_the_graph(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    loggers = [TensorBoardLogger(tmp_path, name=name) for name in ("one", "two")]
    callback = GraphLogger(**QUICK, **way)
    trainer_for(tmp_path, callback, logger=loggers).fit(Classifier(), data())
    assert callback.report is not None
    assert callback.report.refused == []
    for logger in loggers:
        assert only_event_file(Path(logger.log_dir)).Tags()["graph"]
    assert callback.report.stored == [f"TensorBoard: tensorboard --logdir {tmp_path}"]


@pytest.mark.slow
@pytest.mark.process
def test_each_of_several_mlflow_loggers_gets_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    place = (tmp_path / "artifacts").as_uri()
    loggers = [
        MLFlowLogger(name, tracking_uri=store, artifact_location=place) for name in ("one", "two")
    ]
    callback = GraphLogger(**QUICK)
    trainer_for(tmp_path, callback, logger=loggers).fit(Classifier(), data())
    assert callback.report is not None
    assert callback.report.refused == []
    client = MlflowClient(store)
    for logger in loggers:
        stored = {item.path for item in client.list_artifacts(logger.run_id, "model_graph")}
        assert "model_graph/graph.txt" in stored
        assert "modelviz.fingerprint" in client.get_run(logger.run_id).data.tags


def test_a_wandb_loggers_run_gets_the_graph_and_its_folder_the_files(
    tmp_path: Path, wandb_run: Any
) -> None:
    logger = WandbLogger(save_dir=tmp_path / "logs", experiment=wandb_run, project="tests")
    callback = GraphLogger(**IN_PLACE)
    trainer_for(tmp_path, callback, logger=logger).fit(Classifier(), data())
    assert callback.report is not None
    assert callback.report.refused == []
    folder = tmp_path / "logs" / "tests" / str(logger.version) / "model_graph"
    assert Path(callback.report.folder) == folder
    assert (folder / "graph.txt").exists()
    assert wandb_run.summary["modelviz/ops"] == callback.report.figures["ops"]
    assert (Path(wandb_run.dir) / "model_graph" / "graph.txt").exists()


def test_a_search_for_the_batch_size_before_records_nothing_and_costs_no_graph(
    tmp_path: Path,
) -> None:
    class WithData(Classifier):
        batch_size = 2

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(torch.randn(32, 4), self.batch_size)

    logger = TensorBoardLogger(tmp_path, name="runs")
    callback = GraphLogger(**IN_PLACE)
    trainer = trainer_for(tmp_path, callback, logger=logger)
    module = WithData()
    Tuner(trainer).scale_batch_size(module, max_trials=2, steps_per_trial=1)
    assert callback.report is None
    trainer.fit(module)
    graph = ModelGraph.load(Path(logger.log_dir) / "model_graph" / "graph.json")
    assert graph.of_kind("input")[0].outputs[0].shape == (module.batch_size, 4)


def test_a_trainer_of_the_other_package_of_lightning_is_recorded_into_its_loggers_runs(
    tmp_path: Path,
) -> None:
    other: Any = importlib.import_module("pytorch_lightning")
    loggers: Any = importlib.import_module("pytorch_lightning.loggers")

    class Other(other.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 2)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
            return self.head(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    logger = loggers.TensorBoardLogger(tmp_path, name="runs")
    callback = GraphLogger(**IN_PLACE)
    trainer = other.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Other(), data())
    assert callback.report is not None
    assert callback.report.refused == []
    assert ops_of(ModelGraph.load(Path(logger.log_dir) / "model_graph" / "graph.json")) == [
        *("linear", "square", "mean")
    ]
    assert only_event_file(Path(logger.log_dir)).Tags()["graph"]


def test_the_loggers_of_the_other_package_of_lightning_are_known(tmp_path: Path) -> None:
    from modelviz_callbacks.loggers import is_named

    other: Any = importlib.import_module("pytorch_lightning.loggers")
    packages = ("lightning", "pytorch_lightning")
    assert is_named(other.TensorBoardLogger(tmp_path), "TensorBoardLogger", *packages)
    assert is_named(TensorBoardLogger(tmp_path), "TensorBoardLogger", *packages)
    assert not is_named(CSVLogger(tmp_path), "TensorBoardLogger", *packages)
    assert is_named(object.__new__(other.MLFlowLogger), "MLFlowLogger", *packages)


def test_two_runs_without_a_log_folder_have_a_folder_each(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    folders = []
    for rows in (4, 2):
        callback = GraphLogger(**QUICK, **way)
        loader = DataLoader(torch.randn(8, 4), rows)
        trainer_for(tmp_path, callback).fit(Classifier(), loader)
        assert callback.report is not None
        folders.append(Path(callback.report.folder))
        graph = ModelGraph.load(folders[-1] / "graph.json")
        assert graph.of_kind("input")[0].outputs[0].shape == (rows, 4)
    assert folders == [tmp_path / "model_graph", tmp_path / "model_graph_2"]


def test_every_fit_of_one_callback_is_recorded_in_its_own_run(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    callback = GraphLogger(**QUICK, **way)
    for rows in (4, 2):
        logger = TensorBoardLogger(tmp_path, name="runs")
        trainer_for(tmp_path, callback, logger=logger).fit(
            Classifier(), DataLoader(torch.randn(8, 4), rows)
        )
        graph = ModelGraph.load(Path(logger.log_dir) / "model_graph" / "graph.json")
        assert graph.of_kind("input")[0].outputs[0].shape == (rows, 4)


def test_a_second_fit_of_one_trainer_still_writes_to_its_run(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    logger = TensorBoardLogger(tmp_path, name="runs")
    callback = GraphLogger(**QUICK, **way)
    trainer = trainer_for(tmp_path, callback, logger=logger, max_steps=2)
    module = Classifier()
    trainer.fit(module, data())
    trainer.fit_loop.epoch_loop.max_steps = 5
    trainer.fit(module, data())
    assert callback.report is not None
    assert callback.report.refused == []
    assert any("tensorboard" in place for place in callback.report.stored)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_the_report_comes_back_from_processes_that_the_trainer_has_started(
    tmp_path: Path, strategy: str
) -> None:
    script = Path(__file__).parent / "spawned_training.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path), strategy],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("REPORT ")]
    report = json.loads(line.removeprefix("REPORT "))
    assert report["refused"] == []
    assert "graph.txt" in report["files"]
    assert Path(report["folder"]) == tmp_path / "model_graph"
    assert [path.name for path in tmp_path.glob("model_graph*")] == ["model_graph"]


def fit_twice(folder: Path, change: Any, way: dict[str, Any]) -> tuple[GraphLogger, Path]:
    """Fits a module, changes it, fits it again with the same trainer and callback."""
    logger = TensorBoardLogger(folder, name="runs")
    callback = GraphLogger(**QUICK, **way)
    trainer = trainer_for(folder, callback, logger=logger, max_steps=2)
    module = Classifier()
    trainer.fit(module, data())
    change(module)
    trainer.fit_loop.epoch_loop.max_steps = 5
    trainer.fit(module, data())
    assert callback.report is not None
    assert callback.report.refused == []
    return callback, Path(logger.log_dir)


def test_a_second_fit_keeps_the_first_graph_if_it_is_the_same(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    callback, run = fit_twice(tmp_path, lambda module: None, way)
    assert callback.report is not None
    assert callback.report.remarks[-1].startswith("The graph is the one that was there already")
    assert [path.name for path in run.glob("model_graph*")] == ["model_graph"]
    assert Path(callback.report.folder) == run / "model_graph"
    assert callback.report.figures["ops"] > 0
    assert "graph.txt" in callback.report.files


def test_a_second_fit_of_a_changed_model_is_recorded_and_says_what_changed(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    def widen(module: Classifier) -> None:
        module.head.append(torch.nn.Linear(2, 3))

    callback, run = fit_twice(tmp_path, widen, way)
    assert callback.report is not None
    assert {path.name for path in run.glob("model_graph*")} == {"model_graph", "model_graph_2"}
    told = "\n".join(callback.report.remarks)
    assert f"another one than that in {run / 'model_graph'}" in told
    assert "head" in told


def test_a_fit_that_resumes_in_the_folder_of_its_run_keeps_the_first_graph(
    tmp_path: Path,
) -> None:
    for steps in (2, 4):
        logger = TensorBoardLogger(tmp_path, name="runs", version=0)
        callback = GraphLogger(**IN_PLACE)
        trainer = trainer_for(tmp_path, callback, logger=logger, max_steps=steps)
        checkpoint = tmp_path / "last.ckpt"
        trainer.fit(Classifier(), data(), ckpt_path=checkpoint if steps == 4 else None)
        trainer.save_checkpoint(checkpoint)
    assert [path.name for path in (tmp_path / "runs" / "version_0").glob("model_graph*")] == [
        "model_graph"
    ]


def test_a_search_for_the_learning_rate_before_does_not_cost_the_graph(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    class WithData(Classifier):
        def train_dataloader(self) -> DataLoader[Any]:
            return data(64)

    logger = TensorBoardLogger(tmp_path, name="runs")
    callback = GraphLogger(**QUICK, **way)
    trainer = trainer_for(tmp_path, callback, logger=logger)
    module = WithData()
    Tuner(trainer).lr_find(module, num_training=4)
    trainer.fit(module)
    assert callback.report is not None
    assert callback.report.refused == []
    found = [only.Tags()["graph"] for only in map(_reload, Path(logger.log_dir).glob("events*"))]
    assert any(found)


def _reload(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path)).Reload()


def test_validation_alone_records_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: dict[str, Any]
) -> None:
    class Validates(Classifier):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            self.head(self.backbone(batch))

    callback = GraphLogger(**QUICK, **way)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelvizWarning)
        trainer_for(tmp_path, callback).validate(Validates(), data(), verbose=False)
    assert callback.report is None
    assert not (tmp_path / "model_graph").exists()
    assert "modelviz" not in capsys.readouterr().out


# --- a good citizen


class CopiesCallbacks(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GraphLogger):
                copy.deepcopy(callback)
                pickle.loads(pickle.dumps(callback))


def test_the_callback_can_be_pickled_and_copied_before_in_and_after_a_fit(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    made = GraphLogger(dirpath=tmp_path / "graphs", **QUICK, **way)
    callback = pickle.loads(pickle.dumps(copy.deepcopy(made)))
    logger = TensorBoardLogger(tmp_path)
    trainer_for(tmp_path, callback, CopiesCallbacks(), logger=logger).fit(Classifier(), data())
    assert (tmp_path / "graphs" / "graph.json").exists()
    pickle.loads(pickle.dumps(copy.deepcopy(callback)))


def test_a_checkpoint_with_the_callback_resumes(tmp_path: Path, way: dict[str, Any]) -> None:
    callback = GraphLogger(dirpath=tmp_path / "graphs", **QUICK, **way)
    trainer = trainer_for(tmp_path, callback)
    trainer.fit(Classifier(), data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = trainer_for(
        tmp_path, GraphLogger(dirpath=tmp_path / "resumed", **QUICK, **way), max_steps=5
    )
    resumed.fit(Classifier(), data(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert resumed.global_step == 5
    assert (tmp_path / "resumed" / "graph.json").exists()


def test_it_works_beside_callbacks_of_the_older_package_name(tmp_path: Path) -> None:
    import pytorch_lightning

    called: list[int] = []

    class Older(pytorch_lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, *args: Any) -> None:
            called.append(1)

    callback = GraphLogger(dirpath=tmp_path / "graphs", **IN_PLACE)
    trainer_for(tmp_path, Older(), callback).fit(Classifier(), data())
    assert len(called) == 3
    assert (tmp_path / "graphs" / "graph.json").exists()
