"""A supervised trainer of pytorch-ignite; the handler writes to its loggers.

Run it with ``python examples/ignite_trainer.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import MLflowLogger, TensorboardLogger
from iris import IrisModel, loader
from torch import nn

from modelviz_callbacks.integrations.ignite import GraphHandler


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = IrisModel()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    loggers = [TensorboardLogger(log_dir=str(folder / "run")), MLflowLogger()]
    for logger in loggers:
        logger.attach_output_handler(
            trainer,
            event_name=Events.ITERATION_COMPLETED,
            tag="train",
            output_transform=lambda loss: {"loss": loss},
        )
    GraphHandler(model, loggers=loggers).attach(trainer)
    trainer.run(loader(), max_epochs=1)
    for logger in loggers:
        logger.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/ignite"))
