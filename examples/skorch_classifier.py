"""A classifier of skorch in the manner of scikit-learn; the callback finds the others' runs.

Run it with ``python examples/skorch_classifier.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch
from iris import IrisModel, flowers
from skorch import NeuralNetClassifier
from skorch.callbacks import MlflowLogger, TensorBoard
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks.integrations.skorch import GraphCallback


def main(folder: Path) -> None:
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        IrisModel,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=2,
        callbacks=[
            TensorBoard(SummaryWriter(str(folder / "run"))),
            MlflowLogger(create_artifact=False, terminate_after_train=False),
            GraphCallback(),
        ],
    )
    with mlflow.start_run():
        net.fit(*flowers())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/skorch"))
