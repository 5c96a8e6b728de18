"""``GraphLogger`` on bad days: whatever fails, the training goes on as if alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modelviz_callbacks import GraphLogger, ModelGraph
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.report import ModelvizWarning
from tests.faults import FAULTS, break_at
from tests.lightning_modules import (
    HEAD_OPS,
    IN_PLACE,
    QUICK,
    Classifier,
    Watcher,
    data,
    ops_of,
    recorded,
    trainer_for,
)
from tests.zoo.leaves import difference
from tests.zoo.untouched import switches

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Fails(Classifier):
    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        super().training_step(batch, batch_idx)
        raise RuntimeError("of the user")


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_step_that_raises_leaves_its_graph_and_its_exception(
    on_error: Any, tmp_path: Path, way: dict[str, Any]
) -> None:
    before = switches()
    callback = GraphLogger(dirpath=tmp_path / "graphs", on_error=on_error, **QUICK, **way)
    module = Fails()
    with pytest.raises(RuntimeError, match="of the user") as raised:
        trainer_for(tmp_path, callback).fit(module, data())
    assert raised.value.__cause__ is None
    graph = ModelGraph.load(tmp_path / "graphs" / "graph.json")
    assert graph.partial
    assert ops_of(graph)[: len(HEAD_OPS)] == HEAD_OPS
    report = json.loads((tmp_path / "graphs" / "report.json").read_text())
    assert "RuntimeError: of the user" in report["remarks"][0]
    assert difference(before, switches()) == ""
    assert "training_step" not in vars(module)


def test_a_failure_of_ours_never_takes_the_place_of_the_users_exception(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    (tmp_path / "file").touch()
    callback = GraphLogger(dirpath=tmp_path / "file" / "graphs", on_error="raise", **QUICK, **way)
    with pytest.warns(ModelvizWarning), pytest.raises(RuntimeError, match="of the user"):
        trainer_for(tmp_path, callback).fit(Fails(), data())


def test_a_folder_that_cannot_be_made_does_not_end_the_training(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    (tmp_path / "file").touch()
    callback = GraphLogger(dirpath=tmp_path / "file" / "graphs", **QUICK, **way)
    trainer = trainer_for(tmp_path, callback)
    with pytest.warns(ModelvizWarning, match="pass another dirpath="):
        trainer.fit(Classifier(), data())
    assert trainer.global_step == 3


def test_errors_can_be_raised_at_the_end_of_the_training_instead(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    (tmp_path / "file").touch()
    callback = GraphLogger(dirpath=tmp_path / "file" / "graphs", on_error="raise", **QUICK, **way)
    trainer = trainer_for(tmp_path, callback)
    with pytest.warns(ModelvizWarning), pytest.raises(Exception, match=r"graph\.json"):
        trainer.fit(Classifier(), data())
    assert trainer.global_step == 3


@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_of_ours_costs_the_graph_and_not_the_training(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(place, monkeypatch)
    callback, watcher = GraphLogger(dirpath=tmp_path / "graphs", **IN_PLACE), Watcher()
    module, before = Classifier(), switches()
    trainer = trainer_for(tmp_path, callback, watcher)
    with pytest.warns(ModelvizWarning, match="injected into"):
        trainer.fit(module, data())
    assert trainer.global_step == 3
    assert difference(before, switches()) == ""
    for switched, hooks, attributes in watcher.seen[1:]:
        assert difference(watcher.seen[0][0], switched) == ""
        assert not any(hooks)
        assert "training_step" not in attributes


class Skips(Classifier):
    epochs_to_skip = 1

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch < self.epochs_to_skip else None


def test_a_skipped_epoch_is_waited_for(tmp_path: Path) -> None:
    graph = recorded(tmp_path, Skips(), max_steps=-1, max_epochs=2)
    assert ops_of(graph) == [*HEAD_OPS, "square", "mean"]


def test_a_fit_that_skips_everything_says_that_nothing_was_recorded(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    module = Skips()
    module.epochs_to_skip = 9
    callback = GraphLogger(**QUICK, **way)
    said = r"on_train_batch_start skips every batch.*trace\(model.*GraphHook\(model, method="
    with pytest.warns(ModelvizWarning, match=said):
        trainer_for(tmp_path, callback, max_steps=-1, max_epochs=2).fit(module, data())
    assert "training_step" not in vars(module)


def test_a_wrong_option_is_refused_when_the_callback_is_made() -> None:
    with pytest.raises(OptionError, match=r"unknown format 'svgg'.*did you mean 'svg'"):
        GraphLogger(formats=["svgg"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="fromats"):
        GraphLogger(fromats=["svg"])  # type: ignore[call-arg]
