"""``find_nonfinite`` where a step writes to the model's own buffers, and reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook
from tests.watching.test_find_nonfinite import FEW, told, train


class Scaled(nn.Module):
    """Divides a buffer of its own by what it is given, and reads it."""

    def __init__(self, through_data: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))
        self.through_data = through_data

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            part = self.scale.data[1:] if self.through_data else self.scale
            part.div_(x[0, 0])
        return self.layer(x[1:]) * self.scale


@pytest.mark.parametrize("through_data", [False, True])
def test_a_buffer_that_the_step_itself_spoils_is_not_said_to_have_been_so_before(
    through_data: bool, tmp_path: Path
) -> None:
    data = [torch.ones(3, 4) for _ in range(4)]
    data[2][0, 0] = 0
    model = Scaled(through_data)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, data)
    found = told(tmp_path)
    assert (found["step"], found["kind"], found["op"]) == (2, "op", "torch.Tensor.div_")
    assert found["is_certain"]


def test_a_buffer_that_the_recorded_step_spoils_is_no_certain_cause(tmp_path: Path) -> None:
    model = Scaled(False)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, [torch.zeros(3, 4)])
    found = told(tmp_path)
    assert not found["is_certain"]
    assert "what it was before was not kept" in found["message"]


def test_statistics_that_a_norm_only_takes_in_are_no_cause(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    data = [torch.randn(3, 4) for _ in range(3)]
    data[2] = torch.full((3, 4), 3e38)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, data)
    found = told(tmp_path)
    assert (found["step"], found["kind"], found["op"][-10:]) == (2, "op", "batch_norm")
    assert not [one for one in found["inputs"] if "running" in str(one)]
