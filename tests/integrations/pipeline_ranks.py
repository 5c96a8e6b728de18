"""Trains pipelines of two and of four stages in two real processes; run by torchrun from a test.

Usage: torchrun --nproc-per-node 2 pipeline_ranks.py FOLDER

Every rank prints ``RANK``, its number, and whether its weights are equal to the bit with
and without the recording, for each pipeline.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import (
    PipelineStage,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
)

from modelviz_callbacks import GraphHook
from tests.integrations.seen import IN_PLACE, same


def train(folder: Path | None) -> list[torch.Tensor]:
    rank = dist.get_rank()
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    part = nn.Sequential(*(layers[2:] if rank else layers[:2]))
    stage = PipelineStage(part, rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, 2, loss_fn=nn.functional.mse_loss)
    optimizer = torch.optim.SGD(part.parameters(), 0.1)
    hook = GraphHook(stage, dirpath=folder, **IN_PLACE) if folder is not None else None
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        features, target = torch.randn(4, 8), torch.randn(4, 4)
        if rank:
            schedule.step(target=target)
        else:
            schedule.step(features)
        optimizer.step()
    if hook is not None:
        hook.close()
    return list(part.parameters())


class Stage(nn.Module):
    """Hands on what a later stage wants beside what the next one does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.layer = number, nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> Any:
        if self.number == 0:
            return torch.relu(self.layer(x)), torch.sigmoid(x)
        if self.number == 1:
            return self.layer(x), skip
        return torch.tanh(self.layer(x) + skip) if skip is not None else self.layer(x)


def train_interleaved(folder: Path | None) -> list[torch.Tensor]:
    """Every rank has two of four stages."""
    rank = dist.get_rank()
    torch.manual_seed(0)
    parts = [Stage(number) for number in range(4)]
    stages = [PipelineStage(parts[n], n, 4, torch.device("cpu")) for n in (rank, rank + 2)]
    schedule = ScheduleInterleaved1F1B(stages, 2, loss_fn=nn.functional.mse_loss)
    own = [parameter for stage in stages for parameter in stage.submod.parameters()]
    optimizer = torch.optim.SGD(own, 0.1)
    hooks = [GraphHook(one, dirpath=folder, **IN_PLACE) for one in stages if folder is not None]
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        features, target = torch.randn(4, 8), torch.randn(4, 8)
        if rank:
            schedule.step(target=target)
        else:
            schedule.step(features)
        optimizer.step()
    for hook in hooks:
        hook.close()
    return own


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    is_same = same(train(None), train(folder))
    are_same = same(train_interleaved(None), train_interleaved(folder / "interleaved"))
    sys.stdout.write(f"RANK {dist.get_rank()} {is_same} {are_same}\n")
    sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
