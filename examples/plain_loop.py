"""A loop of one's own; the hook writes to the SummaryWriter and to the MLflow run of the loop.

Run it with ``python examples/plain_loop.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch
from iris import IrisModel, loader
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks import GraphHook


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = IrisModel()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    writer = SummaryWriter(folder / "run")
    with GraphHook(model, loss=True), mlflow.start_run():
        for step, (features, kinds) in enumerate(loader()):
            optimizer.zero_grad()
            loss = cross_entropy(model(features), kinds)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss, step)
            mlflow.log_metric("loss", loss.item(), step)
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/plain_loop"))
