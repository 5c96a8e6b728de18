"""Writes by index give in onnxruntime what they give in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from tests.writers.test_onnx import run

INDEX = torch.tensor([[0, 1, 1, 2, 4]] * 3)
SMALL = INDEX[:2, :3]

CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda x: torch.ones(3, 5).scatter_reduce(1, INDEX, x, "mean"),
    "mean without what is there": lambda x: x.scatter_reduce(
        1, INDEX, x, "mean", include_self=False
    ),
    "mean in place": lambda x: x.clone().scatter_reduce_(1, INDEX, x, "mean"),
    "mean of whole numbers": lambda x: (
        (x * 9).long().scatter_reduce(1, INDEX, (x * 5).long(), "mean")
    ),
    "mean by its ATen name": lambda x: torch.ops.aten.scatter_reduce.two(x, 1, INDEX, x, "mean"),
    "mean of a part": lambda x: x.scatter_reduce(1, SMALL, x * 2, "mean"),
    "largest of a part": lambda x: x.scatter_reduce(1, SMALL, x * 2, "amax"),
    "a part is added": lambda x: x.scatter_add(1, SMALL, x),
    "a part is added in place": lambda x: x.clone().scatter_add_(1, SMALL, x),
    "a part is written": lambda x: x.scatter(1, SMALL, x + 1),
    "added": lambda x: x.scatter(1, INDEX, x, reduce="add"),
    "multiplied": lambda x: x.scatter(1, INDEX, x, reduce="multiply"),
    "multiplied by a number": lambda x: x.scatter(1, SMALL, 2.0, reduce="multiply"),
    "a number in place": lambda x: x.clone().scatter_(dim=1, index=INDEX, value=1.0),
}


@pytest.mark.parametrize("kind", CASES)
def test_onnxruntime_writes_by_index_as_torch_does(kind: str, tmp_path: Path) -> None:
    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return CASES[kind](x)

    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    path = trace(Writes(), x).save_onnx(tmp_path / "graph.onnx", weights=True)
    onnx.checker.check_model(path)
    (found,) = run(path, x)
    torch.testing.assert_close(torch.from_numpy(found), CASES[kind](x))
