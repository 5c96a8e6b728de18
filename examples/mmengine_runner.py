"""A runner of OpenMMLab's MMEngine; the hook finds what its visualizer writes to.

Run it with ``python examples/mmengine_runner.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch
from iris import IrisModel, loader
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from modelviz_callbacks.integrations.mmengine import ModelGraphHook


class IrisClassifier(BaseModel):
    """MMEngine's interface around any network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = IrisModel()

    def forward(self, features: torch.Tensor, kinds: torch.Tensor, mode: str) -> object:
        logits = self.network(features)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(logits, kinds)}
        return logits, kinds


def main(folder: Path) -> None:
    torch.manual_seed(0)  # the model's weights
    store = mlflow.get_tracking_uri()
    runner = Runner(
        IrisClassifier(),
        work_dir=str(folder),
        train_dataloader=loader(),
        train_cfg={"by_epoch": True, "max_epochs": 2},
        optim_wrapper={"optimizer": {"type": "Adam", "lr": 0.01}},
        visualizer={
            "type": "Visualizer",
            "vis_backends": [
                {"type": "TensorboardVisBackend"},
                {"type": "MLflowVisBackend", "tracking_uri": store},
            ],
        },
        randomness={"seed": 0},  # the order of the data
        custom_hooks=[ModelGraphHook()],
        # The MLflow backend looks there for what it keeps at the end.
        cfg=Config({"work_dir": str(folder)}),
    )
    runner.train()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/mmengine"))
