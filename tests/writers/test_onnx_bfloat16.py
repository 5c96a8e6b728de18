"""Models with weights of 16 bits, which onnxruntime and numpy hardly know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from tests.writers.test_onnx_trained import trained


class Net(nn.Module):
    """Weights, a buffer and a cast to their type, as large language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.register_buffer("scale", torch.full((8,), 0.5))

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.norm(self.layer(x.to(self.layer.weight.dtype)))
        return (hidden * self.scale).float()


@pytest.mark.parametrize("type_in", [torch.float32, torch.bfloat16])
def test_weights_in_bfloat16_are_written_in_float32_and_the_report_says_so(
    type_in: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Net().bfloat16()
    x = torch.randn(6, 4).to(type_in)
    hook = trained(model, tmp_path, x)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    assert hook.report.refused == []
    said = [said for said in hook.report.remarks if said.startswith("model.onnx computes")]
    assert "computes in float32, in which the bfloat16 weights are written" in said[0]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (taken,) = session.get_inputs()
    assert taken.type == "tensor(float)"
    for rows in (x, x[:1]):
        (found,) = session.run(None, {taken.name: rows.float().numpy()})
        wanted = model.eval()(rows).detach().numpy()
        numpy.testing.assert_allclose(found, wanted, atol=0.05)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    "kind", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64, torch.complex64]
)
def test_a_number_of_any_type_that_a_forward_makes_is_a_constant(
    kind: torch.dtype, tmp_path: Path
) -> None:
    class Makes(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, torch.full((2,), 2.0, dtype=kind), torch.tensor(0.5, dtype=kind)

    path = trace(Makes(), torch.ones(2)).save_onnx(tmp_path / "graph.onnx")
    onnx.checker.check_model(path)
    assert [node.op_type for node in onnx.load(path).graph.node].count("Constant") >= 2
