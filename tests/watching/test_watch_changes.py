"""``watch_changes``: a later step whose graph is another one is kept, and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F

from modelviz_callbacks import GraphHook, GraphLogger, ModelGraph
from modelviz_callbacks.artifacts.changes import changes_told
from modelviz_callbacks.errors import OptionError
from tests.lightning_modules import Classifier, data, trainer_for
from tests.zoo.leaves import difference
from tests.zoo.switches import switches

FEW: dict[str, Any] = {"formats": ["text"], "onnx": False, "mlflow": False}


class Net(nn.Module):
    """Has what people change while it trains."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.drop = nn.Dropout(0.3)
        self.low: nn.Module | None = None
        self.expert = 0
        self.fused = False

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        q = x[None, None]
        if self.fused:
            return F.scaled_dot_product_attention(q, q, q)[0, 0]
        weights: torch.Tensor = (q @ q.transpose(-1, -2) / 2).softmax(-1) @ q
        return weights[0, 0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.body(x))
        if self.low is not None:
            y = y + self.low(x)
        found: torch.Tensor = self.experts[self.expert](self.attention(self.drop(y)))
        return found


def frozen(model: Net) -> None:
    model.body.requires_grad_(False)


def unfrozen(model: Net) -> None:
    model.body.requires_grad_(True)


def with_adapter(model: Net) -> None:
    model.low = nn.Linear(4, 4, bias=False)


def merged(model: Net) -> None:
    assert isinstance(model.low, nn.Linear)
    model.body.weight.data += model.low.weight.data
    model.low = None


def fused(model: Net) -> None:
    model.fused = True


def other_expert(model: Net) -> None:
    model.expert = 2


def train(model: Net, changes: dict[int, Callable[[Net], None]], steps: int = 7) -> list[Any]:
    torch.manual_seed(3)
    for number in range(steps):
        changes.get(number, lambda _: None)(model)
        for parameter in model.parameters():
            parameter.grad = None
        model(torch.randn(8, 4)).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
    return [*(one.detach().clone() for one in model.parameters()), torch.get_rng_state()]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({0: frozen, 3: unfrozen}, "~ body: Linear(4 -> 4), trained"),
        ({0: with_adapter, 3: merged}, "- low: Linear(4 -> 4, no bias)"),
        ({3: fused}, "scaled_dot_product_attention"),
        ({3: other_expert}, "called for the first time: experts.2"),
    ],
    ids=["unfrozen", "merged", "attention", "branch"],
)
def test_a_change_is_kept_and_said_and_the_training_is_that_without_us(
    changes: dict[int, Callable[[Net], None]],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, model = switches(), Net()
    with GraphHook(model, dirpath=tmp_path, watch_changes=2, background=False, **FEW) as hook:
        weights = train(model, changes)
        assert difference(before, switches()) == ""
    expected = train(Net(), changes)
    assert all(one.isfinite().all() for one in expected)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))
    (sentence,) = [one for one in hook.report.remarks if one.startswith("Step ")]
    assert sentence.startswith("Step 4: the graph is another one than that of step 0: ")
    assert told in (tmp_path / "graph_step_4.diff.txt").read_text("utf-8")
    assert f"modelviz: {sentence}\n" in capsys.readouterr().out
    ModelGraph.load(tmp_path / "graph_step_4.json")
    steps = {name for name in hook.report.files if "step" in name}
    assert steps == {"graph_step_4.json", "graph_step_4.diff.txt"}
    assert hook.report.refused == []


def test_changes_are_in_tensorboard_at_their_steps_and_branches_seen_are_told(
    way: dict[str, Any], tmp_path: Path
) -> None:
    model = Net()
    with GraphHook(model, dirpath=tmp_path, watch_changes=1, **way, **FEW) as hook:
        train(model, {2: other_expert, 4: lambda net: setattr(net, "expert", 0)})
    assert hook.report.refused == []
    told = [one for one in hook.report.remarks if one.startswith(("Step ", "Of all "))]
    assert told == [
        "Step 2: the graph is another one than that of step 0: called for the first time: "
        "experts.2.",
        "Step 4: the graph is that of step 0 again.",
        "Of all recorded steps: experts [0,2] of 4 were used.",
    ]
    assert changes_told(tmp_path / "changes.json") == told[:1]
    assert set(told) <= {*json.loads((tmp_path / "report.json").read_text("utf-8"))["remarks"]}
    events = EventAccumulator(str(tmp_path), {"tensors": 0})
    events.Reload()
    for tag in ("graph of step 2", "Net/changes"):
        assert [one.step for one in events.Tensors(tag)] == [2]


def test_where_the_graph_stays_the_same_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Net()
    with GraphHook(model, dirpath=tmp_path, watch_changes=1, background=False, **FEW) as hook:
        train(model, {})
        model(torch.randn(3, 4)).sum().backward()  # a batch that is smaller
        capsys.readouterr()
        assert hook.report.files == ["graph.json", "graph.txt"]
    assert not list(tmp_path.glob("*step*"))
    assert not (tmp_path / "changes.json").exists()
    assert "Step" not in "".join(hook.report.remarks)


def test_a_model_that_is_another_one_each_time_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelviz_callbacks.artifacts.changes._MOST_KEPT", 1)
    model = Net()
    with GraphHook(model, dirpath=tmp_path, watch_changes=1, background=False, **FEW) as hook:
        train(model, {n: lambda net: setattr(net, "expert", net.expert + 1) for n in (1, 2, 3)})
    assert [path.name for path in tmp_path.glob("graph_step_*.json")] == ["graph_step_1.json"]
    kept = "Step 2: the graph is another one again; 2 are kept and no more."
    assert [one for one in hook.report.remarks if "no more" in one] == [kept]


def test_a_compiled_model_is_left_alone_and_that_is_said(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 2), backend="eager"))
    with GraphHook(model, dirpath=tmp_path, watch_changes=1, background=False, **FEW) as hook:
        for _ in range(3):
            model(torch.randn(8, 4)).sum().backward()
            assert not model._forward_hooks
    assert any("torch.compile has its hands on 1" in one for one in hook.report.remarks)


def test_a_forward_that_raises_goes_on_untouched_and_the_next_ones_are_watched(
    tmp_path: Path,
) -> None:
    before, model = switches(), Net()
    with GraphHook(model, dirpath=tmp_path, watch_changes=2, background=False, **FEW) as hook:
        train(model, {}, 2)
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.randn(8, 5))
        assert difference(before, switches()) == ""
        train(model, {0: fused}, 2)
        assert difference(before, switches()) == ""
    assert [path.name for path in tmp_path.glob("graph_step_*.json")] == ["graph_step_4.json"]
    assert hook.report.refused == []


class Unfreezing(Classifier):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.backbone.requires_grad_(True)


@pytest.mark.parametrize("watched", [True, False])
def test_steps_of_a_trainer_are_watched_beside_one_that_is_looked_into(
    watched: bool, tmp_path: Path, weights: dict[str, Any]
) -> None:
    module = Unfreezing()
    options: dict[str, Any] = {"watch_changes": 2, "inspect_step": 2} if watched else {}
    callback = GraphLogger(dirpath=tmp_path, background=False, **options, **FEW)
    torch.manual_seed(1)
    trainer_for(tmp_path, callback, max_steps=4).fit(module, data())
    assert callback.report is not None
    assert callback.report.refused == []
    # Step 2 is looked into, so the one after it is recorded.
    found = [path.name for path in tmp_path.glob("graph_step_*.json")]
    assert found == (["graph_step_3.json"] if watched else [])
    expected = weights.setdefault("first", module.state_dict())
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_an_impossible_interval_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="watch_changes"):
        GraphLogger(watch_changes=value)
