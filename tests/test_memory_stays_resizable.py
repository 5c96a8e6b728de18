"""No output leaves a mark on memory: what torch could resize before, it can resize afterwards.

An array that shows a tensor's memory forbids torch to resize it, for good, as sharded parameters
and ``resize_`` do; and a recording takes memory that cannot be resized for an array's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from modelviz_callbacks import GraphHook, trace


class _Net(nn.Module):
    """Has all kinds of tensors: parameters, buffers, constants, and one that Python reads."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = parametrizations.weight_norm(nn.Linear(8, 2))
        self.register_buffer("mask", torch.ones(8))
        self.scale = torch.full((8,), 2.0)
        self.tables = [torch.linspace(0, 1, 4), torch.zeros(4, dtype=torch.complex64).conj()]
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.tables[0].sum().item() > 0:
            x = x + self.tables[0] + self.tables[1].real + self.bias
        x = x * x.max().item()
        return self.last(self.norm(self.first(x)).relu() * self.mask * self.scale)

    def all_tensors(self) -> dict[str, torch.Tensor]:
        """By a name."""
        own = {"scale": self.scale, "bias": self.bias}
        own |= {f"table {index}": table for index, table in enumerate(self.tables)}
        return {**dict(self.named_parameters()), **dict(self.named_buffers()), **own}


def _hooked(**options: object) -> Callable[[_Net, torch.Tensor, Path], None]:
    def run(net: _Net, x: torch.Tensor, folder: Path) -> None:
        optimizer = torch.optim.Adam(net.parameters())
        with GraphHook(net, dirpath=folder, **options) as hook:  # type: ignore[arg-type]
            for _ in range(3):
                net(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        assert hook.report is not None
        assert not hook.report.refused

    return run


def _replayed(net: _Net, x: torch.Tensor, folder: Path) -> None:
    trace(net, x).replay(x)


def _saved(net: _Net, x: torch.Tensor, folder: Path) -> None:
    traced = trace(net, x)
    traced.save_onnx(folder / "plain.onnx")
    traced.save_onnx(folder / "weights.onnx", weights=True)
    traced.save_html(folder / "page.html")
    traced.save_png(folder / "graph.png")
    traced.write_tensorboard(folder / "logs")
    assert traced.find_nonfinite(x) is None


WAYS = {
    "here": _hooked(background=False),
    "in the worker": _hooked(),
    "weights": _hooked(background=False, onnx_weights=True),
    "weights in the worker": _hooked(onnx_weights=True),
    "trained": _hooked(trained_onnx=True),
    "later steps": _hooked(profile_step=1, inspect_step=2, watch_changes=1, find_nonfinite=True),
    "replay": _replayed,
    "saved": _saved,
}


_IN_THE_WORKER = {"in the worker", "weights in the worker", "trained", "later steps"}


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=pytest.mark.process if way in _IN_THE_WORKER else ()) for way in WAYS],
)
def test_all_memory_can_be_resized_as_before(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = _Net(torch.randn(4)), torch.randn(6, 4)
    WAYS[way](net, x, tmp_path)
    found = {**net.all_tensors(), "x": x}
    assert [name for name, one in found.items() if not one.untyped_storage().resizable()] == []
