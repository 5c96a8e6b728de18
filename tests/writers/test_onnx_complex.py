"""Complex numbers that are made, and written to through their parts, in ``graph.onnx``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace


class Runs(nn.Module):
    """Runs a function, and gives the parts of its result."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(self.function(x))


def _real_part(x: torch.Tensor) -> torch.Tensor:
    z = torch.zeros(3, 4, dtype=torch.complex64)
    z.real = x
    return z * 2


def _part_of_a_part(x: torch.Tensor) -> torch.Tensor:
    z = torch.complex(x, x * 2)
    z.imag[1:, ::2] = 2.0
    z.real[0].mul_(3)
    return z + x


def _through_pairs(x: torch.Tensor) -> torch.Tensor:
    z = torch.complex(x, x * 2)
    pairs, part = torch.view_as_real(z), z[1:].T
    pairs[..., 1] += 1
    z.mul_(2)
    return part * z.sum()


def _numbers_put_in(x: torch.Tensor) -> torch.Tensor:
    z = torch.complex(x, x * 2)
    z.imag = x * 3
    z[0] = 0
    z[1, 2:] = 1 - 2j
    return z * z


def _numbers_before_a_tensor(x: torch.Tensor) -> torch.Tensor:
    return torch.complex(torch.add(0.25, x > 0, alpha=0.5), torch.add(2, x)) + torch.add(2j, x)


@pytest.mark.parametrize(
    "function",
    [
        _numbers_before_a_tensor,
        _real_part,
        _part_of_a_part,
        _through_pairs,
        _numbers_put_in,
        lambda x: torch.zeros(3, 4, dtype=torch.complex64) + x,
        lambda x: torch.ones([3, 4], dtype=torch.complex64) * x,
        lambda x: torch.full((3, 4), 1 + 2j) * x,
        lambda x: torch.tensor([1j, 2, 3, 4]) * x,
        lambda x: torch.complex(x, x).new_ones(4) * x,
        lambda x: torch.complex(x, x).new_full((3, 4), 2.0) * 1j,
        lambda x: x * 2j,
        lambda x: (x + 1) / 2j,
    ],
)
def test_the_file_gives_what_torch_gives(
    function: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    traced = trace(Runs(function), x)
    path = traced.save_onnx(tmp_path / "graph.onnx", weights=True)
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    nodes = [*proto.graph.node, *(node for body in proto.functions for node in body.node)]
    assert [node.op_type for node in nodes if node.domain == "pytorch"] == []
    (found,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    numpy.testing.assert_allclose(found, traced.outputs.numpy(), rtol=1e-5, atol=1e-5)


def test_conjugates_are_not_read_from_memory_that_was_written_to(tmp_path: Path) -> None:
    def conjugates(x: torch.Tensor) -> torch.Tensor:
        z = torch.complex(x, x * 2)
        turned = z.conj()
        z.imag.add_(x)
        return turned * 1

    path = trace(Runs(conjugates), torch.randn(3, 4)).save_onnx(tmp_path / "graph.onnx")
    proto = onnx.load(path)
    nodes = [*proto.graph.node, *(node for body in proto.functions for node in body.node)]
    assert "mul" in [node.op_type for node in nodes if node.domain == "pytorch"]
