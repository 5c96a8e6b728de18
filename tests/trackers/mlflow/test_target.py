from __future__ import annotations

import subprocess
import sys
import textwrap

import mlflow
import pytest

from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget, find_target
from tests.trackers.conftest import Store


def run_of(target: MlflowTarget | None) -> str | None:
    assert target is not None
    return target.run_id


def test_no_run_is_meant_without_a_logger_and_without_an_active_run(fluent: Store) -> None:
    assert find_target(None) is None


def test_the_active_run_is_meant(fluent: Store) -> None:
    with mlflow.start_run() as run:
        expected = MlflowTarget(fluent.uri, run.info.run_id)
        assert find_target(None) == expected
        assert find_target(True) == expected


def test_the_inner_of_two_nested_runs_is_meant(fluent: Store) -> None:
    with mlflow.start_run() as outer:
        with mlflow.start_run(nested=True) as inner:
            assert run_of(find_target(None)) == inner.info.run_id
        assert run_of(find_target(None)) == outer.info.run_id


@pytest.mark.parametrize("option", [None, True])
def test_the_logger_s_run_comes_before_the_active_one(fluent: Store, option: bool | None) -> None:
    with mlflow.start_run():
        target = find_target(option, logger_uri="http://logger:1", logger_run_id="abc")

    assert target == MlflowTarget("http://logger:1", "abc")


def test_false_means_no_run_even_where_there_is_one(fluent: Store) -> None:
    with mlflow.start_run():
        assert find_target(False, logger_uri="http://logger:1", logger_run_id="abc") is None


def test_true_means_a_new_run_in_the_current_experiment_where_there_is_none(fluent: Store) -> None:
    expected = MlflowTarget(fluent.uri, None, experiment_id=fluent.experiment_id)
    assert find_target(True) == expected


def test_true_means_the_run_that_the_environment_names(
    fluent: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "from-outside")

    assert run_of(find_target(True)) == "from-outside"
    assert find_target(None) is None


def test_a_run_id_is_looked_for_in_the_logger_s_store_or_the_current_one(fluent: Store) -> None:
    assert find_target("abc123") == MlflowTarget(fluent.uri, "abc123")
    assert find_target("abc123", logger_uri="http://l:1") == MlflowTarget("http://l:1", "abc123")


@pytest.mark.parametrize(
    "uri",
    [
        *("http://127.0.0.1:5000", "https://ann:pw@mlflow.example", "sqlite:///mlflow.db"),
        *("databricks", "databricks://profile", "postgresql://ann@db/mlflow", "file:///tmp/runs"),
    ],
)
def test_a_uri_means_a_new_run_there(
    fluent: Store, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    with mlflow.start_run():
        target = find_target(uri, logger_uri="http://logger:1", logger_run_id="abc")

    assert target == MlflowTarget(uri, None, experiment_name="digits")


@pytest.mark.parametrize("option", ["", "  ", "two words"])
def test_a_string_that_names_nothing_is_refused(option: str) -> None:
    with pytest.raises(OptionError, match="give a run id, or a tracking URI"):
        find_target(option)


@pytest.mark.parametrize("option", [1, 0, 3.5, b"abc", ["abc"]])
def test_an_option_of_another_type_is_refused(option: object) -> None:
    with pytest.raises(OptionError, match="give True, False, None, a run id or"):
        find_target(option)  # type: ignore[arg-type]


def test_a_target_is_shown_without_credentials() -> None:
    target = MlflowTarget("http://ann:secret@host:5000", "abc")

    assert "secret" not in f"{target} {target!r} {target.public_uri}"
    assert target.public_uri == "http://***@host:5000"
    assert "abc" in repr(target)


@pytest.mark.process
def test_mlflow_is_not_imported_to_find_out_that_it_has_no_active_run() -> None:
    script = """
        import sys
        from modelviz_callbacks.trackers.mlflow.target import find_target
        from modelviz_callbacks.trackers.mlflow.tracker import MlflowTracker
        assert find_target(None) is None
        assert find_target(True).run_id is None
        assert find_target("http://127.0.0.1:1").tracking_uri == "http://127.0.0.1:1"
        assert find_target("abc").run_id == "abc"
        assert "mlflow" not in sys.modules, "imported"
        import mlflow  # shows that the line above can fail
        assert "mlflow" in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
