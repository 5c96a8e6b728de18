"""``GraphHook`` on bad days: whatever fails, the loop and its own exceptions go on untouched."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks, register_optimizer_step_pre_hook

from modelviz_callbacks import GraphHook
from modelviz_callbacks.errors import CaptureError, SinkError
from modelviz_callbacks.report import ModelvizWarning
from tests.faults import FAULTS, break_at
from tests.mlflow_server import free_port
from tests.samples import one_and_the_rest_slow
from tests.test_hook import IN_PLACE, QUICK, graph_in, hooks_of, small
from tests.waiting import wait_for
from tests.zoo.leaves import difference, frozen
from tests.zoo.untouched import switches


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.error: BaseException | None = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return y * 2


@pytest.mark.parametrize("kind", [ValueError, torch.OutOfMemoryError])
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_forward_that_raises_leaves_its_graph_and_its_exception_as_it_was(
    kind: type[BaseException], on_error: Any, tmp_path: Path, way: dict[str, Any]
) -> None:
    assert_graph_and_exception_are_left(kind, tmp_path, QUICK | way | {"on_error": on_error})


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_an_interrupted_forward_leaves_its_graph_and_its_exception_as_it_was(
    kind: type[BaseException], on_error: Any, tmp_path: Path
) -> None:
    assert_graph_and_exception_are_left(kind, tmp_path, IN_PLACE | {"on_error": on_error})


@pytest.mark.process
@pytest.mark.filterwarnings("ignore::modelviz_callbacks.report.ModelvizWarning")
@pytest.mark.parametrize("kind", one_and_the_rest_slow([KeyboardInterrupt, SystemExit]))
def test_who_interrupts_the_training_is_not_made_to_wait_and_the_graph_comes_later(
    kind: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(kind), GraphHook(Failing(kind("mine")), dirpath=tmp_path, **QUICK) as hook:
        hook._model(torch.randn(3, 4))
    wait_for((tmp_path / "graph.json").exists)
    assert graph_in(tmp_path).partial


def assert_graph_and_exception_are_left(
    kind: type[BaseException], tmp_path: Path, options: dict[str, Any]
) -> None:
    error, before = kind("mine"), switches()
    with (
        pytest.raises(kind) as raised,
        GraphHook(Failing(error), dirpath=tmp_path, **options) as hook,
    ):
        hook._model(torch.randn(3, 4))
    assert raised.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    graph = graph_in(tmp_path)
    assert graph.partial
    assert [node.op for node in graph.ops] == ["linear"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["refused"] == []
    (remark,) = report["remarks"]
    assert f"The forward ended early with {kind.__name__}: mine" in remark
    assert difference(before, switches()) == ""


class OfWords(nn.Module):
    """Is given no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, words: list[str]) -> torch.Tensor:
        return cast(torch.Tensor, self.embedding(torch.tensor([len(word) for word in words])))


def test_a_graph_without_inputs_is_one_warning(tmp_path: Path, way: dict[str, Any]) -> None:
    model = OfWords()
    hook = GraphHook(model, dirpath=tmp_path, **QUICK, **way)
    model(["a", "bb"])
    with pytest.warns(ModelvizWarning) as caught:
        hook.close()
    (told,) = caught
    assert "the inputs: No tensor was found among what the forward was given" in str(told.message)
    assert graph_in(tmp_path).ops


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_loop_that_goes_on_after_an_interrupted_forward_is_not_watched_any_more(
    kind: type[BaseException], tmp_path: Path, way: dict[str, Any]
) -> None:
    model, before = Failing(kind("mine")), switches()
    with GraphHook(model, dirpath=tmp_path, **QUICK, **way):
        with pytest.raises(kind):
            model(torch.randn(3, 4))
        model(torch.randn(3, 4))
        assert difference(before, switches()) == ""
        assert hooks_of(model) == [0, 0]
        model(torch.randn(3, 4))
    assert graph_in(tmp_path).ops


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_after_an_interrupted_forward_another_model_is_not_in_the_graph(
    kind: type[BaseException], tmp_path: Path
) -> None:
    model, before = Failing(kind("mine")), switches()
    other = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        with pytest.raises(kind):
            model(torch.randn(3, 4))
        for _ in range(3):
            other(torch.randn(3, 4)).sum().backward()
            optimizer.step()
        assert difference(before, switches()) == ""
    graph = graph_in(tmp_path)
    assert graph.partial
    assert [node.op for node in graph.ops] == ["linear"]


def test_after_an_interrupted_forward_no_hook_stays_below_one_that_the_forward_has_put_up(
    tmp_path: Path,
) -> None:
    handles = []

    class Hooking(Failing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            handles.append(register_optimizer_step_pre_hook(lambda *_: None))
            return super().forward(x)

    model, before = Hooking(KeyboardInterrupt()), switches()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        with pytest.raises(KeyboardInterrupt):
            model(torch.randn(3, 4))
        torch.optim.SGD(model.parameters(), 0.1).step()
    handles.pop().remove()
    assert not _global_optimizer_pre_hooks
    assert difference(before, switches()) == ""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_a_forward_that_catches_what_a_part_of_it_raised_is_recorded_to_its_end(
    kind: type[BaseException], tmp_path: Path
) -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Failing(kind("mine"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with contextlib.suppress(kind):
                x = self.part(x)
            return nn.Tanh()(nn.functional.mse_loss(x, x.relu()))

    model = Catching()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        model(torch.randn(3, 4))
    assert [node.op for node in graph_in(tmp_path).ops] == ["linear", "relu", "mse_loss", "tanh"]


def test_a_failure_of_ours_never_takes_the_place_of_the_users_exception(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    error = ValueError("mine")
    with (
        pytest.warns(ModelvizWarning),
        pytest.raises(ValueError, match="mine") as raised,
        GraphHook(
            Failing(error), dirpath=in_the_way / "graphs", on_error="raise", **QUICK, **way
        ) as hook,
    ):
        hook._model(torch.randn(3, 4))
    assert raised.value is error


def test_a_folder_that_cannot_be_made_ends_in_one_warning(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with GraphHook(small(), dirpath=in_the_way / "graphs", **way) as hook:
            hook._model(torch.randn(3, 4))
    (ours,) = [str(item.message) for item in caught if item.category is ModelvizWarning]
    assert "a part of the path is a file, not a folder: pass another dirpath=" in ours
    assert not hook.report.files


def test_errors_can_be_raised_at_the_end_instead(tmp_path: Path, way: dict[str, Any]) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    model = small()
    hook = GraphHook(model, dirpath=in_the_way / "graphs", on_error="raise", **QUICK, **way)
    model(torch.randn(3, 4))
    with pytest.warns(ModelvizWarning), pytest.raises(SinkError, match=r"graph\.json"):
        hook.close()
    hook.close()


def test_with_errors_raised_a_model_never_called_is_one(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    with (
        pytest.warns(ModelvizWarning),
        pytest.raises(CaptureError, match="Nothing was recorded"),
        GraphHook(small(), dirpath=tmp_path, on_error="raise", **QUICK, **way),
    ):
        pass


def test_warnings_turned_into_errors_do_not_end_the_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: dict[str, Any]
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with GraphHook(small(), dirpath=in_the_way / "graphs", **QUICK, **way) as hook:
            hook._model(torch.randn(3, 4))
    assert "part(s) are missing" in capsys.readouterr().err


def test_warnings_turned_into_errors_cost_no_file(tmp_path: Path, way: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with GraphHook(small(), dirpath=tmp_path, trained_onnx=True, **way) as hook:
            hook._model(torch.randn(3, 4))
    assert hook.report.refused == []
    assert {"graph.svg", "graph.onnx", "model.onnx"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.process
def test_a_tracking_server_that_is_not_there_costs_a_warning_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "modelviz_callbacks.jobs.in_place.MLFLOW_LIMIT_S", 3
    )  # ten times as patient
    model = small()
    uri = f"http://user:secret@127.0.0.1:{free_port()}"
    with (
        pytest.warns(ModelvizWarning, match="MLflow") as caught,
        GraphHook(model, dirpath=tmp_path / "graphs", mlflow=uri, **IN_PLACE) as hook,
    ):
        model(torch.randn(3, 4))
    assert "at most 3 s" in capsys.readouterr().out
    assert "secret" not in str(caught[0].message)
    assert "secret" not in (tmp_path / "graphs" / "report.json").read_text()
    assert graph_in(tmp_path / "graphs").ops
    assert [refusal.what for refusal in hook.report.refused] == ["the MLflow run"]


@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_of_ours_costs_the_graph_and_leaves_nothing_behind(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, before = torch.randn(6, 4), switches()
    plain, model = small(), small()
    torch.manual_seed(1)
    wanted = [plain(x), plain(x)]
    hook = GraphHook(model, dirpath=tmp_path, **IN_PLACE)
    with monkeypatch.context() as broken:
        break_at(place, broken)
        torch.manual_seed(1)
        found = [model(x)]
        assert difference(before, switches()) == ""
        assert hooks_of(model) == [0] * 5
        found.append(model(x))
    with pytest.warns(ModelvizWarning, match="injected into"):
        hook.close()
    assert difference(before, switches()) == ""
    assert len(hook.report.refused) == 1
    assert difference(frozen(wanted), frozen(found)) == ""
    assert difference(frozen(dict(plain.state_dict())), frozen(dict(model.state_dict()))) == ""


def test_a_working_directory_that_is_removed_while_training_goes_on_costs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path / "graphs", background=False)
    with hook:
        model(torch.ones(3, 4)).sum().backward()
        here.rmdir()
    assert hook.report.refused == []
    assert {"graph.onnx", "backward.svg", "index.html"} <= {*hook.report.files}
