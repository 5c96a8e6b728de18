"""A learner of fastai; the callback finds its TensorBoard run and MLflow's.

Run it with ``python examples/fastai_learner.py [folder]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.torch_core import set_seed
from iris import IrisModel, flowers
from torch import nn

from modelviz_callbacks.integrations.fastai import GraphCallback


def main(folder: Path) -> None:
    set_seed(0)
    rows = list(zip(*flowers(), strict=True))
    learn = Learner(
        DataLoaders.from_dsets(rows, rows[::5], bs=10, device="cpu"),
        IrisModel(),
        loss_func=nn.CrossEntropyLoss(),
        cbs=[
            TensorBoardCallback(log_dir=folder / "run", trace_model=False, log_preds=False),
            GraphCallback(),
        ],
    )
    with mlflow.start_run():
        learn.fit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/fastai"))
