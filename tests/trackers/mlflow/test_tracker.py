from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.interface import UploadError
from modelviz_callbacks.trackers.mlflow.calls import CallFailed
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget, find_target
from modelviz_callbacks.trackers.mlflow.tracker import MlflowTracker
from tests.mlflow_server import MlflowServer
from tests.trackers.conftest import Store

NothingChanges = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "made"
    folder.mkdir()
    made = {"graph.svg": b"<svg/>", "graph.txt": b"the tree", "graph.onnx": bytes(range(256)) * 400}
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in made}


def artifacts(client: MlflowClient, run_id: str, folder: Path) -> dict[str, bytes]:
    """What the run holds under model_graph/, downloaded."""
    folder.mkdir(exist_ok=True)
    root = Path(client.download_artifacts(run_id, "model_graph", str(folder)))
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def contents(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


def test_files_arrive_in_the_active_run_and_nothing_of_the_user_s_changes(
    fluent: Store,
    files: dict[str, Path],
    tmp_path: Path,
    nothing_changes: NothingChanges,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with mlflow.start_run() as run, nothing_changes():
        target = find_target(None)
        assert target is not None
        tracker = MlflowTracker(target)
        tracker.log_files(files)
        where = tracker.place
        tracker.log_tags({"modelviz.class": "Net"})
        tracker.close()

    assert capfd.readouterr() == ("", "")
    assert run.info.run_id in where
    assert artifacts(fluent.client, run.info.run_id, tmp_path / "got") == contents(files)


def test_a_run_of_the_user_is_still_running_after_close(fluent: Store) -> None:
    with mlflow.start_run() as run:
        tracker = MlflowTracker(MlflowTarget(fluent.uri, run.info.run_id))
        tracker.log_tags({"a": "b"})
        tracker.close()
        assert fluent.client.get_run(run.info.run_id).info.status == "RUNNING"


def test_files_arrive_in_the_inner_of_two_nested_runs(
    fluent: Store, files: dict[str, Path], tmp_path: Path, nothing_changes: NothingChanges
) -> None:
    with mlflow.start_run() as outer, mlflow.start_run(nested=True) as inner, nothing_changes():
        target = find_target(None)
        assert target is not None
        MlflowTracker(target).log_files(files)

    assert artifacts(fluent.client, inner.info.run_id, tmp_path / "got") == contents(files)
    assert fluent.client.list_artifacts(outer.info.run_id) == []


def test_a_finished_run_takes_everything_and_stays_finished(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    run_id = store.new_run()
    store.client.set_terminated(run_id, "FAILED")
    tracker = MlflowTracker(MlflowTarget(store.uri, run_id))

    tracker.log_files(files)
    tracker.log_tags({"modelviz.class": "Net"})
    tracker.log_metrics({"modelviz.parameters": 12})
    tracker.log_description("A model.")
    tracker.close()

    run = store.client.get_run(run_id)
    assert artifacts(store.client, run_id, tmp_path / "got") == contents(files)
    assert run.info.status == "FAILED"
    assert run.data.tags["modelviz.class"] == "Net"
    assert run.data.metrics == {"modelviz.parameters": 12.0}


def test_a_new_run_is_started_where_there_is_none_and_ended_by_close(
    fluent: Store,
    files: dict[str, Path],
    tmp_path: Path,
    nothing_changes: NothingChanges,
    capfd: pytest.CaptureFixture[str],
) -> None:
    target = find_target(True)
    assert target is not None
    with nothing_changes():
        tracker = MlflowTracker(target, run_name="digits")
        tracker.log_files(files)
        running = fluent.client.get_run(tracker.run_id)
        tracker.close()
        tracker.close()

    assert capfd.readouterr() == ("", "")
    ended = fluent.client.get_run(tracker.run_id)
    assert (running.info.status, ended.info.status) == ("RUNNING", "FINISHED")
    assert ended.info.end_time is not None
    assert ended.info.run_name == "digits"
    assert ended.info.experiment_id == fluent.experiment_id
    assert ended.data.tags["mlflow.user"]
    assert artifacts(fluent.client, tracker.run_id, tmp_path / "got") == contents(files)


def test_nothing_is_started_by_a_tracker_that_is_not_used(store: Store) -> None:
    MlflowTracker(MlflowTarget(store.uri, experiment_id=store.experiment_id)).close()

    assert store.client.search_runs([store.experiment_id]) == []


def test_a_store_named_by_its_uri_gets_a_new_run_in_an_experiment_made_for_it(
    store: Store, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "not there yet")
    target = find_target(store.uri)
    assert target is not None
    tracker = MlflowTracker(target)
    tracker.log_files(files)
    tracker.close()

    experiment = store.client.get_experiment_by_name("not there yet")
    assert experiment is not None
    assert [r.info.run_id for r in store.client.search_runs([experiment.experiment_id])] == [
        tracker.run_id
    ]


def test_a_file_may_have_another_name_in_the_run_than_on_disk(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    run_id = store.new_run()
    MlflowTracker(MlflowTarget(store.uri, run_id)).log_files(
        {"pictures/generator.svg": files["graph.svg"], "tree.txt": files["graph.txt"]}
    )

    assert artifacts(store.client, run_id, tmp_path / "got") == {
        "pictures/generator.svg": b"<svg/>",
        "tree.txt": b"the tree",
    }


def test_an_odd_name_is_refused_and_keeps_no_other_file_away(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    run_id = store.new_run()
    with pytest.raises(UploadError, match=r"cannot store a file as '\.\./graph\.svg'") as raised:
        MlflowTracker(MlflowTarget(store.uri, run_id)).log_files(
            {"../graph.svg": files["graph.svg"], "graph.txt": files["graph.txt"]}
        )

    assert raised.value.arrived == ("graph.txt",)
    assert artifacts(store.client, run_id, tmp_path / "got") == {"graph.txt": b"the tree"}


def test_a_file_that_is_not_there_does_not_keep_the_others_away(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    run_id = store.new_run()
    asked = {"gone.svg": tmp_path / "gone.svg", "renamed.svg": tmp_path / "gone.svg", **files}
    with pytest.raises(UploadError, match=r"could not upload 2 of 5 files.*gone\.svg") as raised:
        MlflowTracker(MlflowTarget(store.uri, run_id)).log_files(asked)

    assert raised.value.missing == ("gone.svg", "renamed.svg")
    assert raised.value.arrived == tuple(files)
    assert artifacts(store.client, run_id, tmp_path / "got") == contents(files)


def test_a_run_that_does_not_exist_says_which_and_what_to_check(
    store: Store, files: dict[str, Path]
) -> None:
    tracker = MlflowTracker(MlflowTarget(store.uri, "0123456789abcdef"))
    with pytest.raises(UploadError, match=r"run 0123456789abcdef in .*Check the run id") as raised:
        tracker.log_files(files)
    with pytest.raises(TrackerError, match="Check the run id"):
        tracker.log_tags({"a": "b"})

    assert raised.value.arrived == ()
    assert raised.value.missing == tuple(files)


def test_a_deleted_run_is_refused(store: Store, files: dict[str, Path]) -> None:
    run_id = store.new_run()
    store.client.delete_run(run_id)

    with pytest.raises(UploadError, match="the run is deleted"):
        MlflowTracker(MlflowTarget(store.uri, run_id)).log_files(files)


def test_a_tag_longer_than_mlflow_keeps_is_cut(store: Store) -> None:
    run_id = store.new_run()
    MlflowTracker(MlflowTarget(store.uri, run_id)).log_tags({"long": "x" * 9000, "number": 5})

    tags = store.client.get_run(run_id).data.tags
    assert tags["long"] == "x" * 8000
    assert tags["number"] == "5"


def test_runs_are_found_again_by_their_tags_and_metrics(store: Store) -> None:
    for fingerprint, parameters in (("aa", 10), ("aa", 10), ("bb", 11)):
        tracker = MlflowTracker(MlflowTarget(store.uri, store.new_run()))
        tracker.log_tags({"modelviz.fingerprint": fingerprint})
        tracker.log_metrics({"modelviz.parameters": parameters})

    def found(query: str) -> int:
        return len(store.client.search_runs([store.experiment_id], query))

    assert found("tags.`modelviz.fingerprint` = 'aa'") == 2
    assert found("metrics.`modelviz.parameters` > 10") == 1


def test_the_description_keeps_the_user_s_text_and_gets_our_section_once(store: Store) -> None:
    run_id = store.new_run()
    store.client.set_tag(run_id, "mlflow.note.content", "My notes.\n\n* one")

    for number in (1, 2):
        # A new tracker each time: what is known about the section is in the description alone.
        tracker = MlflowTracker(MlflowTarget(store.uri, run_id))
        tracker.log_description(f"![model](artifact:model_graph/graph.svg) {number}")

    note = store.client.get_run(run_id).data.tags["mlflow.note.content"]
    link = f"get-artifact?path=model_graph%2Fgraph.svg&run_uuid={run_id}"
    assert note.startswith("My notes.\n\n* one")
    assert note.count(f"![model]({link}) 2") == 1
    assert " 1" not in note


def test_a_description_that_is_full_says_so(store: Store) -> None:
    run_id = store.new_run()
    store.client.set_tag(run_id, "mlflow.note.content", "x" * 7990)
    with pytest.raises(TrackerError, match="no room for the model's section"):
        MlflowTracker(MlflowTarget(store.uri, run_id)).log_description("A model.")

    assert store.client.get_run(run_id).data.tags["mlflow.note.content"] == "x" * 7990


def test_a_server_with_proxied_artifacts_takes_everything(
    server: MlflowServer, files: dict[str, Path], tmp_path: Path, nothing_changes: NothingChanges
) -> None:
    with nothing_changes():
        tracker = MlflowTracker(MlflowTarget(server.uri, experiment_name="proxied"), deadline_s=120)
        tracker.log_files(files)
        where = tracker.place
        tracker.log_tags({"modelviz.class": "Net"})
        tracker.log_description("A model.")
        tracker.close()

    client = MlflowClient(server.uri)
    run = client.get_run(tracker.run_id)
    assert where.startswith(f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert artifacts(client, tracker.run_id, tmp_path / "got") == contents(files)
    assert run.data.tags["modelviz.class"] == "Net"
    assert run.info.status == "FINISHED"
    (kept,) = server.artifacts.rglob(f"{tracker.run_id}/artifacts/model_graph/graph.svg")
    assert kept.read_bytes() == b"<svg/>"


@pytest.mark.slow
@pytest.mark.process
def test_an_autologged_run_is_found_during_fit_and_takes_files_after_it(
    store: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    script = """
        import sys
        from pathlib import Path
        import lightning.pytorch as pl, mlflow, torch
        from modelviz_callbacks.trackers.mlflow.target import find_target
        from modelviz_callbacks.trackers.mlflow.tracker import MlflowTracker

        class Model(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(2, 1)
            def training_step(self, batch, index):
                return self.layer(batch[0]).sum()
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        class Finds(pl.Callback):
            def on_train_batch_start(self, *args):
                self.target = find_target(None)

        finds = Finds()
        mlflow.pytorch.autolog(log_models=False)
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 2)))
        trainer = pl.Trainer(max_epochs=1, logger=False, callbacks=[finds], accelerator="cpu",
                             enable_checkpointing=False, enable_progress_bar=False)
        trainer.fit(Model(), data)
        assert mlflow.active_run() is None and find_target(None) is None
        assert finds.target.run_id == mlflow.last_active_run().info.run_id
        MlflowTracker(finds.target).log_files({"graph.txt": Path(sys.argv[1])})
        print("run", finds.target.run_id)
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_EXPERIMENT_ID": store.experiment_id,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(files["graph.txt"])],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.split()[-1]
    assert artifacts(store.client, run_id, tmp_path / "got") == {"graph.txt": b"the tree"}
    assert store.client.get_run(run_id).data.params["epochs"] == "1"


@pytest.mark.parametrize(
    ("is_skinny", "advice"), [(True, "pip install mlflow."), (False, "correct")]
)
def test_a_store_that_the_client_alone_cannot_open_is_told_with_what_brings_it(
    is_skinny: bool, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "mlflow" and is_skinny:
            raise importlib.metadata.PackageNotFoundError(name)
        return "3.17.2"

    monkeypatch.setattr(importlib.metadata, "version", version)
    reason = (
        "Model registry functionality is unavailable; got unsupported URI 'sqlite:///mlflow.db' "
        "for model registry data storage."
    )
    target = MlflowTarget("http://127.0.0.1:9")
    tracker = MlflowTracker(target, deadline_s=1.0)

    def refused(*_: object, **__: object) -> None:
        raise CallFailed(reason, lasting=True)

    monkeypatch.setattr(tracker._caller, "once", refused)
    with pytest.raises(TrackerError, match=advice):
        tracker.open()
