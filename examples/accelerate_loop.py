"""A loop of one's own with accelerate; the hook writes to the accelerator's trackers.

Run it with ``python examples/accelerate_loop.py [folder]``, or with ``accelerate launch``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from iris import IrisModel, loader
from torch.nn.functional import cross_entropy

from modelviz_callbacks import GraphHook


def main(folder: Path) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, log_with=["tensorboard", "mlflow"], project_dir=folder)
    accelerator.init_trackers("iris")
    model = IrisModel()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    with GraphHook(model, accelerator=accelerator):
        for features, kinds in batches:
            optimizer.zero_grad()
            loss = cross_entropy(model(features), kinds)
            accelerator.backward(loss)
            optimizer.step()
            accelerator.log({"loss": loss.item()})
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/accelerate"))
