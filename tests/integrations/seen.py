"""What the tests of all trainers ask: what is in the graph, in TensorBoard, in the weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.report import Report

# For what is in a graph: made where training runs, and little of it.
IN_PLACE: dict[str, Any] = {"onnx": False, "formats": ["text"], "background": False}


class Net(nn.Module):
    """Four features, three classes; a dropout, so that random numbers count."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(features))


NET_OPS = ["linear", "relu", "dropout", "linear"]


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 4, generator=generator), torch.randint(0, 3, (5,), generator=generator))
        for _ in range(count)
    ]


def graph_of(report: Report | None) -> ModelGraph:
    """The graph of a run in which nothing was refused."""
    assert report is not None
    assert report.refused == []
    return ModelGraph.load(Path(report.folder) / "graph.json")


def events_in(folder: Path) -> EventAccumulator:
    """All that TensorBoard finds in a run."""
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def same(one: Iterable[torch.Tensor], other: Iterable[torch.Tensor]) -> bool:
    """Whether tensors are equal to the bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
