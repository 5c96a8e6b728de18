"""What is uploaded in place goes through a process of its own, which is gone afterwards."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.jobs import upload_process
from modelviz_callbacks.jobs.upload_process import _SILENCE_LIMIT_S, Patience, upload
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from modelviz_callbacks.trackers.mlflow.tracker import MlflowTracker
from tests.mlflow_server import free_port
from tests.trackers.conftest import Store, empty_database, store

__all__ = ["empty_database", "store"]  # fixtures


@pytest.fixture
def report(tmp_path: Path) -> Report:
    folder = tmp_path / "graphs"
    folder.mkdir()
    ModelGraph("net", "Net").save(folder / "graph.json")
    return Report("net", str(folder), files=["graph.json"])


def test_everything_arrives_and_the_report_says_where(store: Store, report: Report) -> None:
    target = MlflowTarget(store.uri, experiment_id=store.experiment_id)
    upload(target, report, ["graph.json"], 60.0)

    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.run_id == report.mlflow_run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "net")
    assert run.data.tags["modelviz.class"] == "Net"
    assert "modelviz.parameters" in run.data.metrics
    assert [line.partition(":")[0] for line in report.stored] == ["MLflow"]


@pytest.mark.slow
def test_the_environment_is_never_touched_also_by_two_threads_at_once(
    store: Store, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(type(os.environ), "__setitem__", lambda _, key, value: written.append(key))
    targets = [MlflowTarget(store.uri, store.new_run()) for _ in range(2)]
    threads = [
        threading.Thread(target=upload, args=(target, report, ["graph.json"], 60.0))
        for target in targets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert written == []
    for target in targets:
        assert target.run_id is not None
        assert "modelviz.class" in store.client.get_run(target.run_id).data.tags


@pytest.mark.slow
def test_a_server_that_is_away_is_one_error_without_credentials(report: Report) -> None:
    target = MlflowTarget(f"http://ann:s3cret-pw@127.0.0.1:{free_port()}", "0" * 32)
    with pytest.raises(TrackerError, match="Check that the server runs") as raised:
        upload(target, report, ["graph.json"], 60.0)

    assert "s3cret" not in str(raised.value)
    assert "ann" not in str(raised.value)


@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "raise SystemExit(3)"])
def test_a_process_that_hangs_or_fails_is_one_error(
    report: Report, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(upload_process, "_start_code", lambda: code)
    monkeypatch.setattr(upload_process, "_START_LIMIT_S", 0.5)
    with pytest.raises(TrackerError, match="What was written to disk stays there"):
        upload(MlflowTarget("http://ann:pw@127.0.0.1:9", "0" * 32), report, ["graph.json"], 0.5)


def test_a_server_that_never_answers_gets_little_time_and_one_that_does_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    patience = Patience(30.0)
    tracker = MlflowTracker(
        MlflowTarget("http://127.0.0.1:9", "0" * 32),
        deadline_s=patience.remaining_s,
        heard=patience.heard,
    )
    assert tracker.client is not None
    assert patience.remaining_s() == _SILENCE_LIMIT_S
    now += 12.0
    patience.heard(False, None)
    assert patience.remaining_s() == _SILENCE_LIMIT_S
    patience.heard(True, None)
    assert patience.remaining_s() == 18.0
    now += 16.0
    assert patience.remaining_s() == 2.0


def test_a_program_that_is_no_interpreter_uploads_by_itself(
    store: Store, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    run_id = store.new_run()
    upload(MlflowTarget(store.uri, run_id), report, ["graph.json"], 60.0)

    assert "modelviz.class" in store.client.get_run(run_id).data.tags
