from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook
from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.trackers.mlflow.calls import _reason


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
        (
            "connect(user='ann', password='my secret', port=1)",
            "connect(user='ann', password='***', port=1)",
        ),
        ('Wrong password: "pw" for ann', 'Wrong password: "***" for ann'),
        ("password: hunter2 was refused", "password: *** was refused"),
        ("x=token=abc&y=1", "x=token=***&y=1"),
        ("token = 'abc' + x", "token = '***' + x"),
        ('self.api_key: str = b"abc"', 'self.api_key: str = b"***"'),
        ('env["A_PASSWORD"] = "abc"', 'env["A_PASSWORD"] = "***"'),
        ("{'MLFLOW_TRACKING_TOKEN': 'abc'}", "{'MLFLOW_TRACKING_TOKEN': '***'}"),
        ("a://x/y,b://ann:pw@h,c", "a://x/y,b://***@h,c"),
        ("a://tok@h/b://ann:pw@i/", "a://***@h/b://***@i/"),
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
        "Unexpected token: < in JSON",
        "token = next(tokens)",
        "http://host/a@b",
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


def test_a_text_is_cut_before_a_word_and_says_so() -> None:
    text = "could not reach " + "x" * 19_980 + " http://ann:secret-pw@host/ more"
    shown = without_credentials(text)

    assert "secret" not in shown
    assert shown.endswith("(cut)")
    assert shown.startswith("could not reach x")
    assert without_credentials("http://ann:" + "p" * 30_000 + "@host") == " … (cut)"
    assert without_credentials("one two three", 8) == "one … (cut)"


# Each made an earlier version take time that grew with the square or the cube of its length.
ADVERSARIAL = [
    "a",
    "://",
    "://a:",
    "a://b@",
    "a@",
    "password",
    "token-",
    "token=",
    "token : ",
    "'token':'",
    "=",
    "Bearer ",
    "(Caused by A('",
    "pwd: '",
    "sig",
    '" :',
    "x=token=",
    ".-_",
    "\n",
    " ",
]


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_a_megabyte_of_anything_costs_no_more_than_its_beginning(piece: str) -> None:
    def work(length: int) -> float:
        text = (piece * (length // len(piece) + 1))[:length]
        began = time.process_time()
        without_credentials(text)
        _reason(ValueError(text))
        return time.process_time() - began

    # Four times the text before it is cut: linear is 4, quadratic 16, and noise is below 20 ms.
    assert work(16_000) <= 8 * work(4_000) + 0.02
    assert work(1_000_000) <= 8 * work(20_000) + 0.05


def test_a_password_in_a_users_error_is_in_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            torch.relu(features)
            raise ConnectionError("no answer from postgresql://ann:s3cret-pw@db/x " + "y" * 100_000)

    model = Fails()
    hook = GraphHook(model, dirpath=tmp_path, background=False, tensorboard=str(tmp_path))
    with pytest.raises(ConnectionError), hook:
        model(torch.ones(2))

    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) >= {"graph.json", "graph.txt", "graph.md", "index.html", "report.json"}
    assert b"ended early with ConnectionError: no answer from" in written["graph.json"]
    assert [name for name, content in written.items() if b"s3cret" in content] == []
    assert len(written["graph.txt"]) < 10_000
    assert "s3cret" not in "".join(capsys.readouterr())


def test_a_password_in_a_trackers_address_is_not_printed_and_not_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Linear(2, 2)
    address = "memory://ann:s3cret-pw@store/runs"
    with GraphHook(model, dirpath=tmp_path, background=False, tensorboard=address) as hook:
        model(torch.ones(1, 2))

    assert "tensorboard --logdir memory://***@store/runs" in capsys.readouterr().out
    assert "s3cret" not in (tmp_path / "report.json").read_text()
    assert hook.report.refused == []
