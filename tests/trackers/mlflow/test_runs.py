"""Every way people use MLflow ends with the model on their run's page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from torch import nn

from modelviz_callbacks import GraphHook, GraphLogger, ModelGraph
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.report import Report
from tests.lightning_modules import Classifier, data, trainer_for
from tests.mlflow_server import MlflowServer
from tests.samples import one_and_the_rest_slow
from tests.trackers.conftest import Store
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.process

FILES: dict[str, Any] = {"formats": ["svg", "text"], "onnx": False, "tensorboard": False}
STORED = {"graph.json", "graph.svg", "graph.txt", "backward.svg", "report.json"}


class Net(nn.Module):
    def __init__(self, width: int = 8, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, width), activation())
        self.head = nn.Linear(width, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(features))


def train(
    folder: Path, model: nn.Module | None = None, batch: int = 5, **options: Any
) -> GraphHook:
    """A plain loop of two steps."""
    model = model or Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(model, dirpath=folder / "graphs", **{**FILES, **options}) as hook:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(batch, 4)).square().mean().backward()
            optimizer.step()
    return hook


def assert_shown(client: MlflowClient, run_id: str, report: Report | None) -> None:
    """The run has files, tags, metrics and a picture in its description."""
    assert report is not None
    assert report.refused == []
    found = {item.path for item in client.list_artifacts(run_id, "model_graph")}
    assert found == {f"model_graph/{name}" for name in STORED}
    run = client.get_run(run_id)
    graph = ModelGraph.load(Path(report.folder) / "graph.json")
    assert run.data.tags["modelviz.fingerprint"] == Analysis(graph).fingerprint
    assert run.data.metrics["modelviz.parameters"] == graph.parameter_count
    assert run.data.metrics["modelviz.parameters_trainable"] == graph.trainable_count
    assert run.data.metrics["modelviz.ops"] == len(graph.ops)
    note = run.data.tags["mlflow.note.content"]
    assert f"get-artifact?path=model_graph%2Fgraph.svg&run_uuid={run_id}" in note


def test_a_plain_loop_in_start_run(fluent: Store, tmp_path: Path) -> None:
    with mlflow.start_run() as run:
        hook = train(tmp_path)
    assert_shown(fluent.client, run.info.run_id, hook.report)
    assert fluent.client.get_run(run.info.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_tracking_server_that_passes_artifacts_on(server: MlflowServer, tmp_path: Path) -> None:
    client = MlflowClient(server.uri)
    run_id = client.create_run("0").info.run_id
    logger = MLFlowLogger(tracking_uri=server.uri, run_id=run_id)
    callback = GraphLogger(dirpath=tmp_path / "graphs", **FILES)
    trainer_for(tmp_path, callback, logger=logger).fit(Classifier(), data())
    assert_shown(client, run_id, callback.report)
    assert list(server.artifacts.rglob(f"{run_id}/artifacts/model_graph/graph.svg"))
    assert client.get_run(run_id).data.metrics["loss_step"] > 0


@pytest.mark.slow
def test_the_logger_of_lightning(store: Store, tmp_path: Path) -> None:
    logger = MLFlowLogger("work", tracking_uri=store.uri)
    callback = GraphLogger(dirpath=tmp_path / "graphs", **FILES)
    trainer_for(tmp_path, callback, logger=logger).fit(Classifier(), data())
    assert logger.run_id is not None
    assert_shown(store.client, logger.run_id, callback.report)


@pytest.mark.slow
@pytest.mark.parametrize("flavour", one_and_the_rest_slow(["mlflow.pytorch", "mlflow"]))
def test_autologging(store: Store, tmp_path: Path, flavour: str) -> None:
    # In a process of its own: autologging patches Lightning for good.
    code = (
        "import sys, mlflow, mlflow.pytorch\n"
        "from pathlib import Path\n"
        "from modelviz_callbacks import GraphLogger\n"
        "from modelviz_callbacks.jobs import in_worker\n"
        f"in_worker.WAIT_LIMIT_S = in_worker.UPLOAD_LIMIT_S = {PATIENCE_S}\n"
        "from tests.lightning_modules import Classifier, data, trainer_for\n"
        "from tests.trackers.mlflow.test_runs import FILES\n"
        "folder = Path(sys.argv[1])\n"
        "mlflow.set_tracking_uri(sys.argv[2])\n"
        "mlflow.set_experiment('work')\n"
        f"{flavour}.autolog(log_models=False)\n"
        "callback = GraphLogger(dirpath=folder / 'graphs', **FILES)\n"
        "trainer_for(folder, callback).fit(Classifier(), data())\n"
    )
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-c", code, str(tmp_path), store.uri]
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=tmp_path)
    (run,) = store.client.search_runs([store.experiment_id])
    report = Report.from_json(json.loads((tmp_path / "graphs" / "report.json").read_text()))
    assert_shown(store.client, run.info.run_id, report)
    assert run.data.metrics["loss_step"] > 0  # what autologging itself logs


@pytest.mark.slow
def test_a_nested_run(fluent: Store, tmp_path: Path) -> None:
    with mlflow.start_run() as outer, mlflow.start_run(nested=True) as inner:
        hook = train(tmp_path)
    assert_shown(fluent.client, inner.info.run_id, hook.report)
    assert fluent.client.list_artifacts(outer.info.run_id) == []


@pytest.mark.slow
def test_an_explicit_run_id_of_a_finished_run(fluent: Store, tmp_path: Path) -> None:
    run_id = fluent.new_run()
    fluent.client.set_terminated(run_id)
    hook = train(tmp_path, mlflow=run_id)
    assert_shown(fluent.client, run_id, hook.report)
    assert fluent.client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_new_run_where_there_is_none(fluent: Store, tmp_path: Path) -> None:
    hook = train(tmp_path, mlflow=True, name="mine")
    (run,) = fluent.client.search_runs([fluent.experiment_id])
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert_shown(fluent.client, run.info.run_id, hook.report)


@pytest.mark.slow
def test_what_the_user_wrote_stays_and_the_section_is_not_doubled(
    fluent: Store, tmp_path: Path
) -> None:
    run_id = fluent.new_run()
    fluent.client.set_tag(run_id, "mlflow.note.content", "Mine, all mine.")
    for width in (8, 16):
        train(tmp_path, Net(width), mlflow=run_id, background=False)
    note = fluent.client.get_run(run_id).data.tags["mlflow.note.content"]
    assert note.startswith("Mine, all mine.")
    assert note.count("![Net]") == 1
    assert "| 131 |" in note  # of the second


@pytest.mark.slow
def test_runs_of_one_architecture_are_found_by_their_fingerprint(
    fluent: Store, tmp_path: Path
) -> None:
    runs = []
    for model, batch in ((Net(), 5), (Net(), 7), (Net(activation=nn.Tanh), 5)):
        run_id = fluent.new_run()
        train(tmp_path, model, batch, mlflow=run_id, background=False)
        runs.append(run_id)
    print_of = fluent.client.get_run(runs[0]).data.tags["modelviz.fingerprint"]
    found = mlflow.search_runs(
        [fluent.experiment_id], filter_string=f"tags.`modelviz.fingerprint` = '{print_of}'"
    )
    assert set(found["run_id"]) == set(runs[:2])


@pytest.mark.slow
def test_of_several_ranks_only_the_first_makes_a_run(store: Store, tmp_path: Path) -> None:
    here = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(here / "distributed_mlflow.py")]
    command += [str(tmp_path / "graphs"), store.uri]
    environment = {**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    first, second = (
        Report.from_json(json.loads((tmp_path / f"rank{rank}.json").read_text())) for rank in (0, 1)
    )
    assert first.refused == second.refused == []
    assert second.files == []
    runs = store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])
    assert [run.info.run_id for run in runs] == [first.mlflow_run_id]
    stored = {item.path for item in store.client.list_artifacts(first.mlflow_run_id, "model_graph")}
    assert stored == {f"model_graph/{name}" for name in first.files}


@pytest.mark.slow
def test_the_trained_model_is_logged_and_predicts_in_a_fresh_process(
    fluent: Store, tmp_path: Path
) -> None:
    model = Net()
    with mlflow.start_run() as run:
        hook = train(
            tmp_path, model, trained_onnx=True, input_names=["features"], output_names=["logits"]
        )
    assert hook.report.refused == []
    (logged,) = fluent.client.search_logged_models([fluent.experiment_id])
    assert logged.source_run_id == run.info.run_id
    assert logged.status.name == "READY"
    features = torch.randn(4, 4)
    np.save(tmp_path / "features.npy", features.numpy())
    code = (
        "import sys, numpy, mlflow\n"
        "uri, model, folder = sys.argv[1:]\n"
        "mlflow.set_tracking_uri(uri)\n"
        "loaded = mlflow.pyfunc.load_model(model)\n"
        "given = {'features': numpy.load(folder + '/features.npy')}\n"
        "numpy.save(folder + '/logits.npy', loaded.predict(given)['logits'])\n"
    )
    command = [sys.executable, "-c", code, fluent.uri, f"models:/{logged.model_id}", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    expected = model.eval()(features).detach()
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "logits.npy")), expected)
    stored = {item.path for item in fluent.client.list_artifacts(run.info.run_id, "model_graph")}
    assert "model_graph/model.onnx" in stored
