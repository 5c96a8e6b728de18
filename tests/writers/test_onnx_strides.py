"""``graph.onnx`` of calls that look at memory, not at a tensor's own order of elements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from tests.writers.test_onnx import run

SIZE, STRIDE = (3, 4, 2), (2, 4, 1)


def _in_place(x: torch.Tensor) -> torch.Tensor:
    return x.clone().as_strided_(SIZE, STRIDE, 1) if x.numel() else x


@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x.as_strided(SIZE, STRIDE, 1),
        lambda x: torch.as_strided(x, SIZE, STRIDE, 1),
        lambda x: torch.ops.aten.as_strided(x, SIZE, STRIDE, 1),
        lambda x: torch.ops.aten.as_strided.default(x, SIZE, STRIDE, 1),
        _in_place,
    ],
    ids=["method", "function", "op", "overload", "in place"],
)
def test_a_strided_view_of_a_turned_tensor_is_that_of_its_memory(
    strided: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    class Strides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turned = (x * 2).transpose(0, 1)
            return strided(turned) + 1

    x = torch.randn(4, 6)
    path = trace(Strides(), x).save_onnx(tmp_path / "graph.onnx", weights=True)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    (found,) = run(path, x)
    torch.testing.assert_close(torch.as_tensor(found), Strides()(x))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.contiguous().view(torch.int32).float(),
        lambda x: torch.ops.aten.view.dtype(x.contiguous(), torch.int32).float(),
        lambda x: torch.as_strided_copy(x, SIZE, STRIDE, 1),
    ],
    ids=["bits", "bits by the overload", "copy"],
)
def test_what_standard_ops_cannot_read_of_memory_stays_as_torch_has_it(
    read: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turned = (x * 2).transpose(0, 1)
            return read(turned) + turned.view(torch.float32).sum()

    path = trace(Reads(), torch.randn(4, 6)).save_onnx(tmp_path / "graph.onnx", weights=True)
    domains = [node.domain for node in onnx.load(path).graph.node]
    assert domains.count("pytorch") == 1
