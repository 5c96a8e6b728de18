"""Which process of a distributed run records and writes; asks no other process."""

from __future__ import annotations

import os

import torch

# Set in the environment of a worker: should it import code that trains, nothing is recorded.
IN_WORKER = "MODELVIZ_IN_WORKER"


def is_recording_rank() -> bool:
    """Whether this is rank zero, or the only process, and no worker.

    Before the process group is there, the launcher's ``RANK`` (torchrun) or ``SLURM_PROCID``
    says so. Nothing is sent to anybody.
    """
    if IN_WORKER in os.environ:
        return False
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) in ("0", "")
