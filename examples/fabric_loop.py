"""A loop of one's own with Lightning Fabric; its callback writes to Fabric's loggers.

Run it with ``python examples/fabric_loop.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch
from iris import IrisModel, loader
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from torch.nn.functional import cross_entropy

from modelviz_callbacks.integrations.fabric import GraphCallback


def main(folder: Path) -> None:
    torch.manual_seed(0)
    logger = TensorBoardLogger(folder, name="runs")
    fabric = Fabric(accelerator="cpu", loggers=[logger], callbacks=[GraphCallback()])
    model = IrisModel()
    with mlflow.start_run():
        model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), 0.01))
        for step, (features, kinds) in enumerate(fabric.setup_dataloaders(loader())):
            optimizer.zero_grad()
            loss = cross_entropy(model(features), kinds)
            fabric.backward(loss)
            optimizer.step()
            fabric.log("loss", loss, step)
            mlflow.log_metric("loss", loss.item(), step)
        fabric.call("on_train_end")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/fabric"))
