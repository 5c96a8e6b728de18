"""Saying something never raises, whatever the program's outputs are."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelviz_callbacks.jobs import waiting
from modelviz_callbacks.report import Report, say, warn


class Raises(io.StringIO):
    """An output that cannot be written to, and is a terminal if somebody asks."""

    def write(self, text: str) -> int:
        raise RuntimeError("nobody is there")

    def isatty(self) -> bool:
        return True


def _closed() -> io.StringIO:
    output = io.StringIO()
    output.close()
    return output


def _shown_plainly(message: Warning | str, *_: Any) -> None:
    """As Python's own, which pytest replaces: it lets everything but an OSError through."""
    if sys.stderr is not None:
        sys.stderr.write(str(message))


OUTPUTS: dict[str, Callable[[], Any]] = {
    "raises": Raises,
    "is closed": _closed,
    "is None": lambda: None,
    "is no file": object,
}


@pytest.fixture(params=OUTPUTS)
def bad_outputs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both outputs of the program do not work."""
    monkeypatch.setattr(sys, "stdout", OUTPUTS[request.param]())
    monkeypatch.setattr(sys, "stderr", OUTPUTS[request.param]())


@pytest.mark.usefixtures("bad_outputs")
def test_an_output_that_does_not_work_raises_nothing() -> None:
    say("a line")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _shown_plainly
        warn("a warning")
        warnings.simplefilter("error")
        warn("an error")


@pytest.mark.usefixtures("bad_outputs")
def test_waiting_goes_on_where_the_terminal_does_not_work(tmp_path: Path) -> None:
    with waiting.shown(tmp_path, 0.0) as tell:
        tell("3 of 4 files")


def _fails(*_: Any, **__: Any) -> None:
    raise LookupError("no such window")


def test_a_showwarning_that_raises_is_no_matter_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", _fails)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _fails
        report = Report("net", "folder")
        report.refuse("graph.svg", "the disk is full")
        report.warn()
    assert "graph.svg: the disk is full" in capsys.readouterr().err


@pytest.fixture
def failing_log() -> Iterator[None]:
    """Warnings go into a log whose handler raises."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError("the log server is away")

    handler, log = Handler(), logging.getLogger("py.warnings")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _shown_plainly
        logging.captureWarnings(True)
        log.addHandler(handler)
        yield
        log.removeHandler(handler)
        logging.captureWarnings(False)


@pytest.mark.usefixtures("failing_log")
def test_a_log_handler_that_raises_is_no_matter_of_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warn("of the graph a part is missing")
    assert "of the graph a part is missing" in capsys.readouterr().err


def test_warnings_that_are_errors_are_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("a part is missing")
    assert capsys.readouterr().err == "modelviz_callbacks: a part is missing\n"


def test_a_name_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("net\x1b[2J\x9b1m\u202etxt")
    assert capsys.readouterr().out == "net\ufffd[2J\ufffd1m\ufffdtxt\n"


def test_the_line_at_the_end_tells_paths_as_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = [f"TensorBoard: tensorboard --logdir {tmp_path}/runs", f"MLflow: file://{tmp_path}/x"]
    said = Report("Net", str(tmp_path / "model_graph/Net"), stored=places).summary()
    assert said.endswith(
        f" is in model_graph/Net; TensorBoard: tensorboard --logdir runs; MLflow: file://{tmp_path}/x"
    )
    monkeypatch.chdir("/")
    assert str(tmp_path) in Report("Net", str(tmp_path / "Net")).summary()


def test_the_line_at_the_end_tells_no_command_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensorboard, mlflow = f"TensorBoard: tensorboard --logdir {tmp_path}", "MLflow: sqlite:///x.db"
    folder = str(tmp_path / "my runs/Net")
    as_a_folder_of_logs = importlib.machinery.ModuleSpec("tensorboard", None, is_package=True)
    for found in (None, as_a_folder_of_logs):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        said = Report("Net", folder, stored=[tensorboard]).summary()
        assert said.endswith(" is in my runs/Net; to look: modelviz show 'my runs/Net'")
    assert Report("Net", folder, stored=[tensorboard, mlflow]).summary().endswith(f"Net; {mlflow}")
    assert "to look: modelviz show" in Report("Net", folder).summary()


def test_one_reason_is_said_once_with_all_that_it_costs(recwarn: pytest.WarningsRecorder) -> None:
    report = Report("Net", "runs")
    for name in ("graph.svg", "graph.png", "report.json", "report.json"):
        report.refuse(name, f"could not write /full/{name}: no space; pass dirpath=.")
    report.refuse("graph.onnx", "could not write /full/model.onnx: no space; pass dirpath=.")
    report.warn()
    (said,) = (str(warning.message) for warning in recwarn)
    assert said.splitlines() == [
        "Of the graph of Net, 4 part(s) are missing:",
        "  graph.svg, graph.png, report.json: could not write /full/...: no space; pass dirpath=.",
        "  graph.onnx: could not write /full/model.onnx: no space; pass dirpath=.",
    ]
