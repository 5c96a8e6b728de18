"""How well the times of one timed step agree with the clock and with torch.profiler.

On compute-bound models, for one training step timed op by op (``profile_step``):

1. the sum over the ops beside the forward time of a plain step, measured around the call;
2. the ten slowest ops beside torch.profiler's: how many are among both tens, and of those the
   most that stand in the same order. torch.profiler looks at the same step (each op marked by a
   ``record_function``) and at the step after it; how well it agrees with itself on two steps
   tells what the machine's own unrest does to the order of ops that cost nearly the same.

Every figure is of single steps, not of a mean; the steps of a few rounds are all printed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from modelviz_callbacks import trace
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing.steps.step_timer import StepTimer
from modelviz_callbacks.tracing.steps.step_times import OpTimes, op_times

_SLOWEST = 10


class Pyramid(nn.Sequential):
    """Convolutions of unequal cost, so that there is an order to agree on."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        widths = (3, 24, 48, 40, 96, 80, 160, 128, 224, 192, 256)
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            if number % 2:
                layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


class Encoder(nn.Module):
    """A transformer encoder of layers of unequal width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(256, 4, width, batch_first=True)
            for width in (512, 768, 1152, 1728, 2592, 3888)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Marked(TorchFunctionMode):
    """Marks each op for torch.profiler with its number."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.profiler.record_function(f"op {next(self._numbers)}"):
            return func(*args, **(kwargs or {}))


def timed(model: nn.Module, x: torch.Tensor, graph: ModelGraph) -> OpTimes:
    """The times of one step, as a training with ``profile_step`` takes them."""
    timer = StepTimer(model)
    timer.start()
    try:
        model(x)
    finally:
        timer.stop()
    return op_times(timer.finish(), graph)


def profiled(
    model: nn.Module, x: torch.Tensor, graph: ModelGraph, timer: StepTimer | None = None
) -> dict[str, float]:
    """The same by torch.profiler: microseconds by node name; a timer may look at the step, too."""
    with torch.profiler.profile() as profile, contextlib.ExitStack() as handles:
        handles.enter_context(Marked())
        if timer is not None:
            timer.start()
            handles.callback(timer.stop)
        model(x)
    marks = {
        int(event.name[3:]): event.time_range.elapsed_us()
        for event in profile.events()
        if event.name.startswith("op ")
    }
    # The same calls in the same order, among them some that are no ops of the graph (`size`).
    times, waiting = {}, [(node.target, node.name) for node in graph.of_kind("op")]
    for number, function in enumerate(_functions_in_order(model, x)):
        if waiting and waiting[0][0] == function:
            times[waiting.pop(0)[1]] = marks[number]
    assert not waiting, f"torch.profiler saw no {waiting[0]}"
    return times


def _functions_in_order(model: nn.Module, x: torch.Tensor) -> list[str]:
    from modelviz_callbacks.tracing.capture.qualified_names import qualified_name

    found: list[str] = []

    class Names(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            found.append(qualified_name(func))
            return func(*args, **(kwargs or {}))

    with Names():
        model(x)
    return found


def slowest(times: Mapping[str, float]) -> list[str]:
    return sorted(times, key=lambda name: -times[name])[:_SLOWEST]


def in_the_same_order(ours: list[str], theirs: list[str]) -> int:
    """The length of the longest sequence that both lists have in the same order."""
    places = {name: place for place, name in enumerate(theirs)}
    ends: list[int] = []
    for place in (places[name] for name in ours if name in places):
        at = bisect_left(ends, place)
        ends[at : at + 1] = [place]
    return len(ends)


def agreement(one: Mapping[str, float], other: Mapping[str, float]) -> str:
    ours, theirs = slowest(one), slowest(other)
    return f"{len(set(ours) & set(theirs)):3d} of 10, {in_the_same_order(ours, theirs):2d} in order"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for model, x in (
        (Pyramid(), torch.randn(4, 3, 64, 64)),
        (Encoder(), torch.randn(4, 128, 256)),
    ):
        graph = trace(model, x).graph
        print(f"{type(model).__name__}, {len(graph.ops)} ops: milliseconds, and the ten slowest")
        print(
            "   plain   timed  sum of ops      of timed of plain"
            "   same step              another step           torch.profiler alone"
        )
        for _ in range(rounds):
            start = time.perf_counter()
            model(x)
            plain_us = (time.perf_counter() - start) * 1e6
            alone = timed(model, x, graph)
            timer = StepTimer(model)
            theirs = profiled(model, x, graph, timer)
            same = op_times(timer.finish(), graph)
            later = profiled(model, x, graph)
            total_us = sum(alone.times_us.values())
            print(
                f"{plain_us / 1000:8.1f}{alone.total_us / 1000:8.1f}{total_us / 1000:12.1f}"
                f"{total_us / alone.total_us:14.3f}{total_us / plain_us:9.3f}"
                f"   {agreement(same.times_us, theirs)}   {agreement(alone.times_us, later)}"
                f"   {agreement(theirs, later)}"
            )


if __name__ == "__main__":
    main()
