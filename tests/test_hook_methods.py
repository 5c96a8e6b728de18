"""What ``GraphHook`` and ``trace`` record where it is not the first forward in training mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, ModelGraph, trace
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.report import ModelvizWarning

IN_PLACE: dict[str, Any] = {
    "onnx": False,
    "formats": ["text"],
    "tensorboard": False,
    "background": False,
}


class Policy(nn.Module):
    """Trained through a method of its own, never through forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.value = nn.Linear(8, 1)
        self.action = nn.Linear(8, 2)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.action(self.body(obs)))

    def evaluate_actions(self, obs: torch.Tensor, actions: torch.Tensor) -> Any:
        hidden = torch.tanh(self.body(obs))
        return self.value(hidden), self.action(hidden).gather(1, actions)

    def parts(self, obs: torch.Tensor) -> Iterator[torch.Tensor]:
        hidden = self.body(obs)
        yield self.value(hidden)
        yield self.action(hidden)


def loaded(folder: Path) -> ModelGraph:
    return ModelGraph.load(folder / "graph.json")


def names(graph: ModelGraph, kind: Any) -> list[str]:
    return [node.path for node in graph.of_kind(kind)]


def size(graph: ModelGraph) -> Any:
    return graph.of_kind("input")[0].outputs[0].shape


def act() -> torch.Tensor:
    return torch.zeros(5, 1, dtype=torch.int64)


def remarks(graph: ModelGraph) -> str:
    return " ".join(note.message for note in graph.notes if note.kind == "remark")


def left(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_forward_without_gradients_is_not_recorded_if_one_with_gradients_comes(
    tmp_path: Path,
) -> None:
    model = Policy()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        with torch.no_grad():
            model(torch.randn(1, 4))
        model(torch.randn(32, 4))
        assert left(model) == 0
    assert size(loaded(tmp_path)) == (32, 4)
    assert "gradients" not in remarks(loaded(tmp_path))


def test_a_forward_without_gradients_is_recorded_if_nothing_else_comes_and_that_is_said(
    tmp_path: Path,
) -> None:
    model = Policy()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE) as hook, torch.no_grad():
        model(torch.randn(1, 4))
        model(torch.randn(2, 4))
    assert size(loaded(tmp_path)) == (1, 4)
    assert "without gradients" in remarks(loaded(tmp_path))
    assert any("without gradients" in remark for remark in hook.report.remarks)
    assert left(model) == 0


def test_a_model_trained_in_eval_mode_is_recorded_at_its_first_optimizer_step(
    tmp_path: Path,
) -> None:
    model = Policy().eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        model(torch.randn(6, 4)).sum().backward()
        optimizer.step()
        assert size(loaded(tmp_path)) == (6, 4)
        assert left(model) == 0
    assert "eval mode" in remarks(loaded(tmp_path))


@pytest.mark.parametrize("method", ["evaluate_actions", ["loss_of", "evaluate_actions"]])
def test_a_named_method_is_recorded_with_its_own_inputs_and_outputs(
    method: Any, tmp_path: Path
) -> None:
    model = Policy()
    model.loss_of = lambda: None  # type: ignore[assignment]
    with GraphHook(model, method=method, dirpath=tmp_path, **IN_PLACE):
        with torch.no_grad():
            model(torch.randn(1, 4))
            model.evaluate_actions(torch.randn(1, 4), act()[:1])
        model.evaluate_actions(torch.randn(5, 4), act())
        assert "evaluate_actions" in vars(Policy)
        assert Policy.evaluate_actions.__qualname__ == "Policy.evaluate_actions"
        model.evaluate_actions(torch.randn(7, 4), act())
    graph = loaded(tmp_path)
    assert names(graph, "input") == ["obs", "actions"]
    assert size(graph) == (5, 4)
    assert names(graph, "output") == ["out[0]", "out[1]"]


def test_a_watched_class_is_as_it_was_after_the_recording(tmp_path: Path) -> None:
    class Child(Policy):
        pass

    model, before = Child(), Policy.evaluate_actions
    with GraphHook(model, method="evaluate_actions", dirpath=tmp_path, **IN_PLACE):
        copy.deepcopy(model).evaluate_actions(torch.randn(3, 4), act()[:3])  # another model's
        model.evaluate_actions(torch.randn(5, 4), act())
        assert "evaluate_actions" not in vars(Child)
    assert Policy.evaluate_actions is before
    assert size(loaded(tmp_path)) == (5, 4)


def test_an_exception_of_a_named_method_goes_on_and_leaves_what_ran(tmp_path: Path) -> None:
    model = Policy()
    with (
        pytest.raises(RuntimeError),
        GraphHook(model, method="evaluate_actions", dirpath=tmp_path, **IN_PLACE),
    ):
        model.evaluate_actions(torch.randn(5, 4), torch.zeros(5, 1))
    assert loaded(tmp_path).partial


def test_a_method_that_the_model_has_not_is_refused_by_name() -> None:
    with pytest.raises(OptionError, match="Policy has no method 'evaluate'"):
        GraphHook(Policy(), method="evaluate")


@pytest.mark.parametrize("method", [[], ()])
def test_no_name_at_all_is_refused_likewise(method: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"method=.*names no method"):
        GraphHook(Policy(), method=method, dirpath=tmp_path)


def test_a_named_method_that_is_never_called_is_named_and_no_folder_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "graph"
    with (
        pytest.warns(ModelvizWarning, match="evaluate_actions was not called"),
        GraphHook(Policy(), method="evaluate_actions", dirpath=folder, **IN_PLACE),
    ):
        pass
    assert not folder.exists()
    assert capsys.readouterr().out == ""


def test_without_a_name_what_its_modules_run_up_to_the_backward_is_recorded(
    tmp_path: Path,
) -> None:
    model = Policy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        for _ in range(2):
            value, chance = model.evaluate_actions(torch.randn(5, 4), act())
            loss = value.mean() + chance.mean()
            loss.backward()
            torch.ones(3) * 2
            optimizer.step()
            assert left(model) == 0
    graph = loaded(tmp_path)
    assert [op.name.rpartition("/")[2] for op in graph.ops][:2] == ["linear", "tanh"]
    assert graph.ops[-1].name == "add"
    assert names(graph, "output") == ["loss"]
    assert 'method="evaluate_actions"' in remarks(graph)


def test_a_forward_goes_before_what_its_modules_ran_alone(tmp_path: Path) -> None:
    model = Policy()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        model.body(torch.randn(2, 4))
        model(torch.randn(9, 4)).sum().backward()
    assert size(loaded(tmp_path)) == (9, 4)
    assert remarks(loaded(tmp_path)) == ""


@pytest.mark.parametrize("train", [True, False])
def test_a_copy_that_runs_in_place_of_the_model_is_named(train: bool, tmp_path: Path) -> None:
    model = Policy().train(train)
    with (
        pytest.warns(ModelvizWarning, match=r"A copy of the model ran .*with the copy"),
        GraphHook(model, dirpath=tmp_path, **IN_PLACE),
    ):
        copy.deepcopy(model)(torch.randn(2, 4)).sum().backward()


@pytest.mark.parametrize("method", [None, "evaluate_actions"])
def test_what_was_compiled_of_the_model_and_runs_in_its_place_is_named(
    method: str | None, tmp_path: Path
) -> None:
    model = Policy()
    compiled = torch.compile(model, backend="eager")
    with (
        pytest.warns(ModelvizWarning, match=r"torch.compile made of the model .*with that"),
        GraphHook(model, method=method, dirpath=tmp_path, **IN_PLACE),
    ):
        compiled(torch.randn(2, 4)).sum().backward()


def test_a_method_of_a_model_can_be_traced() -> None:
    t = trace(Policy().evaluate_actions, torch.randn(5, 4), actions=act())
    assert names(t.graph, "input") == ["obs", "actions"]
    assert names(t.graph, "output") == ["out[0]", "out[1]"]
    x = torch.randn(5, 4)
    assert t.replay(x, actions=act())[0].shape == (5, 1)


def test_what_a_generator_yields_is_the_result_of_its_trace() -> None:
    t = trace(Policy().parts, torch.randn(5, 4))
    assert names(t.graph, "output") == ["out[0]", "out[1]"]
    assert len(t.graph.ops) == 3
    assert [part.shape for part in t.outputs] == [(5, 1), (5, 2)]
