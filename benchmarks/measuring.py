"""What the benchmarks measure with."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from modelviz_callbacks.jobs.queue import QUEUE

# Of glibc's allocator: to give nothing back.
_KEEPS_MEMORY = dict.fromkeys(
    ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(8 * 2**30)
) | {"MALLOC_TOP_PAD_": str(2**27)}


def seconds(run: Callable[[], object]) -> float:
    gc.collect()  # before each, so that none of them finds the caches warmer than another
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def end_worker() -> None:
    """Nobody needs the files, and the next round wants the machine for itself."""
    assert QUEUE.worker is not None
    QUEUE.worker.kill()


def keep_memory() -> None:
    """Starts this program again with an allocator that keeps what it was given.

    As it is set up, glibc gives the memory of large tensors back and gets it anew, page by page:
    none to 20,000 page faults in a step of the ResNets below, which take 0 to 20 ms and hide
    what is looked for. Elsewhere the settings have no effect.
    """
    if not _KEEPS_MEMORY.keys() <= os.environ.keys():
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | _KEEPS_MEMORY)


def training_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of a classifier with AdamW: forward, backward, update.

    Args:
        model: The classifier.
        x: What it reads, a batch.
        y: The classes, int64 of shape ``(batch,)``.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step
