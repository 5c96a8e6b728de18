"""The flowers that the examples of the trainers learn: a model, its data, no training."""

from __future__ import annotations

import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class IrisModel(nn.Module):
    """4 features, 8 hidden units, 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(features)))


def flowers() -> tuple[torch.Tensor, torch.Tensor]:
    """150 flowers: four measurements of each, and its kind."""
    iris = load_iris()
    return torch.tensor(iris.data, dtype=torch.float32), torch.tensor(iris.target)


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    """The flowers in batches of ten."""
    return DataLoader(TensorDataset(*flowers()), batch_size=10, shuffle=True)
