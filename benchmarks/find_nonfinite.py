"""What a step costs that is watched for a loss that is not finite (``find_nonfinite``).

Two models of the same kind train side by side on the same data, one of them watched, some steps
each in random order. What is printed is the middle of the differences of a step, in microseconds,
and that of the ratios, each with its standard error. The smallest model shows the cost itself.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
from collections.abc import Callable
from statistics import median, stdev

import torch
from torch import nn

from benchmarks.inspect_step import MODELS
from benchmarks.measuring import keep_memory, seconds, training_step
from modelviz_callbacks import GraphHook


def compare(
    make: Callable[[], nn.Module], shape: tuple[int, ...], rounds: int, count: int
) -> tuple[list[float], list[float]]:
    """Differences in microseconds and ratios of the two, round by round."""
    order = random.Random(0)
    x, y = torch.randn(shape), torch.randint(0, 10, (shape[0],))
    plain, watched = make(), make()
    steps = [training_step(plain, x, y), training_step(watched, x, y)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        hook = GraphHook(
            watched,
            dirpath=folder,
            find_nonfinite=True,
            background=False,
            formats=["text"],
            onnx=False,
            mlflow=False,
            tensorboard=False,
        )
        for step in steps * 3:
            step()
        assert watched._forward_hooks  # it is watched
        differences, ratios = [], []
        for _ in range(rounds):
            took = {
                which: seconds(lambda step=steps[which]: [step() for _ in range(count)]) / count  # type: ignore[misc]
                for which in order.sample([0, 1], 2)
            }
            differences.append((took[1] - took[0]) * 1e6)
            ratios.append(took[1] / took[0])
        hook.close()
    return differences, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=40, help="how often each model is timed")
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(given.threads)
    tiny: tuple[Callable[[], nn.Module], tuple[int, ...]] = (lambda: nn.Linear(8, 10), (4, 8))
    print(f"AdamW, {torch.get_num_threads()} thread(s), plain = 1")
    for name, (make, shape) in {"a linear layer, a batch of 4": tiny, **MODELS}.items():
        count = 200 if name.startswith("a linear") else 1
        differences, ratios = compare(make, shape, given.rounds, count)
        error, spread = (1.25 * stdev(one) / len(one) ** 0.5 for one in (differences, ratios))
        print(
            f"  {name}: {median(differences):.1f} ± {error:.1f} µs, "
            f"{median(ratios):.4f} ± {spread:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
