"""Lightning's own logger where TensorBoard is not installed: it writes with tensorboardX."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.loggers import tensorboard as fabrics
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers import tensorboard as trainers
from lightning.pytorch.trainer.connectors.logger_connector import logger_connector
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from modelviz_callbacks import GraphLogger
from modelviz_callbacks.loggers import is_named
from tests.lightning_modules import QUICK, Classifier, data, trainer_for

pytestmark = [pytest.mark.filterwarnings("ignore:::lightning"), pytest.mark.library]
pytest.importorskip("tensorboardX")


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Lightning believe so; the tests read with TensorBoard."""
    for module in (fabrics, trainers, logger_connector):
        monkeypatch.setattr(module, "_TENSORBOARD_AVAILABLE", False)


def runs_of(folder: Path) -> list[EventAccumulator]:
    """What is in each event file of a folder, oldest first."""
    files = sorted(folder.glob("events.out.*"))
    return [EventAccumulator(str(path)).Reload() for path in files]


def test_the_logger_that_a_trainer_makes_gets_the_graph_beside_its_scalars(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    callback = GraphLogger(**QUICK, **way)
    trainer = trainer_for(tmp_path, callback, logger=True)
    trainer.fit(Classifier(), data())
    assert isinstance(trainer.logger, TensorBoardLogger)
    assert is_named(trainer.logger.experiment, "SummaryWriter", "tensorboardX")
    assert callback.report is not None
    assert callback.report.refused == []
    (run,) = runs_of(Path(trainer.logger.log_dir))
    assert run.Tags()["graph"]
    assert "Classifier/layers" in run.Tags()["tensors"]
    assert [event.step for event in run.Scalars("loss_step")] == [0, 1, 2]


def test_a_second_fit_s_graph_is_there_though_the_first_closed_the_writer(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    logger, module = TensorBoardLogger(tmp_path, name="runs"), Classifier()
    for _ in range(2):
        callback = GraphLogger(**QUICK, **way)
        trainer_for(tmp_path, callback, logger=logger).fit(module, data())
        assert callback.report is not None
        assert callback.report.refused == []
        module.head.append(nn.Linear(2, 2))
        time.sleep(1)  # tensorboardX names a file by the second, and begins one of a name anew
    assert {path.name for path in Path(logger.log_dir).glob("model_graph*")} == {
        "model_graph",
        "model_graph_2",
    }
    graphs = [run.Tags()["graph"] for run in runs_of(Path(logger.log_dir))]
    assert graphs == [True, True]
