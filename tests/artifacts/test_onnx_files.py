"""The ONNX files of a recording."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelviz_callbacks.artifacts import onnx_files
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.onnx_files import write_trained_models
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report


def test_of_several_networks_the_largest_difference_in_onnx_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    differences = {"generator": 3e-5, "critic": 1e-7}
    networks = [
        SimpleNamespace(module=None, call=None, name=name, recorded_inputs=lambda: None)
        for name in differences
    ]
    maker = Maker(Options(trained_onnx=True), tmp_path, Report("gan", str(tmp_path)))

    def written(subject: Any, *_: object) -> Any:
        return SimpleNamespace(
            files=[], remarks=[], warnings=[], max_difference=differences[subject.program]
        )

    monkeypatch.setattr(onnx_files, "onnx_source", lambda unit: unit.name)
    monkeypatch.setattr("modelviz_callbacks.writers.onnx.write_trained", written)
    products: Any = SimpleNamespace(networks=networks)
    write_trained_models(maker, products)

    assert maker.report.refused == []
    assert maker.report.figures["onnx_max_difference"] == 3e-5
