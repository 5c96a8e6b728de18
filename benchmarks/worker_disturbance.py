"""How much slower training steps are while the worker makes the files of a 12-layer BERT.

A loop of small compute-bound steps is timed, on one thread and on as many as torch takes by
itself: without the library, and right after the first batch of a BERT was handed over, until the
worker has ended or, where no core is free for it, for some seconds. What is printed is the ratio
of the mean step times. Run it on a quiet machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch
from torch import nn
from transformers import BertConfig, BertModel

from modelviz_callbacks import GraphHook
from modelviz_callbacks.jobs.queue import QUEUE
from modelviz_callbacks.jobs.worker_process import Worker

STEPS = 200
LONGEST_S = 15.0


def stepper() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(512, 512), nn.ReLU()) for _ in range(8)])


def times(worker: Worker | None = None) -> list[float]:
    """Seconds of each step; with a worker until it has ended, but at most `LONGEST_S`."""
    model, x = stepper(), torch.randn(256, 512)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found: list[float] = []
    while sum(found) < LONGEST_S:
        if worker.has_ended if worker is not None else len(found) == STEPS:
            break
        start = time.perf_counter()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        found.append(time.perf_counter() - start)
    return found


def measure(threads: int) -> None:
    torch.set_num_threads(threads)
    bert = BertModel(BertConfig()).train()
    tokens = torch.randint(0, 1000, (2, 16))
    times()
    plain = times()
    with (
        tempfile.TemporaryDirectory() as folder,
        GraphHook(bert, dirpath=folder, mlflow=False),
    ):
        bert(tokens)
        worker = QUEUE.worker
        assert worker is not None
        beside = times(worker)
        ended = "it ended" if worker.has_ended else "it was not done"
    base, found = statistics.mean(plain + times()), statistics.mean(beside)
    print(
        f"{threads} thread(s): a step alone {base * 1e3:.2f} ms, beside the worker "
        f"{found * 1e3:.2f} ms: {found / base:.3f}; {ended} in {sum(beside):.1f} s",
        flush=True,
    )


def main() -> None:
    for threads in sorted({1, torch.get_num_threads()}):
        measure(threads)


if __name__ == "__main__":
    main()
