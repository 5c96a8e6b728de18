"""Trains a model in several real processes under one MLflow store; run by torchrun from a test.

Usage: torchrun --nproc-per-node 2 distributed_mlflow.py FOLDER TRACKING_URI
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from modelviz_callbacks import GraphHook


def main(folder: Path, uri: str) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    with GraphHook(
        model, dirpath=folder, mlflow=uri, formats=["text"], onnx=False, tensorboard=False
    ) as hook:
        for _ in range(2):
            model(torch.randn(3, 4)).sum().backward()
    (folder.parent / f"rank{dist.get_rank()}.json").write_text(hook.report.to_json())
    # A process that leaves gloo while another is still at work is aborted at times, also without
    # this library.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
