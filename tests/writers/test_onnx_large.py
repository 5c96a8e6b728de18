"""A trained model of more than two gigabytes, which one protobuf message cannot hold."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.artifacts.onnx_files import onnx_source
from modelviz_callbacks.tracing.lowering.networks import Unit
from modelviz_callbacks.writers.onnx import Names, Subject, write_trained


class Lookup(nn.Module):
    """Two tables and a layer: large, and quick to run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Embedding(1_100_000, 256)
        self.second = nn.Embedding(1_000_000, 256)
        self.fc = nn.Linear(256, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(self.first(ids) + self.second(ids))


@pytest.mark.slow
def test_a_model_over_two_gigabytes_has_its_weights_beside_it_and_runs(tmp_path: Path) -> None:
    model = Lookup()
    assert sum(parameter.nbytes for parameter in model.parameters()) > 2 * 2**30
    ids = torch.randint(0, 1_000_000, (4, 2))
    unit = Unit.whole(trace(model, ids)._recording)
    path = tmp_path / "model.onnx"
    outcome = write_trained(Subject(onnx_source(unit), model, unit.call), Names(), path)
    assert outcome.files == ["model.onnx", "model.onnx.data"]
    assert sorted(file.name for file in tmp_path.iterdir()) == outcome.files
    assert path.stat().st_size < 100_000
    assert (tmp_path / "model.onnx.data").stat().st_size > 2 * 2**30
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = torch.randint(0, 1_000_000, (7, 2))
    (found,) = session.run(None, {session.get_inputs()[0].name: ids.numpy()})
    with torch.no_grad():
        wanted = model(ids)
    assert (torch.as_tensor(found) - wanted).abs().max() < 1e-4
