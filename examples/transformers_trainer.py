"""A small BERT that tells odd sums from even ones, trained by the Trainer of transformers.

The Trainer writes to TensorBoard and to MLflow, and so does the callback: the graph of the first
training step, the loss with its smoothed labels included.

Run it with ``python examples/transformers_trainer.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from modelviz_callbacks.integrations.transformers import GraphCallback


def main(folder: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 10, (64, 8))
    rows = [{"input_ids": row, "labels": row.sum() % 2} for row in tokens]
    config = BertConfig(
        vocab_size=10,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    model = BertForSequenceClassification(config)
    arguments = TrainingArguments(
        str(folder),
        max_steps=8,
        logging_steps=1,
        label_smoothing_factor=0.1,
        report_to=["tensorboard", "mlflow"],
        save_strategy="no",
        use_cpu=True,
    )
    Trainer(model, arguments, train_dataset=rows, callbacks=[GraphCallback()]).train()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/transformers"))
