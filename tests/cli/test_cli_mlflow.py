"""`modelviz upload` and `modelviz diff` with runs: real stores, a real server, bad days."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from modelviz_callbacks.cli import main
from modelviz_callbacks.cli.upload import files_in
from tests.mlflow_server import MlflowServer, free_port
from tests.networks import recorded
from tests.trackers.conftest import Store, empty_database, store

__all__ = ["empty_database", "store"]  # fixtures

PROGRAM = Path(sys.executable).parent / "modelviz"


def written(folder: Path, *layers: nn.Module) -> Path:
    """A folder as a run leaves it: a graph, a picture below, an event file, a half-made file."""
    (folder / "pictures").mkdir(parents=True)
    recorded(nn.Sequential(*layers), torch.zeros(2, 8)).save(folder / "graph.json")
    (folder / "pictures/graph.svg").write_text("<svg/>")
    (folder / "events.out.tfevents.1.host.2.0").write_bytes(b"events")
    (folder / ".part-0123.json").write_bytes(b"half")
    return folder


def artifacts(place: Store, run_id: str, path: str = "model_graph") -> set[str]:
    return {item.path for item in place.client.list_artifacts(run_id, path)}


def test_upload_puts_the_files_into_a_run_that_has_ended(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "net", nn.Linear(8, 4))
    run_id = store.new_run()
    store.client.set_terminated(run_id)
    assert main(["upload", str(folder), "--run", run_id, "--tracking-uri", store.uri]) == 0
    assert artifacts(store, run_id) == {"model_graph/graph.json", "model_graph/pictures"}
    assert artifacts(store, run_id, "model_graph/pictures") == {"model_graph/pictures/graph.svg"}
    assert store.client.get_run(run_id).info.status == "FINISHED"
    said = capsys.readouterr().out
    assert said.startswith(f"2 files of {folder}: MLflow run {run_id}")


@pytest.mark.slow
@pytest.mark.process
def test_upload_takes_the_store_from_the_environment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "log/model_graph", nn.Linear(8, 4))
    run_id = store.new_run()
    environment = os.environ | {"MLFLOW_TRACKING_URI": store.uri}
    command = [PROGRAM, "upload", folder.parent, "--run", f"runs:/{run_id}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "model_graph/graph.json" in artifacts(store, run_id)


def test_upload_says_what_is_wrong_and_ends_with_status_2(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "net", nn.Linear(8, 4))
    given = ["--run", "0" * 32, "--tracking-uri", store.uri]
    assert main(["upload", str(folder), *given]) == 2
    assert "Check the run id and the tracking URI" in capsys.readouterr().err
    assert main(["upload", str(tmp_path / "nowhere"), *given]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["upload", str(tmp_path / "empty"), *given]) == 2
    assert "has no files to upload" in capsys.readouterr().err


def test_upload_ends_with_status_1_if_only_some_files_arrive(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "net", nn.Linear(8, 4))
    run_id = store.new_run()
    # Where a file is to go there is a folder of that name already.
    place = tmp_path / "artifacts" / run_id / "artifacts/model_graph/graph.json"
    place.mkdir(parents=True)
    given = ["--run", run_id, "--tracking-uri", store.uri, "--timeout", "5"]
    status = main(["upload", str(folder), *given])
    if (place / "graph.json").exists():
        pytest.skip("this mlflow copies into the folder, which is no failure")
    assert status == 1
    said = capsys.readouterr().err
    assert "could not upload 1 of 2 files" in said
    assert "Arrived: pictures/graph.svg" in said


def test_a_server_that_is_away_costs_a_bounded_time_and_shows_no_credentials(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "net", nn.Linear(8, 4))
    uri = f"http://ann:s3cret-word@127.0.0.1:{free_port()}"
    status = main(
        ["upload", str(folder), "--run", "1" * 32, "--tracking-uri", uri, "--timeout", "2"]
    )
    assert status == 2
    said = capfd.readouterr()
    assert "Check that the server runs" in said.err
    assert "s3cret" not in said.err + said.out
    assert "ann" not in said.err + said.out


@pytest.mark.slow
def test_runs_on_a_server_are_compared_by_their_ids(
    server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    runs = [str(client.create_run("0").info.run_id) for _ in range(3)]
    uri = ["--tracking-uri", server.uri]
    for run_id, width in zip(runs, (10, 20), strict=False):
        folder = written(tmp_path / str(width), nn.Linear(8, width), nn.ReLU())
        assert main(["upload", str(folder), "--run", run_id, *uri]) == 0
    capsys.readouterr()
    assert main(["diff", runs[0], f"runs:/{runs[1]}", *uri]) == 1
    assert "~ 0: Linear(8 -> 10) became Linear(8 -> 20)" in capsys.readouterr().out
    assert main(["diff", runs[0], str(tmp_path / "10"), *uri]) == 0
    assert main(["diff", runs[0], runs[2], *uri]) == 2
    assert f"could not download model_graph/graph.json of MLflow run {runs[2]}" in (
        capsys.readouterr().err
    )
    assert main(["diff", runs[0], "f" * 32, *uri]) == 2
    assert "Check the run id" in capsys.readouterr().err


def test_hidden_files_and_event_files_stay_where_they_are(tmp_path: Path) -> None:
    folder = written(tmp_path / "net", nn.Linear(8, 4))
    assert sorted(files_in(folder)) == ["graph.json", "pictures/graph.svg"]
