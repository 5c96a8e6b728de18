"""Whatever a server does, training ends as if there were none, and nothing is lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from modelviz_callbacks import GraphHook, ModelGraph
from modelviz_callbacks.jobs.queue import QUEUE
from modelviz_callbacks.report import ModelvizWarning
from tests.mlflow_server import MlflowServer, Proxy, store_in_use
from tests.samples import one_and_the_rest_slow
from tests.waiting import PATIENCE_S, wait_for

FILES = {"graph.json", "graph.svg", "graph.txt", "backward.svg"}
WITHIN_S = PATIENCE_S
# Longer than anybody waits for a server that never answers (15 s), and than the first pauses
# between two tries (0.5 to 8 s).
LONG_S = 25


def train(
    folder: Path | None,
    uri: str = "",
    run_id: str = "",
) -> tuple[list[torch.Tensor], Any]:
    """A training whose weights tell whether anything disturbed it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    hook = None
    if folder is not None:
        with store_in_use(uri):
            hook = GraphHook(
                model,
                dirpath=folder,
                mlflow=run_id,
                formats=["svg", "text"],
                onnx=False,
                tensorboard=False,
            )
    for _ in range(50):
        optimizer.zero_grad()
        model(torch.randn(6, 4)).square().mean().backward()
        optimizer.step()
    worker = QUEUE.worker
    if hook is not None:
        hook.close()
    return [parameter.detach().clone() for parameter in model.parameters()], worker


def new_run(server: MlflowServer) -> str:
    return str(MlflowClient(server.uri).create_run("0").info.run_id)


def arrived(server: MlflowServer, run_id: str) -> set[str]:
    folders = list(server.artifacts.rglob(f"{run_id}/artifacts/model_graph"))
    return {path.name for folder in folders for path in folder.iterdir()}


@pytest.mark.parametrize("how", one_and_the_rest_slow(["500", "refuses", "hang", "dies half-way"]))
def test_a_bad_server_costs_one_warning_and_no_file(
    how: str,
    proxy: Proxy,
    server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker.UPLOAD_LIMIT_S", 5.0)
    run_id = new_run(server)
    undisturbed, _ = train(None)
    if how == "refuses":
        proxy.refuse()
    elif how == "dies half-way":
        proxy.dies_after_uploads = 1
    else:
        proxy.behaviour = how

    with pytest.warns(ModelvizWarning) as caught:
        weights, worker = train(tmp_path / "graphs", proxy.uri, run_id)
    if how == "dies half-way":
        wait_for(lambda: len(proxy.uploads()) > 1)
    worker.kill()
    assert all(torch.equal(a, b) for a, b in zip(weights, undisturbed, strict=True))
    assert len(caught) == 1
    assert "MLflow" in str(caught[0].message)
    assert {path.name for path in (tmp_path / "graphs").iterdir()} >= FILES
    assert ModelGraph.load(tmp_path / "graphs" / "graph.json").ops
    assert len(arrived(server, run_id)) == (1 if how == "dies half-way" else 0)


@pytest.mark.slow
def test_everything_arrives_by_itself_when_the_server_is_back_long_after_training(
    proxy: Proxy, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("WAIT_LIMIT_S", "UPLOAD_LIMIT_S"):
        monkeypatch.setattr(f"modelviz_callbacks.jobs.in_worker.{limit}", 5.0)
    run_id = new_run(server)
    proxy.refuse()
    began = time.monotonic()
    with pytest.warns(ModelvizWarning) as caught:
        _, worker = train(tmp_path / "graphs", proxy.uri, run_id)
    assert len(caught) == 1
    time.sleep(max(0.0, began + LONG_S - time.monotonic()))
    assert arrived(server, run_id) == set()
    proxy.accept()
    assert worker.wait(WITHIN_S)
    assert arrived(server, run_id) == {*FILES, "report.json"}
    tags = MlflowClient(server.uri).get_run(run_id).data.tags
    assert "modelviz.fingerprint" in tags
    assert "![Sequential]" in tags["mlflow.note.content"]
