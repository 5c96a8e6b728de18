"""The examples run as their reader runs them, and the viewers' own readers read the result."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy
import onnx
import onnxruntime
import pytest
import torch
import yaml
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch.utils.data import DataLoader, TensorDataset

import modelviz_callbacks
from modelviz_callbacks import GraphLogger, ModelGraph
from tests.mlflow_server import MlflowServer
from tests.models import TwoBranches
from tests.samples import one_and_the_rest_slow
from tests.without_us import copy_without_us

ROOT = Path(modelviz_callbacks.__file__).parent.parent
EXAMPLES = ROOT / "examples"
CONFIGS = ROOT / "configs"

# The example of each trainer -> the file of its events below the run's folder, the name of its
# own figure, and ops that its graph has, that of the loss among them.
TRAINERS = {
    "plain_loop": ("run", "loss", {"linear", "relu", "cross_entropy"}),
    "transformers_trainer": ("runs/*", "train/loss", {"log_softmax", "linear"}),
    "accelerate_loop": ("iris", "loss", {"linear", "relu", "cross_entropy"}),
    "fabric_loop": ("runs/version_0", "loss", {"linear", "relu", "cross_entropy"}),
    "ignite_trainer": ("run", "train/loss", {"linear", "cross_entropy"}),
    "skorch_classifier": ("run", "Loss/train_loss", {"linear", "cross_entropy"}),
    "fastai_learner": ("run", "train_loss", {"linear", "relu", "cross_entropy"}),
    "mmengine_runner": ("*/vis_data", "loss", {"linear", "relu", "cross_entropy"}),
    "stable_baselines3_ppo": ("PPO_1", "rollout/ep_rew_mean", {"linear", "logsumexp", "mse_loss"}),
}

# Script -> its arguments where it is run.
SCRIPTS = {
    "lightning_cnn_cli.py": ["fit", "--config", str(CONFIGS / "lightning_cnn.yaml")],
    "lightning_cnn.py": ["demo"],
    "plain_loop_iris.py": ["demo/iris"],
    **{f"{name}.py": ["demo"] for name in TRAINERS},
}


# What the weights were after each step, by the name of the file that tells.
WEIGHTS = "weights.txt"


def run_script(
    name: str,
    folder: Path,
    examples: Path = EXAMPLES,
    arguments: list[str] | None = None,
    may_fail: bool = False,
    **more: str,
) -> str:
    """Runs an example in an empty working directory; its whole output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | more
    environment["OMP_NUM_THREADS"] = "1"  # tests run side by side
    runner = [str(ROOT / "tests" / "example_weights.py"), str(folder / WEIGHTS)]
    done = subprocess.run(
        [sys.executable, *runner, str(examples / name), *(arguments or SCRIPTS[name])],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert may_fail or done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def assert_trains_the_same(
    name: str, folder: Path, reads_its_graph: bool = False, **more: str
) -> None:
    """The example that was run in a folder has the weights of one that never heard of us."""
    without = folder / "without"
    without.mkdir()
    copy_without_us(EXAMPLES, without / "examples")
    arguments = [_config_without_us(argument, without) for argument in SCRIPTS[name]]
    run_script(name, without, without / "examples", arguments, reads_its_graph, **more)
    assert not list(without.rglob("graph.json"))
    steps, _, was_loaded = (without / WEIGHTS).read_text().split()
    assert was_loaded == "False"
    assert int(steps) > 1
    told = (folder / WEIGHTS).read_text().split()
    assert told == [*(without / WEIGHTS).read_text().split()[:2], "True"]


def _config_without_us(argument: str, folder: Path) -> str:
    """The argument; where it is a configuration, that of the same training without callbacks."""
    if not argument.endswith(".yaml"):
        return argument
    config = yaml.safe_load(Path(argument).read_text())
    config["trainer"]["callbacks"] = []
    made = folder / "config.yaml"
    made.write_text(yaml.safe_dump(config))
    return str(made)


def test_every_example_and_configuration_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} - {"iris.py"} == set(SCRIPTS)
    arguments = {argument for given in SCRIPTS.values() for argument in given}
    assert {str(path) for path in CONFIGS.glob("*.y*ml")} <= arguments


# --- the CNN with two branches


@pytest.fixture(scope="module", params=["lightning_cnn.py", "lightning_cnn_cli.py"])
def cnn_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a finished run of the digits example, and what it printed."""
    folder = tmp_path_factory.mktemp("cnn")
    return folder, run_script(request.param, folder)


@pytest.mark.slow
def test_the_digits_example_shows_what_it_promises(cnn_run: tuple[Path, str]) -> None:
    folder, printed = cnn_run
    assert "ModelvizWarning" not in printed
    assert "Traceback" not in printed
    run = folder / "demo" / "runs" / "version_0"
    _assert_accuracy(run)
    _assert_tensorboard_graph(run)
    _assert_onnx_files(run / "model_graph")
    _assert_mlflow_run(folder, run / "model_graph")
    if "Held-out accuracy" in printed:
        shown = float(re.search(r"Held-out accuracy: ([\d.]+)%", printed)[1])  # type: ignore[index]
        assert shown >= 95
        assert (run / "model_graph" / "index.html").exists()
        for command in ("tensorboard --logdir", "mlflow ui --backend-store-uri", "netron"):
            assert command in printed


@pytest.mark.slow
def test_the_digits_example_trains_the_same_without_the_callback(
    cnn_run: tuple[Path, str], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["cnn_run"]
    assert_trains_the_same(name, cnn_run[0])


def _events_of(run: Path) -> EventAccumulator:
    (events,) = run.glob("events.out.*")  # scalars and graph are in one file
    return EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()


def _assert_accuracy(run: Path) -> None:
    events = _events_of(run)
    accuracies = events.Scalars("accuracy")
    assert events.Scalars("train_loss")
    assert len(accuracies) >= 5
    assert accuracies[-1].value >= 0.95


def _assert_tensorboard_graph(run: Path) -> None:
    graph = GraphDef.FromString(_events_of(run).Graph().SerializeToString())
    scopes = {node.name.partition("/")[0] for node in graph.node}
    assert {"cnn", "mlp1", "mlp2", "fc"} <= scopes
    readers = {node.name: node for node in graph.node}

    def reaches(start: str, end: str) -> bool:
        """Whether a tensor of one scope comes to another without going through a third."""
        plain = {"cnn", "mlp1", "mlp2", "fc", "cat"} - {start, end}
        waiting = [name for name in readers if name.partition("/")[0] == end]
        seen = set(waiting)
        while waiting:
            for given in readers[waiting.pop()].input:
                source = given.removeprefix("^").partition(":")[0]
                scope = source.partition("/")[0]
                if scope == start:
                    return True
                if scope not in plain and source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return False

    assert "cat" in scopes
    assert reaches("mlp1", "cat")
    assert reaches("mlp2", "cat")
    assert reaches("cat", "fc")
    assert reaches("cnn", "mlp1")
    assert reaches("cnn", "mlp2")
    assert not reaches("mlp1", "mlp2")
    assert not reaches("cnn", "fc")


def _assert_onnx_files(folder: Path) -> None:
    view = onnx.load(folder / "graph.onnx")
    assert [value.name for value in view.graph.input] == ["image"]
    assert {node.name for node in view.graph.node} >= {"cnn", "mlp1", "mlp2", "cat", "fc"}
    inside = {node.op_type for function in view.functions for node in function.node}
    assert inside >= {"Conv", "Gemm", "Relu"}
    path = folder / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in (1, 7):
        (logits,) = session.run(None, {"image": numpy.zeros((size, 1, 28, 28), "float32")})
        assert logits.shape == (size, 10)


def _assert_mlflow_run(folder: Path, files: Path) -> None:
    # Paths in the store are relative to where the example ran.
    before = Path.cwd()
    os.chdir(folder)
    try:
        client = MlflowClient(f"sqlite:///{folder / 'demo' / 'mlflow.db'}")
        (experiment,) = [e for e in client.search_experiments() if e.name == "digits"]
        (run,) = client.search_runs([experiment.experiment_id])
        stored = {item.path for item in client.list_artifacts(run.info.run_id, "model_graph")}
    finally:
        os.chdir(before)
    on_disk = {f"model_graph/{path.name}" for path in files.iterdir()}
    assert stored == on_disk - {"model_graph/worker.log"}
    assert run.data.metrics["accuracy"] >= 0.95
    assert run.data.tags["modelviz.class"].endswith("DigitClassifier")
    assert "model_graph/graph.svg" in stored
    graph = ModelGraph.load(files / "graph.json")
    assert run.data.metrics["modelviz.parameters"] == graph.parameter_count
    assert {"conv2d", "linear", "cross_entropy"} <= {node.op for node in graph.ops}
    assert "loss" in {node.name for node in graph.of_kind("output")}


# --- Iris in a plain loop


@pytest.fixture(scope="module")
def iris_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run of the Iris example, and what it printed."""
    folder = tmp_path_factory.mktemp("iris")
    return folder, run_script("plain_loop_iris.py", folder)


def test_the_iris_example_exports_a_model_that_runs_without_the_model(
    iris_run: tuple[Path, str],
) -> None:
    run, printed = iris_run
    assert "ModelvizWarning" not in printed
    shown = float(re.search(r"held-out flowers: ([\d.]+)%", printed)[1])  # type: ignore[index]
    assert shown >= 80
    assert float(re.search(r"Largest difference.*: (\S+)", printed)[1]) < 1e-5  # type: ignore[index]
    folder = run / "demo" / "iris"
    path = folder / "model.onnx"
    proto = onnx.load(path)
    assert [value.name for value in proto.graph.input] == ["features"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    flowers = load_iris()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"features": flowers.data.astype("float32")})
    assert (logits.argmax(1) == flowers.target).mean() >= 0.8
    assert ModelGraph.load(folder / "graph.json").of_kind("input")[0].outputs[0].shape == (10, 4)


@pytest.mark.slow
def test_the_iris_example_trains_the_same_without_the_hook(iris_run: tuple[Path, str]) -> None:
    assert_trains_the_same("plain_loop_iris.py", iris_run[0], reads_its_graph=True)


# --- a real server


class Digits(TwoBranches, pl.LightningModule):
    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        image, label = batch
        loss = torch.nn.functional.cross_entropy(self(image), label)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


@pytest.mark.slow
def test_a_real_server_receives_every_file_whole(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    callback = GraphLogger(trained_onnx=True)
    logger = MLFlowLogger("through the server", tracking_uri=server.uri)
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=[TensorBoardLogger(tmp_path), logger],
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = TensorDataset(torch.rand(8, 1, 8, 8), torch.randint(0, 10, (8,)))
    trainer.fit(Digits(), DataLoader(data, 4))
    assert callback.report is not None
    assert callback.report.refused == []
    client = MlflowClient(server.uri)
    run_id = logger.run_id
    assert run_id is not None
    back = Path(client.download_artifacts(run_id, "model_graph", str(tmp_path)))
    local = Path(callback.report.folder)
    sent = {path.name: path.read_bytes() for path in local.iterdir() if path.is_file()}
    received = {path.name: path.read_bytes() for path in back.iterdir()}
    assert set(received) == set(callback.report.files)
    report = "report.json"  # written once more after the upload, which it tells of
    assert all(received[name] == sent[name] for name in received if name != report)
    assert {"graph.json", "graph.txt", "graph.onnx", "model.onnx", "graph.svg"} <= set(received)
    ops = ModelGraph.load(back / "graph.json").ops
    assert client.get_run(run_id).data.metrics["modelviz.ops"] == len(ops)


# --- the trainers


@pytest.fixture(scope="module", params=one_and_the_rest_slow(TRAINERS))
def trainer_run(
    request: pytest.FixtureRequest, server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, str]:
    """The name of a trainer's example, the folder of its finished run, and what it printed."""
    name, folder = request.param, tmp_path_factory.mktemp("trainer")
    return name, folder, run_script(f"{name}.py", folder, MLFLOW_TRACKING_URI=server.uri)


def test_the_example_of_a_trainer_writes_to_the_trainers_own_runs(
    trainer_run: tuple[str, Path, str], server: MlflowServer
) -> None:
    name, where, printed = trainer_run
    place, figure, ops = TRAINERS[name]
    assert "ModelvizWarning" not in printed
    (run,) = (where / "demo").glob(place)
    found = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    assert found.Tags()["graph"]
    assert found.Scalars(figure)
    # MMEngine keeps its events in a folder below that of the run.
    (folder,) = [*run.glob("model_graph"), *run.parent.glob("model_graph")]
    assert {"index.html", "graph.svg"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("*.onnx"))
    graph = ModelGraph.load(folder / "graph.json")
    assert ops <= {node.op for node in graph.ops}
    assert "loss" in {node.name for node in graph.of_kind("output")}
    report = json.loads((folder / "report.json").read_text())
    stored = MlflowClient(server.uri).get_run(report["mlflow_run_id"])
    assert stored.data.tags["modelviz.class"] == graph.class_name
    assert stored.data.metrics, "the trainer's own figures are in the same run"
    names = {
        item.path
        for item in MlflowClient(server.uri).list_artifacts(stored.info.run_id, "model_graph")
    }
    assert "model_graph/graph.svg" in names


@pytest.mark.slow
def test_the_example_of_a_trainer_trains_the_same_without_us(
    trainer_run: tuple[str, Path, str], server: MlflowServer
) -> None:
    name, folder, _ = trainer_run
    assert_trains_the_same(f"{name}.py", folder, MLFLOW_TRACKING_URI=server.uri)
