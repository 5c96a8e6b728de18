"""An Iris classifier in a plain training loop, exported to ONNX with named ends.

Four measurements of a flower go in, three logits come out. `GraphHook` watches the loop; at its
end the trained model is in ``model.onnx``, which is then run without the model.

Run it with ``python examples/plain_loop_iris.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import torch
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from modelviz_callbacks import GraphHook


class IrisModel(nn.Module):
    """4 features, 8 hidden units, 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(features)))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    iris = load_iris()
    x_train, x_test, y_train, y_test = train_test_split(
        torch.tensor(iris.data, dtype=torch.float32),
        torch.tensor(iris.target),
        test_size=0.2,
        random_state=0,
        stratify=iris.target,
    )
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=10, shuffle=True)
    model = IrisModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion = nn.CrossEntropyLoss()

    with GraphHook(
        model,
        dirpath=folder,
        input_names=["features"],
        output_names=["logits"],
        trained_onnx=True,
    ) as hook:
        model.train()
        for _ in range(100):
            for features, label in loader:
                optimizer.zero_grad()
                criterion(model(features), label).backward()
                optimizer.step()

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(["logits"], {"features": x_test.numpy()})
    accuracy = (torch.as_tensor(logits).argmax(dim=1) == y_test).float().mean()
    print(f"Accuracy of {folder / 'model.onnx'} on held-out flowers: {accuracy:.1%}")
    print(f"Largest difference to the model: {hook.report.figures['onnx_max_difference']:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/iris"))
