"""How much slower training steps are while the worker makes the files of a 12-layer BERT.

A loop of small compute-bound steps on one thread is timed: without the library, and right after
the first batch of a BERT was handed over, until the worker has ended. One core is left to the
worker. What is printed is the ratio of the median step times. Run it on a quiet machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch
from torch import nn
from transformers import BertConfig, BertModel

from modelviz_callbacks import GraphHook

STEPS = 60


def stepper() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(512, 512), nn.ReLU()) for _ in range(8)])


def times(until: object = None) -> list[float]:
    """Seconds of each step; as many as fit in until a process has ended, else `STEPS`."""
    model, x = stepper(), torch.randn(256, 512)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found: list[float] = []
    while len(found) < STEPS if until is None else not until.has_ended:  # type: ignore[attr-defined]
        start = time.perf_counter()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    torch.set_num_threads(1)
    bert = BertModel(BertConfig()).train()
    tokens = torch.randint(0, 1000, (2, 16))
    times()
    plain = times()
    with (
        tempfile.TemporaryDirectory() as folder,
        GraphHook(bert, dirpath=folder, mlflow=False) as hook,
    ):
        bert(tokens)
        began = time.perf_counter()
        worker = hook._pipeline._worker
        assert worker is not None
        beside = times(worker)
        print(f"The worker took {time.perf_counter() - began:.1f} s; {len(beside)} steps beside it")
    after = times()
    base = statistics.median(plain + after)
    print(
        f"Median step alone {base * 1e3:.2f} ms, beside the worker "
        f"{statistics.median(beside) * 1e3:.2f} ms: {statistics.median(beside) / base:.3f}"
    )


if __name__ == "__main__":
    main()
