"""``inspect_step``: what later steps were like is in ``health.csv``, the notes and the page."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from modelviz_callbacks import GraphHook, GraphLogger
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.writers.graphdef import RunMetadata
from tests.lightning_modules import Classifier, data, trainer_for
from tests.writers.page_visit import content
from tests.zoo.leaves import difference
from tests.zoo.switches import switches

FEW: dict[str, Any] = {"formats": ["html", "text"], "onnx": False, "mlflow": False}


@pytest.fixture(autouse=True)
def _nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test may have compiled something, and outputs are not looked at then.
    monkeypatch.setattr(
        "modelviz_callbacks.tracing.steps.step_inspector.has_compiled", lambda: False
    )


class Troubled(nn.Module):
    """What people look for: dead units, a parameter without a gradient, a large update."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 16)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 2, bias=False)
        self.pos = nn.Parameter(torch.ones(16))
        self.body.bias.data.fill_(-100.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dead = self.act(self.body(x))
        with torch.no_grad():
            shift = self.pos * 1.0
        found: torch.Tensor = self.head(self.drop(dead + shift))
        return found


def train(model: nn.Module, steps: int, watch: Callable[[int], None] = lambda _: None) -> Any:
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for number in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        watch(number)
    return [*(one.detach().clone() for one in model.parameters()), torch.get_rng_state()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "health.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_steps_of_a_plain_loop_are_told_and_nothing_else_changes(
    way: dict[str, Any], tmp_path: Path
) -> None:
    before = switches()
    model = Troubled()
    left: dict[int, str] = {}

    def watch(number: int) -> None:
        left[number] = difference(before, switches())

    with GraphHook(model, dirpath=tmp_path, inspect_step=[3, 1], **way, **FEW) as hook:
        weights = train(model, 5, watch)
        assert not model._forward_hooks
        assert not model._forward_pre_hooks
    assert set(left.values()) == {""}  # of what belongs to torch, after any step
    assert hook.report.refused == []
    expected = train(Troubled(), 5)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))
    told = rows(tmp_path)
    assert {row["step"] for row in told} == {"1", "3"}
    events = EventAccumulator(str(tmp_path), {"tensors": 0})
    events.Reload()
    (found,) = events.Tensors("Troubled/health of step 3")
    text = found.tensor_proto.string_val[0].decode()
    assert "No gradient reached pos in step 1" in text
    assert "| act | ReLU | 100% |  |  |" in text
    of_step = [row for row in told if row["step"] == "3"]
    squares = {row["name"]: float(row["norm"] or 0) ** 2 for row in of_step[5:]}
    ten_s_are = sum(squares.values())
    metadata = events.RunMetadata("squared gradients of step 3, 10 s = all")
    stats = RunMetadata.FromString(metadata.SerializeToString()).step_stats.dev_stats[0]
    lengths = {one.node_name: one.all_end_rel_micros for one in stats.node_stats}
    of_body = squares["body.weight"] + squares["body.bias"]
    assert sum(lengths.values()) == pytest.approx(10_000_000, rel=1e-4)
    found_at = [length for name, length in lengths.items() if name.startswith("body/")]
    assert sum(found_at) == pytest.approx(1e7 * of_body / ten_s_are, rel=1e-3, abs=3)
    assert "squared updates of step 3, 10 s = all" in events.Tags()["run_metadata"]
    assert [(row["kind"], row["name"]) for row in of_step] == [
        ("output", "body"),
        ("output", "act"),
        ("output", "drop"),
        ("output", "head"),
        ("output", ""),
        ("gradient", "pos"),
        ("gradient", "body.weight"),
        ("gradient", "body.bias"),
        ("gradient", "head.weight"),
    ]
    assert of_step[1]["zero_share"] == "1"
    assert (of_step[5]["mean"], of_step[5]["update_norm"]) == ("", "0")
    ratio = float(of_step[8]["update_norm"]) / float(of_step[8]["weight_norm"])
    assert float(of_step[8]["update_ratio"]) == pytest.approx(ratio, rel=1e-4)
    # A learning rate of 1: the update is the gradient.
    assert float(of_step[8]["norm"]) == pytest.approx(float(of_step[8]["update_norm"]), rel=1e-4)


def test_what_a_person_would_act_on_is_said_in_report_text_and_page(tmp_path: Path) -> None:
    model = Troubled()
    with GraphHook(model, dirpath=tmp_path, inspect_step=1, background=False, **FEW) as hook:
        train(model, 2)
    text = " ".join((tmp_path / "graph.txt").read_text("utf-8").split())
    for sentence in (
        "act: 100 % zeros in step 1.",
        "No gradient reached pos in step 1.",
        "The gradients of 2 parameters were zero everywhere: body.weight, body.bias.",
    ):
        assert sentence in hook.report.remarks
        assert sentence in text
    assert any(
        one.startswith("Update ratio ") and "head.weight" in one for one in hook.report.remarks
    )
    page = content((tmp_path / "index.html").read_bytes())
    assert '"health":{"step":1' in page
    assert "No gradient reached pos" in page


class Manual(Classifier):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        loss = self.head(self.backbone(batch)).square().mean()
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        norm, _, last = self.head
        return torch.optim.SGD(norm.parameters(), 0.1), torch.optim.Adam(last.parameters(), 0.1)


# Lightning accumulates with its own optimization only.
@pytest.mark.parametrize(
    ("kind", "batches"), [(Classifier, 1), (Classifier, 2), (Manual, 1)], ids=str
)
def test_a_training_step_of_lightning_is_told(
    kind: type[Classifier], batches: int, tmp_path: Path
) -> None:
    options = {"accumulate_grad_batches": batches, "max_steps": -1, "max_epochs": 2}
    callback = GraphLogger(dirpath=tmp_path, inspect_step=2, background=False, **FEW)
    module = kind()
    trainer_for(tmp_path, callback, **options).fit(module, data())
    assert callback.report is not None
    assert callback.report.refused == []
    told = rows(tmp_path)
    outputs = [row["name"] for row in told if row["kind"] == "output"]
    assert outputs == [
        *("backbone.0", "backbone.1", "backbone.2", "backbone"),
        *("head.0", "head.1", "head.2", "head"),
    ]
    gradients = {row["name"]: row for row in told if row["kind"] == "gradient"}
    assert {*gradients} == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    assert all(row["mean"] and float(row["update_norm"]) > 0 for row in gradients.values())
    assert "training_step" not in vars(module)
    plain = kind()
    trainer_for(tmp_path, **options).fit(plain, data())
    both = zip(module.state_dict().values(), plain.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in both)


def test_a_step_that_never_came_is_said(tmp_path: Path) -> None:
    model = Troubled()
    options: dict[str, Any] = {"background": False, **FEW}
    with GraphHook(model, dirpath=tmp_path, inspect_step=(1, 7, 9), **options) as hook:
        train(model, 3)
    assert any("step 7, 9" in remark for remark in hook.report.remarks)
    assert {row["step"] for row in rows(tmp_path)} == {"1"}
    assert not model._forward_hooks


def test_a_step_that_raises_is_told_up_to_there_and_leaves_nothing(tmp_path: Path) -> None:
    class Failing(Troubled):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 2:
                raise ValueError("of the user's")
            return super().forward(x)

    before = switches()
    model = Failing()
    options: dict[str, Any] = {"background": False, **FEW}
    with (
        pytest.raises(ValueError, match="of the user's"),
        GraphHook(model, dirpath=tmp_path, inspect_step=1, **options) as hook,
    ):
        train(model, 3)
    assert difference(before, switches()) == ""
    assert not model._forward_hooks
    assert hook.report.refused == []
    assert {row["kind"] for row in rows(tmp_path)} == {"gradient"}
    assert any("No optimizer step" in remark for remark in hook.report.remarks)


def test_of_a_watched_method_its_calls_are_the_steps(tmp_path: Path) -> None:
    class Policy(nn.Linear):
        def evaluate(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    model = Policy(4, 2)
    options: dict[str, Any] = {"background": False, **FEW}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(model, method="evaluate", dirpath=tmp_path, inspect_step=1, **options):
        for _ in range(3):
            model.evaluate(torch.randn(3, 4)).sum().backward()
            optimizer.step()
        assert "evaluate" in vars(Policy)
    assert [row["name"] for row in rows(tmp_path)] == ["weight", "bias"]


def _compiled(in_place: bool) -> nn.Module:
    model = Troubled()
    if in_place:
        model.compile(backend="eager")
        return model
    wrapped: nn.Module = torch.compile(model, backend="eager")
    return wrapped


@pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile", "model.compile"])
def test_of_a_compiled_model_gradients_and_updates_are_told(
    in_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    model = _compiled(in_place)
    call = model._compiled_call_impl
    options: dict[str, Any] = {"background": False, **FEW}
    with GraphHook(model, dirpath=tmp_path, inspect_step=2, **options) as hook:
        weights = train(model, 4)
        assert not model._forward_hooks
        assert model._compiled_call_impl is call
    assert {row["kind"] for row in rows(tmp_path)} == {"gradient"}
    assert any("torch.compile" in remark for remark in hook.report.remarks)
    expected = train(_compiled(in_place), 4)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))


def test_a_second_fit_with_the_same_graph_is_told_too(tmp_path: Path) -> None:
    callback = GraphLogger(inspect_step=1, background=False, **FEW)
    for _ in range(2):
        trainer_for(tmp_path, callback).fit(Classifier(), data())
        assert callback.report is not None
        assert "health.csv" in callback.report.files


@pytest.mark.parametrize("value", [0, True, "1", [0], [1.5], {1: 2}, 2.0])
def test_only_numbers_of_later_steps_can_be_named(value: Any) -> None:
    with pytest.raises(OptionError, match="inspect_step"):
        GraphLogger(inspect_step=value)


def test_a_step_cannot_be_timed_and_looked_into_at_once() -> None:
    with pytest.raises(OptionError, match="another step than profile_step"):
        GraphLogger(inspect_step=[2, 3], profile_step=3)
    assert isinstance(GraphLogger(inspect_step=range(1, 3), profile_step=3), pl.Callback)
