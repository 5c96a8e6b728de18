"""What the code of the documentation takes for granted: a model, data, an optimizer, an answer."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M)


def names_for(page: Path) -> dict[str, Any]:
    """What a page's code uses without saying where it comes from.

    Args:
        page: Its file.
    """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class IrisModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.hidden(features)))

    torch.manual_seed(0)
    measurements, kinds = torch.rand(12, 4), torch.randint(0, 3, (12,))
    model = IrisModel()
    return {
        "torch": torch,
        "nn": nn,
        "IrisModel": IrisModel,
        "model": model,
        "measurements": measurements,
        "kinds": kinds,
        "features": measurements[:4],
        "x": measurements[:4],
        "loader": DataLoader(TensorDataset(measurements, kinds), batch_size=4),
        "optimizer": torch.optim.Adam(model.parameters()),
        "criterion": nn.CrossEntropyLoss(),
        "make_net": IrisModel,
        **_for_trainer(page.stem, model),
    }


def _for_trainer(name: str, model: Any) -> dict[str, Any]:
    """What only one trainer's page uses."""
    if name in ("lightning", "README"):
        import lightning.pytorch as pl
        import torch

        class Iris(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                features, kinds = batch
                return torch.nn.functional.cross_entropy(self.model(features), kinds)

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.Adam(self.parameters())

        return {"module": Iris()}
    if name == "transformers":
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
        config = BertConfig(vocab_size=10, num_attention_heads=2, **small)
        tokens = torch.randint(0, 10, (8, 4))
        rows = [{"input_ids": row, "labels": row.sum() % 2} for row in tokens]
        return {"bert": BertForSequenceClassification(config), "rows": rows}
    return {}


def run(page: Path) -> str:
    """Runs a page's Python from top to bottom, in the working directory; what it prints."""
    names = names_for(page)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for number, code in enumerate(blocks(page, "python")):
            exec(compile(code, f"{page.name}, block {number}", "exec"), names)
    return printed.getvalue()
