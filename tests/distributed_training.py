"""Trains a small model in several real processes; run by torchrun from the tests.

Usage: torchrun --nproc-per-node 2 distributed_training.py FOLDER

Every kind of distribution is trained without and with the library. Every rank writes
FOLDER/KIND/WATCHED/rank<N>.json: the digest of its weights, buffers, gradients, optimizer state,
losses and random state, the collective calls it made, and what its report says.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from modelviz_callbacks import GraphHook, GraphLogger

STEPS = 3


class Block(nn.Module):
    """A residual block with parameters of several shapes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.drop(self.down(torch.relu(self.up(x)))))


class Network(nn.Module):
    """Blocks in a list between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.blocks = nn.ModuleList([Block(8) for _ in range(2)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Learner(pl.LightningModule):
    """The same network under a trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.network(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def batches(rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A rank's own data."""
    generator = torch.Generator().manual_seed(rank)
    return [
        (
            torch.randn(5, 4, generator=generator),
            torch.randint(0, 3, (5,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def train(model: nn.Module, watch: Callable[[nn.Module], GraphHook] | None) -> dict[str, Any]:
    """A plain loop of three steps; what can be seen after it."""
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    torch.manual_seed(1 + dist.get_rank())
    hook = watch(model) if watch else None
    losses = []
    for x, y in batches(dist.get_rank()):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if hook is not None:
        hook.close()
    return {"digest": digest(model, optimizer, losses)} | _outcome(hook)


def fit(folder: Path, watch: bool) -> dict[str, Any]:
    """The same by a trainer, which makes the process group itself."""
    torch.manual_seed(0)
    module = Learner()
    rank = dist.get_rank()
    callback = GraphLogger(
        dirpath=folder / f"graph{rank}", onnx=False, formats=["text"], tensorboard=False
    )
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[callback] if watch else [],
    )
    torch.manual_seed(1 + rank)
    loader = DataLoader(batches(rank), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    found = {"digest": digest(module, trainer.optimizers[0], module.losses)}
    return found | _outcome(callback if watch else None)


def _outcome(watcher: GraphHook | GraphLogger | None) -> dict[str, Any]:
    report = watcher.report if watcher is not None else None
    return {
        "files": report.files if report else [],
        "refused": [refusal.why for refusal in report.refused] if report else [],
    }


def digest(model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> str:
    """One number for every bit that training produced on this rank."""
    found = hashlib.sha256(repr(losses).encode())
    state = [entry for part in optimizer.state.values() for entry in part.values()]
    grads = [p.grad for p in model.parameters()]
    for tensor in (*model.parameters(), *model.buffers(), *grads, *state, torch.get_rng_state()):
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        found.update(local.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def count_collectives(calls: list[str]) -> None:
    """Notes every collective call that Python makes from now on."""
    for name in ("all_reduce", "broadcast", "all_gather", "barrier", "reduce", "gather", "send"):
        setattr(dist, name, _counted(name, getattr(dist, name), calls))
    names = ("broadcast_object_list", "all_gather_object", "monitored_barrier", "new_group")
    for name in (*names, "all_gather_into_tensor", "reduce_scatter_tensor"):
        setattr(dist, name, _counted(name, getattr(dist, name), calls))


def _counted(name: str, original: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def collective(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return original(*args, **kwargs)

    return collective


def built(kind: str) -> nn.Module:
    """The network in the wrapper that distributes it."""
    torch.manual_seed(0)
    network = Network()
    if kind == "ddp":
        return DistributedDataParallel(network)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if kind == "tensor parallel":
        for block in network.blocks:
            parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        return network
    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def main(folder: Path) -> None:
    """Trains as one of the processes."""
    calls: list[str] = []
    count_collectives(calls)
    dist.init_process_group("gloo")
    for kind in ("ddp", "fsdp", "tensor parallel", "lightning"):
        for watched in (False, True):
            place = folder / kind / ("watched" if watched else "plain")
            place.mkdir(parents=True, exist_ok=True)
            dist.barrier()
            del calls[:]
            if kind == "lightning":
                found = fit(place, watched)
            else:
                found = train(built(kind), _watch(place) if watched else None)
            (place / f"rank{dist.get_rank()}.json").write_text(
                json.dumps(found | {"collectives": calls})
            )
    dist.destroy_process_group()


def _watch(folder: Path) -> Callable[[nn.Module], GraphHook]:
    options: dict[str, Any] = {"onnx": False, "formats": ["text"], "tensorboard": False}
    return lambda model: GraphHook(model, dirpath=folder / f"graph{dist.get_rank()}", **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
