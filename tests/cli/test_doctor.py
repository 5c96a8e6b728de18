"""``modelviz doctor``: every part is tried, what fails is named, nothing secret is printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from modelviz_callbacks import Trace
from modelviz_callbacks.cli import doctor, main


@pytest.mark.process
def test_where_all_is_well_every_part_is_tried_and_the_status_is_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret-pw@127.0.0.1:9")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "All parts work." in told
    assert "bytes, run in onnxruntime\n" in told
    for part in ("graph.svg", "graph.png", "graph.onnx", "model.onnx", "TensorBoard", "worker"):
        assert re.search(rf"^  ok +.*{re.escape(part)} ", told, re.MULTILINE), part
    assert re.search(r"^  torch +\d+\.", told, re.MULTILINE)
    assert "s3cret" not in told
    assert "127.0.0.1:9" in told


@pytest.mark.process
def test_a_part_that_fails_is_named_and_the_others_are_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("no such library: libpng")

    monkeypatch.setattr(Trace, "save_png", broken)
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"^  FAILED graph.png .*OSError: no such library: libpng$", told, re.MULTILINE)
    assert "1 failed: graph.png" in told
    assert re.search(r"^  ok +TensorBoard ", told, re.MULTILINE)


@pytest.mark.process
def test_a_part_that_needs_an_extra_is_told_with_what_brings_it_and_is_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "surely-not-there", "nor-this-one"))
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"^  -      model.onnx .* onnxruntime is not installed: pip install "
        r'"modelviz-callbacks\[onnx\]" brings it\.$',
        told,
        re.MULTILINE,
    )
    assert "All parts work that are installed; model.onnx: see above." in told
    assert "  not installed: surely-not-there, nor-this-one\n" in told


def test_without_a_recording_nothing_else_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> Any:
        raise ImportError("libtorch is missing")

    monkeypatch.setattr(doctor, "_model", broken)
    (check,) = doctor.tried(tmp_path)
    assert not check.works
    assert check.detail == "ImportError: libtorch is missing"


def test_a_package_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "surely-not-there"))
    told = doctor.versions()
    assert told["surely-not-there"] == "not installed"
    assert told["torch"][0].isdigit()
