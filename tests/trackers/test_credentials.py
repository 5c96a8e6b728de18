from __future__ import annotations

import pytest

from modelviz_callbacks.trackers.credentials import without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
        ("https://tok-en@host/", "https://***@host/"),
        ("postgresql+psycopg://ann:p/w@a@db.example/m", "postgresql+psycopg://***@db.example/m"),
        ("API request to http://a:b@h/api failed", "API request to http://***@h/api failed"),
        ("https://s3/b?X-Amz-Signature=abc&part=1", "https://s3/b?X-Amz-Signature=***&part=1"),
        ("mssql://h/d?user=ann&password=pw", "mssql://h/d?user=ann&password=***"),
        ("https://blob/?sv=1&sig=abc%3D", "https://blob/?sv=1&sig=***"),
        ('{"api_key": "abc", "run": "x"}', '{"api_key": "***", "run": "x"}'),
        ("Authorization: Bearer abc.def-g", "Authorization: Bearer ***"),
        ("Authorization: Basic YW5uOnB3", "Authorization: Basic ***"),
    ],
)
def test_what_is_secret_is_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/0/runs/abc/artifacts/model_graph",
        "sqlite:////home/ann/mlflow.db",
        "databricks://profile",
        "could not reach ann@example.org at noon",
        "password authentication failed",
        "a basic model",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert without_credentials(text) == text


def test_secrets_of_the_environment_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-key-1")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi0123")
    monkeypatch.setenv("MLFLOW_SOME_TOKEN_SWITCH", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")

    text = "hunter22, aws-key-1, dapi0123: it is true of digits"
    assert without_credentials(text) == "***, ***, ***: it is true of digits"
