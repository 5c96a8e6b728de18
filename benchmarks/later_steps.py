"""What the options that look at later steps cost: that one step, and all others, as ratios.

For each of ``inspect_step``, ``watch_changes``, ``profile_step`` and ``find_nonfinite`` two models
of the same kind train side by side on the same data, step by step in random order, a plain one and
one with a hook that has the option. The steps before and after the one that is looked at are all
others; ``find_nonfinite`` has no such step. What is printed is the middle of the ratios with its
standard error; "plain" is a second plain model: by what its ratio differs from one is the machine's
unrest.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
from collections.abc import Callable
from statistics import median, stdev
from typing import Any

import torch
from torch import nn

from benchmarks.inspect_step import MODELS
from benchmarks.measuring import keep_memory, seconds, training_step
from modelviz_callbacks import GraphHook

# The step that is looked at, and how many there are: a recording again comes every so often.
_THAT, _STEPS = 4, 8
_OPTIONS: dict[str, dict[str, Any]] = {
    "inspect_step": {"inspect_step": _THAT},
    "watch_changes": {"watch_changes": _THAT},
    "profile_step": {"profile_step": _THAT},
    "find_nonfinite": {"find_nonfinite": True},
}
_FEW: dict[str, Any] = {
    "background": False,
    "formats": ["text"],
    "onnx": False,
    "mlflow": False,
    "tensorboard": False,
}


def compare(
    make: Callable[[], nn.Module], shape: tuple[int, ...], options: dict[str, Any], rounds: int
) -> tuple[list[float], list[float]]:
    """The ratios of the step that is looked at, and of all others but the recorded one.

    Args:
        make: Makes the model.
        shape: Of a batch.
        options: Of the hook; none: there is no hook.
        rounds: How often the steps are run.
    """
    order = random.Random(0)
    x, y = torch.randn(shape), torch.randint(0, 10, (shape[0],))
    that, others = list[float](), list[float]()
    for _ in range(rounds):
        plain, watched = make(), make()
        steps = [training_step(plain, x, y), training_step(watched, x, y)]
        for _ in range(2):
            steps[0]()
            steps[1]()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
            hook = GraphHook(watched, dirpath=folder, **_FEW, **options) if options else None
            for number in range(_STEPS):
                took = {which: seconds(steps[which]) for which in order.sample([0, 1], 2)}
                # Step 0 is recorded, and what waits for the backward ends with the next forward.
                if number not in (0, _THAT + 1):
                    (that if number == _THAT else others).append(took[1] / took[0])
            if hook is not None:
                hook.close()
    return that, others


def _told(ratios: list[float]) -> str:
    return f"{median(ratios):.3f} ± {1.25 * stdev(ratios) / len(ratios) ** 0.5:.3f}"


def main() -> None:
    """Prints the ratios of each model and option."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="how often each model is timed")
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(given.threads)
    print(f"AdamW, {torch.get_num_threads()} thread(s), plain = 1")
    for name, (make, shape) in MODELS.items():
        print(f"{name}\n  {'':<16}{'that step':>16}{'all others':>18}")
        for option, options in {"plain": dict[str, Any](), **_OPTIONS}.items():
            that, others = compare(make, shape, options, given.rounds)
            shown = "" if option in ("plain", "find_nonfinite") else _told(that)
            more = that if not shown else []
            print(f"  {option:<16}{shown:>16}{_told(others + more):>18}", flush=True)


if __name__ == "__main__":
    main()
