"""A recording in an MLflow run: whatever does not fail arrives, at once or uploaded by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from modelviz_callbacks import GraphHook, ModelGraph
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.tracking import publish
from modelviz_callbacks.cli import main
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.report import ModelvizWarning, Report
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from tests.mlflow_server import MlflowServer
from tests.trackers.conftest import Store, empty_database, store

__all__ = ["empty_database", "store"]  # fixtures

pytestmark = pytest.mark.process

FORMATS = ["svg", "text", "html"]


def train(folder: Path, mlflow: Any) -> GraphHook:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    options: dict[str, Any] = {"formats": FORMATS, "tensorboard": False, "trained_onnx": True}
    # Where the files go nowhere, they are what is looked at.
    with GraphHook(
        model, dirpath=folder, mlflow=mlflow, background=bool(mlflow), **options
    ) as hook:
        model(torch.randn(3, 4)).sum().backward()
    return hook


def contents(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """What a run has of ours, but for what is different in any two runs."""
    run = client.get_run(run_id)
    tags = {
        name: value.replace(run_id, "RUN")
        for name, value in run.data.tags.items()
        if name.startswith(("modelviz.", "mlflow.note"))
    }
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    return {
        "tags": tags,
        "metrics": run.data.metrics,
        "files": sorted(item.path for item in client.list_artifacts(run_id, "model_graph")),
        "models": [(model.name, model.status.name, model.tags) for model in models],
    }


@pytest.mark.slow
def test_an_upload_by_hand_gives_a_run_what_an_automatic_one_gives(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client = MlflowClient(server.uri)
    automatic, by_hand = (str(client.create_run("0").info.run_id) for _ in range(2))
    train(tmp_path / "graphs", automatic)
    command = ["upload", str(tmp_path / "graphs"), "--run", by_hand, "--tracking-uri", server.uri]
    assert main(command) == 0

    expected = contents(client, automatic)
    assert set(expected["tags"]) == {
        *("modelviz.class", "modelviz.fingerprint", "mlflow.note.content")
    }
    assert expected["metrics"]["modelviz.flops_per_sample"] > 0
    assert [(name, status) for name, status, _ in expected["models"]] == [("model", "READY")]
    assert contents(client, by_hand) == expected

    assert main(command) == 0  # and once more changes nothing
    assert contents(client, by_hand) == expected


def test_a_file_that_fails_keeps_no_tag_metric_or_description_away(
    store: Store, tmp_path: Path
) -> None:
    hook = train(tmp_path / "graphs", False)
    run_id = store.new_run()
    report = Report("net", str(tmp_path / "graphs"))
    analysis = Analysis(ModelGraph.load(tmp_path / "graphs/graph.json"))
    target = MlflowTarget(store.uri, run_id)
    with pytest.raises(TrackerError, match=r"could not upload 1 of \d+ files.*gone\.svg"):
        publish(target, report, analysis, ["gone.svg", *hook.report.files], 60.0)

    found = contents(store.client, run_id)
    assert len(found["files"]) == len(hook.report.files)
    assert len(found["tags"]) == 3
    assert len(found["metrics"]) == 5
    assert len(found["models"]) == 1
    assert report.mlflow_run_id == run_id


@pytest.mark.slow
def test_a_description_without_room_is_said_in_the_report(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    run_id = store.new_run()
    store.client.set_tag(run_id, "mlflow.note.content", "x" * 7990)
    with pytest.warns(ModelvizWarning, match="no room for the model's section"):
        hook = train(tmp_path / "graphs", run_id)

    assert [refusal.what for refusal in hook.report.refused] == ["the MLflow run"]
    found = contents(store.client, run_id)
    assert found["tags"]["mlflow.note.content"] == "x" * 7990
    assert len(found["metrics"]) == 5


def test_a_graph_that_cannot_be_read_keeps_no_file_from_an_upload_by_hand(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs/graph.json").write_text("{}")
    run_id = store.new_run()
    command = ["upload", str(tmp_path / "graphs"), "--run", run_id, "--tracking-uri", store.uri]
    assert main(command) == 1

    assert "graph.json" in capsys.readouterr().err
    assert contents(store.client, run_id)["files"] == ["model_graph/graph.json"]


@pytest.mark.slow
def test_a_run_gets_the_graph_of_a_later_step_that_is_another_one(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client = MlflowClient(server.uri)
    run_id = str(client.create_run("0").info.run_id)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    options: dict[str, Any] = {"formats": ["text"], "tensorboard": False, "onnx": False}
    with GraphHook(model, dirpath=tmp_path, mlflow=run_id, watch_changes=1, **options):
        model(torch.randn(3, 4)).sum().backward()
        model[0].weight.requires_grad_(False)
        model(torch.randn(3, 4)).sum().backward()
    found = contents(client, run_id)
    assert found["tags"]["modelviz.changes"].startswith("Step 1: the graph is another one than")
    assert {"model_graph/graph_step_1.json", "model_graph/changes.json"} <= {*found["files"]}
