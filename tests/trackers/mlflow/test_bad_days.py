"""What an MLflow server may do to us, and what it may not do to a training run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.tracking import log_recording
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.trackers.interface import MultiTracker, UploadError
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget
from modelviz_callbacks.trackers.mlflow.tracker import MlflowTracker
from tests.mlflow_server import MISBEHAVIOURS, MlflowServer, Proxy

NothingChanges = Callable[[], AbstractContextManager[None]]

# Far above what the deadlines below ask for, far below the minutes that MLflow takes by itself.
BOUND_S = 180
BAD = ["refuse", "500", "busy", "hang"]
ALL_BAD = ["refuse", "bad TLS", "deleted run", *MISBEHAVIOURS]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for number, name in enumerate(("a.svg", "b.txt", "c.onnx")):
        made[name] = tmp_path / name
        made[name].write_bytes(bytes([65 + number]) * 300_000)
    return made


@pytest.fixture
def run_id(server: MlflowServer) -> str:
    return str(MlflowClient(server.uri).create_run("0").info.run_id)


def misbehave(proxy: Proxy, how: str) -> None:
    if how == "refuse":
        proxy.refuse()
    else:
        proxy.behaviour = how


def arrived(server: MlflowServer, run_id: str) -> dict[str, bytes]:
    """What the server keeps for the run, read from its own folder."""
    folders = list(server.artifacts.rglob(f"{run_id}/artifacts/model_graph"))
    return {path.name: path.read_bytes() for folder in folders for path in folder.iterdir()}


def contents(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.alike
@pytest.mark.parametrize("how", BAD)
def test_a_bad_server_costs_a_bounded_time_and_one_error(
    proxy: Proxy,
    run_id: str,
    files: dict[str, Path],
    how: str,
    nothing_changes: NothingChanges,
    capfd: pytest.CaptureFixture[str],
) -> None:
    misbehave(proxy, how)
    uri = proxy.uri.replace("://", "://ann:secret-pw@")
    began = time.monotonic()
    with nothing_changes():
        tracker = MlflowTracker(MlflowTarget(uri, run_id), deadline_s=3, timeout_s=1)
        with pytest.raises(UploadError, match="then upload again") as raised:
            tracker.log_files(files)
        with pytest.raises(TrackerError, match="could not open MLflow run"):
            tracker.log_tags({"a": "b"})
        with pytest.raises(TrackerError, match="could not open MLflow run"):
            tracker.log_description("text")
        tracker.close()

    assert time.monotonic() - began < BOUND_S
    assert raised.value.missing == tuple(files)
    assert raised.value.arrived == ()
    assert "secret-pw" not in "".join(traceback.format_exception(raised.value))
    assert capfd.readouterr() == ("", "")


@pytest.mark.alike
@pytest.mark.parametrize("how", ALL_BAD)
def test_whatever_a_server_does_a_recording_costs_a_bounded_time_and_one_error(
    proxy: Proxy,
    server: MlflowServer,
    run_id: str,
    files: dict[str, Path],
    how: str,
    nothing_changes: NothingChanges,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = proxy.uri.replace("://", "://ann:s3cret-pw@")
    if how == "deleted run":
        MlflowClient(server.uri).delete_run(run_id)
    elif how == "bad TLS":
        uri = uri.replace("http:", "https:")
    else:
        misbehave(proxy, how)
    began = time.monotonic()
    target = MlflowTarget(uri, run_id)
    with nothing_changes():
        trackers = MultiTracker([MlflowTracker(target, deadline_s=3, timeout_s=1, tries=2)])
        log_recording(trackers, files, Analysis(ModelGraph("net", "Net")))
    error = trackers.error()

    assert time.monotonic() - began < BOUND_S
    assert error is not None
    assert run_id in str(error)
    assert len(str(error)) < 3000
    assert "s3cret-pw" not in "".join(traceback.format_exception(error))
    assert capfd.readouterr() == ("", "")


@pytest.mark.alike
@pytest.mark.parametrize("how", ["refuse", "500", "busy"])
def test_a_bad_server_is_given_up_after_two_tries_where_no_more_are_asked_for(
    proxy: Proxy, run_id: str, how: str
) -> None:
    misbehave(proxy, how)
    tracker = MlflowTracker(MlflowTarget(proxy.uri, run_id), deadline_s=60, timeout_s=2, tries=2)
    with pytest.raises(TrackerError, match="could not open"):
        tracker.open()

    assert len(proxy.requests) == (0 if how == "refuse" else 2)


@pytest.mark.alike
@pytest.mark.parametrize("how", ["refuse", "500", "busy"])
def test_a_server_that_goes_bad_is_tried_with_every_file(
    proxy: Proxy, run_id: str, files: dict[str, Path], how: str
) -> None:
    began = time.monotonic()
    tracker = MlflowTracker(MlflowTarget(proxy.uri, run_id), deadline_s=5, timeout_s=1)
    tracker.log_files({"first.svg": files["a.svg"]})
    proxy.requests.clear()
    misbehave(proxy, how)
    with pytest.raises(UploadError) as raised:
        tracker.log_files(files)

    assert time.monotonic() - began < BOUND_S
    assert raised.value.missing == tuple(files)
    assert all(f"{name}: " in str(raised.value) for name in files)
    if how != "refuse":
        assert {Path(path).name for path in proxy.uploads()} == set(files)


@pytest.mark.slow
def test_a_server_that_begins_to_hang_is_given_its_full_time_only_once_a_round(
    proxy: Proxy, run_id: str, files: dict[str, Path]
) -> None:
    tracker = MlflowTracker(MlflowTarget(proxy.uri, run_id), deadline_s=8, timeout_s=4)
    tracker.log_files({"first.svg": files["a.svg"]})
    proxy.requests.clear()
    proxy.behaviour = "hang"
    with pytest.raises(UploadError) as raised:
        tracker.log_files(files)

    assert raised.value.missing == tuple(files)
    assert {Path(path).name for path in proxy.uploads()} == set(files)


def test_a_server_that_asks_to_be_left_alone_for_an_hour_is_not_waited_for(
    proxy: Proxy, run_id: str
) -> None:
    proxy.behaviour = "busy"
    tracker = MlflowTracker(
        MlflowTarget(proxy.uri, run_id), deadline_s=4, timeout_s=2, max_retries=1
    )
    with pytest.raises(TrackerError, match="503"):
        tracker.log_tags({"a": "b"})

    assert len(proxy.requests) >= 2


def test_a_server_that_dies_half_way_leaves_the_rest_to_be_uploaded_later(
    server: MlflowServer, proxy: Proxy, run_id: str, files: dict[str, Path]
) -> None:
    proxy.dies_after_uploads = 1
    target = MlflowTarget(proxy.uri, run_id)
    with pytest.raises(UploadError, match=r"could not upload 2 of 3.*Arrived: a\.svg\.") as raised:
        MlflowTracker(target, deadline_s=3).log_files(files)

    assert raised.value.arrived == ("a.svg",)
    assert raised.value.missing == ("b.txt", "c.onnx")
    assert arrived(server, run_id) == {"a.svg": files["a.svg"].read_bytes()}

    proxy.recover_after(0)
    MlflowTracker(target).log_files({name: files[name] for name in raised.value.missing})
    assert arrived(server, run_id) == contents(files)


@pytest.mark.alike
@pytest.mark.parametrize("how", ["dies half-way", "refuse", "500"])
def test_everything_arrives_by_itself_when_the_server_comes_back_in_time(
    server: MlflowServer, proxy: Proxy, run_id: str, files: dict[str, Path], how: str
) -> None:
    if how == "dies half-way":
        proxy.dies_after_uploads = 1
    else:
        misbehave(proxy, how)
    proxy.recover_after(3)
    MlflowTracker(MlflowTarget(proxy.uri, run_id), deadline_s=120).log_files(files)

    assert arrived(server, run_id) == contents(files)


def test_a_new_run_is_started_once_however_long_the_server_takes_to_come_back(
    server: MlflowServer, proxy: Proxy, files: dict[str, Path]
) -> None:
    proxy.behaviour = "500"
    proxy.recover_after(3)
    target = MlflowTarget(proxy.uri, experiment_name="comes back")
    tracker = MlflowTracker(target, deadline_s=120)
    tracker.log_files(files)
    tracker.close()

    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("comes back")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id for run in found] == [tracker.run_id]


def test_a_run_that_a_server_does_not_have_is_asked_for_once(
    proxy: Proxy, files: dict[str, Path]
) -> None:
    with pytest.raises(UploadError, match="Check the run id"):
        MlflowTracker(MlflowTarget(proxy.uri, "0" * 32)).log_files(files)

    assert len(proxy.requests) == 1


def test_a_new_run_that_cannot_be_ended_is_said_so(proxy: Proxy) -> None:
    tracker = MlflowTracker(MlflowTarget(proxy.uri), deadline_s=30, timeout_s=2)
    run_id = tracker.run_id
    proxy.refuse()

    with pytest.raises(TrackerError, match=f"could not end MLflow run {run_id}"):
        tracker.close()
