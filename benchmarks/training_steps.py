"""How much longer the first training step takes with a hook, and the one after it.

A ResNet-18 and a narrower network on a batch of 8 images of 224×224, on one thread and on as many
as torch takes by itself. The steps of one model on the same data differ by some 5 % without any
pattern, which is more than what is looked for. So each round times three models of the same kind,
in random order: two plain ones and a recorded one. What is printed is the middle of many rounds
with its standard error; that of one plain step against the other tells what the figures are worth.
The worker is ended after the second step, in which it may begin; how much it slows the steps beside
it is in ``benchmarks/worker_disturbance.py``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from statistics import median, stdev
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.measuring import end_worker, keep_memory, seconds
from modelviz_callbacks import GraphHook

# Widths of the blocks of ResNet-18, and of a network that spends less time in each op.
RESNETS = {
    "ResNet-18": (64, 64, 128, 128, 256, 256, 512, 512),
    "a narrow ResNet (8 blocks of 32 channels)": (32,) * 8,
}

# What is compared with a plain step.
_FIRST, _SECOND, _CONTROL = "first step, recorded", "the step after it", "another plain step"


class Ratio(NamedTuple):
    """A median and its standard error (that of a mean times 1.25, as for normal noise)."""

    middle: float
    error: float


class Block(nn.Module):
    """Two convolutions and a skip connection, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module | None = None
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skip = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(h + (x if self.skip is None else self.skip(x)))


def resnet(widths: tuple[int, ...]) -> nn.Module:
    first, last = widths[0], widths[-1]
    stem = [nn.Conv2d(3, first, 7, 2, 3, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)]
    blocks = [Block(*pair) for pair in zip((first, *widths), widths, strict=False)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 1000)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *head)


class Stepper(NamedTuple):
    """A model and a training step of it."""

    model: nn.Module
    step: Callable[[], None]


def stepper(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Stepper:
    """Memory pools and kernels have settled."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    step()
    return Stepper(model, step)


def _plain(stepper: Stepper) -> tuple[float, float]:
    return seconds(stepper.step), seconds(stepper.step)


def _recorded(stepper: Stepper) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _ = GraphHook(stepper.model, dirpath=folder, mlflow=False, tensorboard=False)
        first, second = seconds(stepper.step), seconds(stepper.step)
        end_worker()
    return first, second


def compare(widths: tuple[int, ...], rounds: int) -> dict[str, Ratio]:
    """Times of a recorded step, the one after it and another plain one over a plain one's."""
    x, y = torch.randn(8, 3, 224, 224), torch.randint(0, 10, (8,))
    found: dict[str, list[float]] = {_FIRST: [], _SECOND: [], _CONTROL: []}
    order = random.Random(0)
    for _ in range(rounds):
        runs = {"plain": _plain, "other": _plain, "recorded": _recorded}
        names = list(runs)
        order.shuffle(names)
        took = {name: runs[name](stepper(resnet(widths), x, y)) for name in names}
        plain = [(a + b) / 2 for a, b in zip(took["plain"], took["other"], strict=True)]
        found[_FIRST].append(took["recorded"][0] / plain[0])
        found[_SECOND].append(took["recorded"][1] / plain[1])
        found[_CONTROL].append(took["other"][0] / took["plain"][0])
    return {
        what: Ratio(median(ratios), 1.25 * stdev(ratios) / len(ratios) ** 0.5)
        for what, ratios in found.items()
    }


def print_steps(threads: int, rounds: int) -> None:
    """The times of training steps, on one thread and on all ``threads``."""
    print("Training steps, batch 8 at 224×224, plain = 1")
    for model, widths in RESNETS.items():
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            for what, ratio in compare(widths, rounds).items():
                figures = f"{ratio.middle:.3f} ± {ratio.error:.3f}"
                print(f"  {model}, {count} thread(s), {what}: {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="how often each model is timed")
    given = parser.parse_args()
    keep_memory()
    print_steps(torch.get_num_threads(), given.rounds)


if __name__ == "__main__":
    main()
