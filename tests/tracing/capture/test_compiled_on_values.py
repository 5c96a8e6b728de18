"""Compiled code that goes where values say: its graph is that of a run on copies, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.tracing.capture import value_copies
from tests.samples import one_and_the_rest_slow
from tests.tracing.capture.test_compiled import Make, compared, in_place
from tests.tracing.capture.test_setups import Network

ON_COPIES = "ran once more on copies of its tensors"


class Values(Network):
    """Goes on with values of its hidden layer, counts its calls, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[float] = []
        self.register_buffer("mean", torch.zeros(8))

    def run_block(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.mean.mul_(0.9).add_(hidden.detach().mean(0))
        return self.chosen(self.block(hidden))

    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Item(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append(hidden.sum().item())
        return hidden * 2 if self.seen[-1] > -1e9 else hidden * 3


class Numpy(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append(float(numpy.abs(hidden.detach().numpy()).max()))
        return hidden * self.seen[-1]


class Any_(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.tanh() if (hidden > -1e9).any() else hidden.sigmoid()


class Nonzero(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = (hidden.sum(1) > -1e9).nonzero().flatten()
        return hidden + torch.zeros_like(hidden).index_add(0, rows, hidden[rows])


class Listed(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = [len(row) for row in hidden.detach().round().tolist()]
        return torch.cat([part[None] for part in hidden[: len(parts)]])


class Around(nn.Module):
    """Something before the part that is compiled."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.before(x))  # type: ignore[no-any-return]


KINDS = {"item": Item, "numpy": Numpy, "any": Any_, "nonzero": Nonzero, "list": Listed}


def whole(kind: Callable[[], nn.Module], **options: Any) -> Make:
    def make() -> tuple[nn.Module, nn.Module]:
        model = kind()
        return model, torch.compile(model, **options)  # type: ignore[return-value]

    return make


def part(kind: Callable[[], nn.Module], **options: Any) -> Make:
    def make() -> tuple[nn.Module, nn.Module]:
        model = Around(torch.compile(kind(), **options))
        return model, model

    return make


def of_eager(kind: Callable[[], nn.Module]) -> ModelGraph:
    return trace(kind(), torch.randn(6, 4)).graph


def ops(graph: ModelGraph, under: str = "") -> list[Any]:
    return [
        (node.op, node.scope.removeprefix(under).strip("/"), [one.shape for one in node.outputs])
        for node in graph.ops
    ]


CASES = {
    f"{name} {way.__name__} {backend}": (kind, way(kind, backend=backend))
    for name, kind in KINDS.items()
    for way in (whole, in_place, part)
    for backend in ("eager", "aot_eager")
}


@pytest.mark.process
@pytest.mark.parametrize("case", one_and_the_rest_slow(CASES))
def test_five_steps_are_the_same_and_the_ops_are_those_of_the_eager_model(
    case: str, tmp_path: Path
) -> None:
    kind, make = CASES[case]
    graph, remarks = compared(make, tmp_path)
    assert any(ON_COPIES in text for text in remarks)
    found = ops(graph, "inner")
    expected = ops(of_eager(kind))
    assert found[len(found) - len(expected) :] == expected


@pytest.mark.process
def test_what_is_too_large_to_copy_is_one_box_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_copies, "MOST_BYTES", 100)
    graph, remarks = compared(part(Item, backend="eager"), tmp_path)
    assert [node.op for node in graph.ops] == ["linear", "Item"]
    (said,) = [text for text in remarks if "what is inside of it is not shown" in text]
    assert "failed without data (DataDependent" in said
    assert said.endswith("to copy.")
