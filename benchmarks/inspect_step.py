"""How much longer a step takes that is looked into (``inspect_step``), and the steps around it.

Each round trains two models of the same kind on the same data, a plain one and one with a hook, in
random order, and compares step by step: the one before the step that is looked into, that one, and
the one after it. The recorded step 0 is in ``benchmarks/training_steps.py``. What is printed is the
middle of the rounds' ratios with its standard error.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from collections.abc import Callable
from statistics import median, stdev

import torch
from torch import nn

from benchmarks.measuring import keep_memory, seconds
from benchmarks.training_steps import resnet
from modelviz_callbacks import GraphHook

_STEPS = ("the step before it", "the step that is looked into", "the step after it")


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 6), nn.Flatten(), nn.Linear(64 * 256, 10))


def _perceptron() -> nn.Module:
    widths = (512, 1024, 1024, 1024)
    layers = [
        nn.Sequential(nn.Linear(one, other), nn.ReLU()) for one, other in itertools.pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a ResNet of 8 blocks, 16 images of 64×64": (
        lambda: resnet((32, 32, 64, 64, 128, 128, 256, 256)),
        (16, 3, 64, 64),
    ),
    "a transformer of 6 layers, 8×64 tokens of 256": (_encoder, (8, 64, 256)),
    "a perceptron of 4 layers, a batch of 256": (_perceptron, (256, 512)),
}


def _times(model: nn.Module, x: torch.Tensor, y: torch.Tensor, folder: str | None) -> list[float]:
    """Seconds of the three steps; with a hook if there is a folder for its files."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    step()
    if folder is None:
        step()
        return [seconds(step) for _ in _STEPS]
    _ = GraphHook(
        model,
        dirpath=folder,
        inspect_step=2,
        background=False,
        formats=["text"],
        onnx=False,
        mlflow=False,
        tensorboard=False,
    )
    step()
    found = [seconds(step) for _ in _STEPS]
    assert not model._forward_hooks  # it has looked, and is gone; files are no part of a step
    return found


def compare(name: str, rounds: int) -> dict[str, list[float]]:
    """The ratios of the rounds, by step."""
    make, shape = MODELS[name]
    order = random.Random(0)
    found: dict[str, list[float]] = {step: [] for step in _STEPS}
    x, y = torch.randn(shape), torch.randint(0, 10, (shape[0],))
    for _ in range(rounds):
        took: dict[bool, list[float]] = {}
        for has_hook in order.sample([False, True], 2):
            with tempfile.TemporaryDirectory() as folder:
                took[has_hook] = _times(make(), x, y, folder if has_hook else None)
        for step, with_hook, plain in zip(_STEPS, took[True], took[False], strict=True):
            found[step].append(with_hook / plain)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20, help="how often each model is timed")
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(given.threads)
    print(f"AdamW, {torch.get_num_threads()} thread(s), plain = 1")
    for name in MODELS:
        for step, ratios in compare(name, given.rounds).items():
            error = 1.25 * stdev(ratios) / len(ratios) ** 0.5
            print(f"  {name}, {step}: {median(ratios):.3f} ± {error:.3f}", flush=True)


if __name__ == "__main__":
    main()
