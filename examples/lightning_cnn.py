"""A CNN with two branches, trained on scikit-learn's digits with Lightning.

The model has two convolution blocks, two linear layers side by side on the same features, a
concatenation and a last layer. `GraphLogger()` needs no option to find the TensorBoard run and
the MLflow run.

Run it with ``python examples/lightning_cnn.py [folder]``; everything is written to the folder,
``demo`` unless another is given.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from modelviz_callbacks import GraphLogger


class CNN(nn.Module):
    """Two convolution blocks, two branches, one head."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.mlp1 = nn.Linear(32 * 7 * 7, 64)
        self.mlp2 = nn.Linear(32 * 7 * 7, 64)
        self.fc = nn.Linear(128, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.cnn(image).flatten(1)
        both = torch.cat([F.relu(self.mlp1(features)), F.relu(self.mlp2(features))], dim=1)
        return self.fc(both)


class DigitClassifier(CNN, pl.LightningModule):
    """The CNN with a loss and an optimiser."""

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        image, label = batch
        loss = F.cross_entropy(self(image), label)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        image, label = batch
        accuracy = (self(image).argmax(dim=1) == label).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Digits(pl.LightningDataModule):
    """scikit-learn's 1797 handwritten digits, enlarged to 1×28×28; a quarter is held out."""

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        images = F.interpolate(small, size=(28, 28), mode="bilinear")
        labels = torch.tensor(digits.target)
        train, held_out = train_test_split(
            range(len(labels)), test_size=0.25, random_state=0, stratify=digits.target
        )
        self.train_set = TensorDataset(images[train], labels[train])
        self.held_out_set = TensorDataset(images[held_out], labels[held_out])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.held_out_set, 256)


def main(folder: Path) -> None:
    # Lightning's advice about workers and metrics is not what this example is about.
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    store = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    is_file = store.startswith("sqlite:")  # a server has a place of its own for artifacts
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=6,
        accelerator="cpu",
        default_root_dir=folder,
        logger=[
            TensorBoardLogger(folder, name="runs"),
            MLFlowLogger(
                "digits",
                tracking_uri=store,
                artifact_location=str(folder / "artifacts") if is_file else None,
            ),
        ],
        callbacks=[GraphLogger(trained_onnx=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=5,
    )
    trainer.fit(DigitClassifier(), Digits())
    print(f"Held-out accuracy: {float(trainer.callback_metrics['accuracy']):.1%}")
    files = Path(trainer.loggers[0].log_dir) / "model_graph"
    print("\nLook at the result with")
    print(f"  tensorboard --logdir {folder / 'runs'}        (the Graphs tab)")
    print(f"  mlflow ui --backend-store-uri {store}   (the run's artifacts)")
    print(f"  netron {files / 'graph.onnx'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
