"""LightningModules and trainers for the tests of ``GraphLogger``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from modelviz_callbacks import GraphLogger, ModelGraph
from tests.zoo.untouched import switches

QUICK: dict[str, Any] = {"onnx": False, "formats": ["text"]}
# For what is in a graph, and for faults that are put into this process.
IN_PLACE: dict[str, Any] = QUICK | {"background": False}


class Classifier(pl.LightningModule):
    """A backbone that is frozen in eval mode, and a head; no ``forward``."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lr = lr
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.backbone.requires_grad_(False).eval()
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 2))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        loss = self.head(self.backbone(batch)).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.head.parameters(), self.lr)


def data(rows: int = 16) -> DataLoader[Any]:
    return DataLoader(torch.randn(rows, 4, generator=torch.Generator().manual_seed(0)), 4)


def trainer_for(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "max_steps": 3,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
    }
    return pl.Trainer(**settings | options)


def recorded(
    folder: Path, module: pl.LightningModule, loader: Any = None, **options: Any
) -> ModelGraph:
    """The graph of a short fit of a module."""
    callback = GraphLogger(dirpath=folder / "graphs", **IN_PLACE)
    trainer_for(folder, callback, **options).fit(module, loader or data())
    assert callback.report is not None
    assert callback.report.refused == []
    return ModelGraph.load(folder / "graphs" / "graph.json")


def ops_of(graph: ModelGraph) -> list[str]:
    return [node.op for node in graph.ops]


HEAD_OPS = ["linear", "batch_norm", "relu", "add_", "batch_norm", "dropout", "linear"]


class WithForward(Classifier):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(features))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self(batch).square().mean()


class Gan(pl.LightningModule):
    """Two networks, two optimisers, two losses, optimised by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        for_generator, for_critic = self.optimizers()
        self.toggle_optimizer(for_generator)
        made = self.generator(torch.randn(len(batch), 2))
        wanted = torch.ones(len(batch), 1)
        fooled = F.binary_cross_entropy_with_logits(self.critic(made), wanted)
        self.log("generator", fooled)
        for_generator.zero_grad()
        self.manual_backward(fooled)
        self.clip_gradients(for_generator, 0.5, "norm")
        for_generator.step()
        self.untoggle_optimizer(for_generator)

        self.toggle_optimizer(for_critic)
        real = F.mse_loss(self.critic(batch), wanted)
        fake = F.mse_loss(self.critic(made.detach()), wanted * 0)
        for_critic.zero_grad()
        self.manual_backward((real + fake) / 2)
        for_critic.step()
        self.untoggle_optimizer(for_critic)

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.generator.parameters(), 0.01),
            torch.optim.SGD(self.critic.parameters(), 0.01, momentum=0.9),
        ]


class Watcher(pl.Callback):
    """Notes what is switched on in every batch, and the losses."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.losses: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]
        self.seen.append((switches(), hooks, sorted(vars(module))))

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs:
            self.losses.append(outputs["loss"].detach().clone())
