"""How long a graph takes to be written for TensorBoard, by its size.

The graph is recorded from a real model in module-heavy form: every third op is inside a module
of its own, which owns two parameters. Timed is what comes after the lowering: from the
``ModelGraph`` to the bytes of the run's graph and of its named graphs, then the event file with
both. ``--quick`` leaves the largest size out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import Capture, to_graph
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker
from modelviz_callbacks.writers.graphdef import NamedGraph, graph_def, named_graphs

_OPS_A_LAYER = 3


class Layers(nn.Module):
    """A linear layer, a tanh and an addition, again and again."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return x


def recorded(ops: int) -> ModelGraph:
    """The graph of a model of about so many ops."""
    model, x = Layers(-(-ops // _OPS_A_LAYER)), torch.randn(2, 4)
    capture = Capture(model)
    capture.start((x,), {})
    try:
        result = model(x)
    finally:
        capture.stop()
    return to_graph(capture.finish(result))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def store(folder: str, drawn: bytes, named: tuple[NamedGraph, ...]) -> None:
    with TensorBoardTracker(folder) as sink:
        sink.add_graph(drawn)
        for one in named:
            add = sink.add_named_graph if one.has_graph else sink.add_profile
            add(one.tag, one.metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave the largest size out")
    sizes = (1_000, 10_000) if parser.parse_args().quick else (1_000, 10_000, 50_000)
    print("Seconds from the model graph to bytes, and into the event file")
    print("     ops    nodes   op graph  µs an op   named   bytes in all      MB   event file")
    for size in sizes:
        with paused_collector():
            graph = recorded(size)
            drawing_s, drawn = timed(
                lambda: graph_def(Analysis(graph)).SerializeToString(deterministic=True)  # noqa: B023
            )
            naming_s, named = timed(lambda: named_graphs(Analysis(graph)))  # noqa: B023
        with tempfile.TemporaryDirectory() as folder:
            storing_s, _ = timed(lambda: store(folder, drawn, named))  # noqa: B023
            stored = sum(path.stat().st_size for path in Path(folder).iterdir())
        ops = len(graph.ops)
        print(
            f"{ops:8,d} {len(graph.nodes):8,d} {drawing_s:10.2f} {drawing_s / ops * 1e6:9.1f}"
            f" {naming_s:7.2f} {drawing_s + naming_s:14.2f} {stored / 1e6:7.1f} {storing_s:12.2f}"
        )


if __name__ == "__main__":
    main()
