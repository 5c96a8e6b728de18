"""Complex numbers, and the next floating-point number, in standard ops."""

from __future__ import annotations

from pathlib import Path

import numpy
import onnxruntime
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(x)
        made = torch.zeros_like(spectrum) + torch.ones_like(spectrum)
        made[..., 1:3] = torch.einsum("bi,ij->bj", spectrum[..., 1:3], spectrum[:2, :2])
        made[0, ..., 0] = x.sum() + 1
        both = torch.cat([made, spectrum * 2], 1)
        return torch.view_as_real(torch.stack([both, both + 1], -1))


class Next(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nextafter(x, torch.zeros_like(x) + 1)


class Empty(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        none = x[:0, 0]
        return torch.cat([none, none])


_EDGES = [1.0, 2.0, 1.5, -1.0, 0.9999999, 3e8, -7.3e-20, 1e-30, 123.456]


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Spectrum(), torch.linspace(-1, 1, 24).reshape(3, 8) ** 3),
        (Next(), torch.tensor(_EDGES)),
        (Next(), torch.tensor(_EDGES, dtype=torch.float64)),
        (Empty(), torch.ones(2, 2)),
    ],
    ids=["spectrum", "next float32", "next float64", "empty"],
)
def test_onnxruntime_computes_what_torch_does(
    model: nn.Module, x: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "graph.onnx"
    trace(model, x).save_onnx(path, weights=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    wanted = model(x).numpy()
    if isinstance(model, Next):
        numpy.testing.assert_array_equal(found, wanted)
    else:
        numpy.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
