"""Runs that belong to the training process: W&B, ClearML, a function of the user's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from wandb.proto import wandb_internal_pb2

from modelviz_callbacks import GraphHook
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.jobs.live_upload import log_to
from tests.integrations.seen import IN_PLACE, graph_of, net
from tests.samples import one_and_the_rest_slow
from tests.trackers.conftest import Store
from tests.waiting import wait_for

FORMATS = IN_PLACE | {"formats": ["text", "html"], "tensorboard": False}


def recorded(folder: Path, **options: Any) -> GraphHook:
    hook = GraphHook(model := net(), dirpath=folder / "graph", **FORMATS | options)
    model(torch.randn(2, 4)).sum().backward()
    hook.close()
    return hook


_BLOCK = 32768
_FULL, _LAST = 1, 4


def records_of(folder: Path) -> Iterator[Any]:
    """What an offline run of W&B keeps to be synchronised later: a log in LevelDB's format."""
    (path,) = folder.glob("run-*.wandb")
    content, at, begun = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        begun += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (_FULL, _LAST):
            yield wandb_internal_pb2.Record.FromString(begun)
            begun = b""


def test_the_open_run_of_wandb_gets_files_page_summary_and_config(
    tmp_path: Path, wandb_run: Any
) -> None:
    wandb_run.log({"loss": 1.0})
    step = wandb_run.step
    hook = recorded(tmp_path)
    graph = graph_of(hook.report)
    assert wandb_run.step == step
    wandb_run.log({"loss": 2.0})
    assert wandb_run.summary["modelviz/parameters"] == graph.parameter_count
    assert wandb_run.config["modelviz/class"].endswith("Net")
    assert len(wandb_run.config["modelviz/fingerprint"]) > 8
    assert any(place.startswith("W&B: ") for place in hook.report.stored)
    kept = Path(wandb_run.dir) / "model_graph"
    assert {"graph.json", "graph.txt", "index.html"} <= {path.name for path in kept.iterdir()}
    wandb_run.finish()
    folder = Path(wandb_run.dir).parent
    wait_for(lambda: any(record.HasField("exit") for record in records_of(folder)))
    history: dict[str, Any] = {}
    files = set()
    for record in records_of(folder):
        files |= {item.path for item in record.files.files}
        for item in record.history.item:
            history["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert "model_graph/graph.txt" in files
    assert history["modelviz/page/_type"] == "html-file"
    assert history["loss"] == 2.0


def test_a_run_of_wandb_that_was_finished_is_said_and_the_files_are_there(
    tmp_path: Path, wandb_run: Any
) -> None:
    wandb_run.finish()
    hook = recorded(tmp_path, tracker=wandb_run)
    (refusal,) = hook.report.refused
    assert "before wandb.finish()" in refusal.why
    assert (tmp_path / "graph" / "graph.txt").exists()


def test_no_run_is_touched_if_none_is_wanted(tmp_path: Path, wandb_run: Any) -> None:
    hook = recorded(tmp_path, tracker=False)
    assert hook.report.stored == []
    assert "modelviz/parameters" not in dict(wandb_run.summary)


WITH_CLEARML = """
import json, os, sys
import torch
from clearml import Task
from modelviz_callbacks import GraphHook
from modelviz_callbacks.trackers.registry import make_tracker
from tests.samples import one_and_the_rest_slow
Task.set_offline(True)
open("requirements.txt", "w").close()  # ClearML would look for what is imported, for half a minute
Task.force_requirements_env_freeze(True, "requirements.txt")
task = Task.init("tests", "net", auto_connect_frameworks=False, auto_connect_streams=False)
model = torch.nn.Linear(4, 2)
hook = GraphHook(model, dirpath="graph", tensorboard=False, onnx=False, formats=["text"],
                 background=False)
model(torch.randn(2, 4)).sum().backward()
hook.close()
tracker = make_tracker("clearml", task, "net", 1.0)
tracker.open()
tracker.close()
tracker.close()
task.flush(wait_for_uploads=True)
told = {"refused": [r.why for r in hook.report.refused], "stored": hook.report.stored,
        "artifacts": sorted(task.artifacts), "folder": str(task.get_offline_mode_folder())}
print(json.dumps(told), flush=True)
os._exit(0)  # to close a task takes ClearML ten seconds
"""


@pytest.mark.slow
@pytest.mark.process
def test_the_open_task_of_clearml_gets_files_and_figures(tmp_path: Path) -> None:
    environment = {**os.environ, "CLEARML_CACHE_DIR": str(tmp_path), "CLEARML_OFFLINE_MODE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", WITH_CLEARML]
    # What ClearML starts lives on for half a minute, with the output open: no pipe, and it ends.
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            assert process.wait(timeout=120) == 0, (tmp_path / "said").read_text()[-3000:]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    lines = (tmp_path / "said").read_text().splitlines()
    told = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    assert told["refused"] == []
    assert told["stored"][0].startswith("ClearML: offline-")
    assert "model_graph/graph.txt" in told["artifacts"]
    reported = (Path(told["folder"]) / "metrics.jsonl").read_text()
    assert "modelviz.parameters" in reported


def test_a_function_is_called_once_with_the_files_and_the_figures(tmp_path: Path) -> None:
    calls: list[tuple[dict[str, Path], dict[str, Any]]] = []

    def keep(files: dict[str, Path], figures: dict[str, Any]) -> None:
        calls.append((files, figures))

    hook = recorded(tmp_path, tracker=keep)
    ((files, figures),) = calls
    assert files["graph.txt"] == tmp_path / "graph" / "graph.txt"
    assert all(path.is_file() for path in files.values())
    assert figures["modelviz.parameters"] == graph_of(hook.report).parameter_count
    assert figures["modelviz.class"].endswith("Net")
    assert hook.report.stored == ["keep: keep(files, figures)"]


@pytest.mark.process
def test_a_function_gets_the_files_that_the_worker_made(tmp_path: Path) -> None:
    seen: list[str] = []
    recorded(tmp_path, tracker=lambda files, _: seen.extend(files), background=True)
    assert {"graph.json", "graph.txt", "index.html", "report.json"} <= set(seen)


@pytest.mark.parametrize("background", [False, pytest.param(True, marks=pytest.mark.process)])
def test_a_remote_folder_gets_all_files(
    background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"memory://{tmp_path.name}-{background}/graph"
    options = FORMATS | {"dirpath": url, "background": background}
    hook = GraphHook(model := net(), **options)
    model(torch.randn(2, 4)).sum().backward()
    hook.close()
    graph_of(hook.report)
    assert Path(hook.report.folder) == tmp_path / "model_graph" / "Net"
    assert f"folder: {url}" in hook.report.stored
    system = fsspec.filesystem("memory")
    there = {Path(name).name for name in system.ls(f"/{tmp_path.name}-{background}/graph", False)}
    assert {"graph.json", "graph.txt", "index.html", "report.json"} <= there
    assert [path.name for path in tmp_path.iterdir()] == ["model_graph"]


def test_where_no_thread_begins_any_more_as_at_the_end_of_a_program_files_are_sent_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    folder = f"memory://{tmp_path.name}/ends"
    hook = GraphHook(model := net(), dirpath=tmp_path / "graph", tracker=False, **FORMATS)
    model(torch.randn(2, 4)).sum().backward()
    hook.close()
    monkeypatch.setattr(threading.Thread, "start", refuses)
    log_to(folder, hook.report)
    assert fsspec.filesystem("memory").glob(f"{folder}/**/graph.txt")


def test_a_remote_folder_that_cannot_be_reached_costs_a_line_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hook = GraphHook(model := net(), **FORMATS | {"dirpath": "nowhere://u:secret@host/graph"})
    model(torch.randn(2, 4)).sum().backward()
    hook.close()
    (refusal,) = hook.report.refused
    assert "nowhere" in refusal.why
    assert "secret" not in refusal.why
    assert "graph.txt" in hook.report.files


def test_a_function_that_fails_costs_a_line_of_the_report(tmp_path: Path) -> None:
    def fails(files: Any, figures: Any) -> None:
        raise RuntimeError("no route to the archive")

    hook = recorded(tmp_path, tracker=[fails])
    (refusal,) = hook.report.refused
    assert "no route to the archive" in refusal.why
    assert "no route" in (tmp_path / "graph" / "report.json").read_text()


@pytest.mark.parametrize("odd", [3, "wandb", None, [object()]])
def test_what_is_no_tracker_is_refused_at_once(odd: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="tracker"):
        GraphHook(net(), tracker=odd, dirpath=tmp_path)


# --- runs that are begun after the hook


@pytest.mark.process
@pytest.mark.parametrize("background", one_and_the_rest_slow([True, False]))
def test_an_mlflow_run_that_is_begun_inside_the_hook_is_found(
    background: bool, tmp_path: Path, fluent: Store
) -> None:
    import mlflow

    model = net()
    options = FORMATS | {"formats": ["text"], "background": background}
    with GraphHook(model, dirpath=tmp_path / "graph", **options) as hook:  # noqa: SIM117
        with mlflow.start_run() as run:
            model(torch.randn(2, 4)).sum().backward()
    graph_of(hook.report)
    assert hook.report.mlflow_run_id == run.info.run_id
    stored = {item.path for item in fluent.client.list_artifacts(run.info.run_id, "model_graph")}
    assert "model_graph/graph.txt" in stored


@pytest.mark.process
@pytest.mark.parametrize("background", one_and_the_rest_slow([True, False]))
def test_an_mlflow_run_that_is_begun_after_the_first_forward_is_found_at_the_end(
    background: bool, tmp_path: Path, fluent: Store
) -> None:
    import mlflow

    options = FORMATS | {"formats": ["text"], "background": background}
    hook = GraphHook(model := net(), dirpath=tmp_path / "graph", **options)
    model(torch.randn(2, 4)).sum().backward()
    with mlflow.start_run() as run:
        hook.close()
    graph_of(hook.report)
    stored = {item.path for item in fluent.client.list_artifacts(run.info.run_id, "model_graph")}
    assert "model_graph/graph.txt" in stored
    assert fluent.client.get_run(run.info.run_id).data.tags["modelviz.class"].endswith("Net")
