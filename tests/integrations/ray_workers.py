"""Trains with Ray Train in two real workers; run from a test.

Usage: python ray_workers.py FOLDER

A plain loop and a trainer of Lightning, each without and with the recording. Every worker writes
``FOLDER/<kind>_<rank>.json``: whether its weights are equal to the bit, and what files it wrote.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import ray
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer, prepare_model
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from modelviz_callbacks import GraphHook, GraphLogger
from tests.integrations.seen import IN_PLACE, batches, net, same


class Learner(pl.LightningModule):
    """The network of all these tests under a trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = net()

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        features, labels = batch
        return cross_entropy(self.network(features), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def loop(folder: Path | None) -> tuple[list[torch.Tensor], list[str]]:
    """A plain loop around what Ray makes of a model; its weights, and the files written."""
    rank = ray.train.get_context().get_world_rank()
    model = prepare_model(net())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    torch.manual_seed(rank)
    hook = None
    if folder is not None:
        hook = GraphHook(model, loss=True, dirpath=folder / f"loop{rank}", **IN_PLACE)
    for features, labels in batches():
        optimizer.zero_grad()
        cross_entropy(model(features * (rank + 1)), labels).backward()
        optimizer.step()
    if hook is not None:
        hook.close()
    return list(model.parameters()), hook.report.files if hook is not None else []


def fit(folder: Path | None) -> tuple[list[torch.Tensor], list[str]]:
    """The same by Lightning within Ray."""
    rank = ray.train.get_context().get_world_rank()
    callback = None
    if folder is not None:
        callback = GraphLogger(dirpath=folder / f"lightning{rank}", **IN_PLACE)
    module = Learner()
    trainer = prepare_trainer(
        pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices="auto",
            strategy=RayDDPStrategy(),
            plugins=[RayLightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback] if callback is not None else [],
        )
    )
    torch.manual_seed(rank)
    trainer.fit(module, DataLoader(batches(), batch_size=None))  # type: ignore[arg-type]
    report = callback.report if callback is not None else None
    return list(module.parameters()), report.files if report is not None else []


def worker(config: dict[str, Any]) -> None:
    """What each worker does."""
    warnings.simplefilter("ignore")
    folder, rank = Path(config["folder"]), ray.train.get_context().get_world_rank()
    for kind, train in (("loop", loop), ("lightning", fit)):
        without, _ = train(None)
        with_it, files = train(folder)
        told = {"same": same(without, with_it), "files": files}
        (folder / f"{kind}_{rank}.json").write_text(json.dumps(told))


def main(folder: Path) -> None:
    """Starts Ray on this machine alone, and the two workers."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        TorchTrainer(
            worker,
            train_loop_config={"folder": str(folder)},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=str(folder / "ray")),
        ).fit()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
