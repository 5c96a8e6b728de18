"""Trains a pipeline of two stages in two real processes; run by torchrun from a test.

Usage: torchrun --nproc-per-node 2 pipeline_ranks.py FOLDER

Every rank prints ``RANK``, its number, and whether its weights are equal to the bit with
and without the recording.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

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


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    is_same = same(train(None), train(folder))
    sys.stdout.write(f"RANK {dist.get_rank()} {is_same}\n")
    sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
