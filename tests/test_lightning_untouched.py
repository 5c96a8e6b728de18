"""``GraphLogger`` changes nothing: not a bit of a weight, not a random number, not a flag."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy
import pytest
import torch
from torch.utils.data import DataLoader

from modelviz_callbacks import GraphLogger
from tests.lightning_modules import (
    IN_PLACE,
    Classifier,
    Gan,
    Watcher,
    WithForward,
    data,
    ops_of,
    recorded,
    trainer_for,
)
from tests.zoo.leaves import difference, frozen
from tests.zoo.untouched import switches

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


def state_after_fit(
    folder: Path, make: Callable[[], pl.LightningModule], *callbacks: pl.Callback
) -> Any:
    pl.seed_everything(0)
    module, watcher = make(), Watcher()
    module.train()
    if isinstance(module, Classifier):
        module.backbone.eval()
    trainer = trainer_for(folder, *callbacks, watcher, max_steps=4)
    trainer.fit(module, DataLoader(torch.randn(16, 4), 4, shuffle=True))
    attributes = [sorted(vars(m)) for m in module.modules()]
    return frozen(
        {
            "losses": watcher.losses,
            "state": dict(module.state_dict()),
            "gradients": [p.grad for p in module.parameters()],
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "flags": [m.training for m in module.modules()],
            "attributes": attributes,
            "torch": torch.get_rng_state(),
            "numpy": numpy.random.get_state()[1],
            "python": list(random.getstate()[1]),
            # The exporter's progress bar has a thread of its own.
            "switches": [item for item in switches().inside.items() if "threads" not in item[0]],
        }
    )


@pytest.mark.alike
@pytest.mark.parametrize("make", [Classifier, WithForward, Gan])
def test_training_goes_the_same_to_the_bit_with_and_without_it(
    make: Callable[[], pl.LightningModule], tmp_path: Path, way: dict[str, Any]
) -> None:
    plain = state_after_fit(tmp_path, make)
    callback = GraphLogger(dirpath=tmp_path / "graphs", trained_onnx=True, **way)
    watched = state_after_fit(tmp_path, make, callback)
    assert callback.report is not None
    assert callback.report.refused == []
    assert list((tmp_path / "graphs").glob("*model.onnx"))
    assert difference(plain, watched) == ""


def test_from_the_second_batch_on_nothing_of_it_is_left(tmp_path: Path) -> None:
    plain, watched = Watcher(), Watcher()
    trainer_for(tmp_path, plain).fit(Classifier(), data())
    callback = GraphLogger(dirpath=tmp_path, **IN_PLACE)
    trainer_for(tmp_path, callback, watched).fit(Classifier(), data())
    assert len(watched.seen) == 3
    for one, other in zip(plain.seen[1:], watched.seen[1:], strict=True):
        assert difference(one, other) == ""


def test_the_module_can_be_copied_and_saved_inside_the_recorded_step(tmp_path: Path) -> None:
    class Copies(Classifier):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            copied = copy.deepcopy(self.head)
            torch.save(copied.state_dict(), tmp_path / "state.pt")
            return super().training_step(batch, batch_idx)

        def on_before_backward(self, loss: torch.Tensor) -> None:
            copy.deepcopy(self)

    assert ops_of(recorded(tmp_path, Copies()))[-2:] == ["square", "mean"]
