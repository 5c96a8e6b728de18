from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.mlflow_server import MlflowServer, Proxy, misbehaving_proxy


@dataclass(frozen=True)
class Store:
    """An embedded MLflow store: its URI, a client of it, and an experiment with its own folder."""

    uri: str
    client: MlflowClient
    experiment_id: str

    def new_run(self) -> str:
        return str(self.client.create_run(self.experiment_id).info.run_id)


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[Proxy]:
    with misbehaving_proxy(server.port) as in_front:
        yield in_front


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: making one takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow_template")
    before = Path.cwd()
    # The default experiment keeps its artifacts below the working directory of this moment.
    os.chdir(folder)
    try:
        MlflowClient(f"sqlite:///{folder}/empty.db").get_experiment("0")
    finally:
        os.chdir(before)
    return folder / "empty.db"


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    # Where a store keeps the artifacts of experiments that do not say.
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    folder = (tmp_path / "artifacts").as_uri()
    return Store(uri, client, client.create_experiment("work", artifact_location=folder))


@pytest.fixture
def fluent(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """MLflow's own current store and experiment are the test's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", store.experiment_id)
    mlflow.set_tracking_uri(store.uri)
    return store


@pytest.fixture
def nothing_changes() -> Callable[[], AbstractContextManager[None]]:
    """What belongs to the user's process is the same after the block as before it."""

    def now() -> dict[str, object]:
        active = mlflow.active_run()
        environment = dict(os.environ)
        environment.pop("PYTEST_CURRENT_TEST", None)
        return {
            "environment": environment,
            "tracking uri": mlflow.get_tracking_uri(),
            "registry uri": mlflow.get_registry_uri(),
            "active run": active.info.run_id if active else None,
            "active model": mlflow.get_active_model_id(),
            "folder": Path.cwd(),
        }

    @contextmanager
    def unchanged() -> Iterator[None]:
        before = now()
        yield
        assert now() == before

    return unchanged
