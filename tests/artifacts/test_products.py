"""What is made of a recording."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelviz_callbacks.artifacts import products
from modelviz_callbacks.artifacts.products import Production
from modelviz_callbacks.options import Options
from modelviz_callbacks.report import Report


def test_of_several_networks_the_largest_difference_in_onnx_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    differences = {"generator": 3e-5, "critic": 1e-7}
    units = [SimpleNamespace(module=None, call=None, name=name) for name in differences]
    production = Production(Options(trained_onnx=True), tmp_path, Report("gan", str(tmp_path)))

    def written(source: Any, *_: object) -> Any:
        return SimpleNamespace(files=[], remarks=[], max_difference=differences[source])

    monkeypatch.setattr(products, "units", lambda recording: units)
    monkeypatch.setattr(products, "onnx_source", lambda unit: unit.name)
    monkeypatch.setattr("modelviz_callbacks.writers.onnx.write_trained", written)
    recording: Any = SimpleNamespace(error=None)
    production.write_trained(recording)

    assert production.report.refused == []
    assert production.report.figures["onnx_max_difference"] == 3e-5
