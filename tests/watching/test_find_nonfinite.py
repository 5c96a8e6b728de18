"""``find_nonfinite``: a step whose loss is not finite is examined, and nothing else happens."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any
from weakref import ref
from xml.etree import ElementTree

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from modelviz_callbacks import GraphHook, GraphLogger
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import LossFlag
from modelviz_callbacks.watching import nonfinite_watch as watch_module
from tests.lightning_modules import trainer_for

FEW: dict[str, Any] = {
    "tensorboard": False,
    "mlflow": False,
    "onnx": False,
    "formats": ["text"],
    "background": False,
}
BACKWARD = torch.autograd.backward


class Net(nn.Module):
    """Has state that a forward writes to, random numbers, and a logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.layer(x))) + x.log()


def batches(bad: int, count: int = 6, rows: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(1)
    found = [torch.rand(rows, 4) + 0.1 for _ in range(count)]
    found[bad][0] = 0
    return found


def train(model: nn.Module, data: list[torch.Tensor]) -> list[torch.Tensor]:
    """A loop that goes on whatever the loss; all that it leaves."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x in data:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [*(one.detach().clone() for one in model.state_dict().values()), torch.get_rng_state()]


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "nonfinite.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("bad", [0, 3])
def test_a_plain_loop_is_told_the_op_and_trains_the_same_to_the_bit(
    bad: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = Net(), batches(bad)
    plain = copy.deepcopy(model)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        left = train(model, data)
        assert torch.autograd.backward is BACKWARD  # one is found, and that is all
        assert not model._forward_hooks
        assert not model._forward_pre_hooks
    expected = train(plain, data)
    assert all(
        torch.equal(one.nan_to_num(7), other.nan_to_num(7)) if one.is_floating_point() else True
        for one, other in zip(left, expected, strict=True)
    )
    assert torch.equal(left[-1], expected[-1])
    assert hook.report.refused == []
    found = told(tmp_path)
    assert (found["step"], found["kind"], found["op"]) == (bad, "op", "torch.Tensor.log")
    assert found["is_certain"]
    assert found["source"].startswith("tests/watching/test_find_nonfinite.py:")
    (line,) = [one for one in hook.report.remarks if "not finite" in one]
    assert line == f"The loss of step {bad} was not finite: {found['message']}"
    assert line in capsys.readouterr().out
    assert "nonfinite.json" in hook.report.files


def test_without_the_option_and_after_the_end_nothing_of_it_is_there(tmp_path: Path) -> None:
    model, data = Net(), batches(0)[1:]
    with GraphHook(model, dirpath=tmp_path / "off", **FEW):
        train(model, data)
        assert torch.autograd.backward is BACKWARD
        assert not model._forward_pre_hooks
    with GraphHook(model, dirpath=tmp_path / "on", find_nonfinite=True, **FEW):
        train(model, data)
        assert torch.autograd.backward is not BACKWARD
    assert torch.autograd.backward is BACKWARD
    assert not model._forward_pre_hooks
    assert not (tmp_path / "on" / "nonfinite.json").exists()


def test_a_loss_that_fails_after_the_model_is_told_as_such(tmp_path: Path) -> None:
    model, data = Net(), batches(0)[1:]
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, data)
        (model(data[0]).square().mean() * 0).log().backward()
    found = told(tmp_path)
    assert (found["kind"], found["is_certain"]) == ("outside", True)
    assert found["op"].startswith("Log ← Mul ← Mean")


def test_weights_that_an_earlier_step_has_spoilt_are_named(tmp_path: Path) -> None:
    model, data = Net(), batches(0)[1:]
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, data)
        with torch.no_grad():
            model.layer.weight[2, 2] = math.nan
        model(data[0]).square().mean().backward()
    found = told(tmp_path)
    assert (found["kind"], found["name"]) == ("parameter", "layer.weight")
    assert found["is_certain"]


def test_a_running_mean_that_the_step_itself_has_spoilt_takes_no_blame(tmp_path: Path) -> None:
    model, data = Net(), batches(0)[1:]
    model.drop.p = 0.0
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, data)
        model(data[0].clone().fill_(math.inf)).square().mean().backward()
    assert bool(model.norm.running_mean.isnan().any())
    found = told(tmp_path)
    assert (found["kind"], found["name"]) == ("data", "x")


@pytest.mark.parametrize("accumulated", [1, 3])
def test_all_calls_up_to_a_change_of_weights_are_one_step(accumulated: int, tmp_path: Path) -> None:
    generator, discriminator = nn.Linear(4, 4), Net()
    trains = [torch.optim.SGD(one.parameters(), 0.1) for one in (discriminator, generator)]
    with GraphHook(discriminator, dirpath=tmp_path, find_nonfinite=True, **FEW):
        for number in range(4):
            for _ in range(accumulated):
                real = torch.rand(8, 4) + 0.1
                real[0] *= -1 if number == 2 else 1
                fake = generator(torch.randn(8, 4)).abs() + 0.1
                discriminator(real).mean().sub(discriminator(fake.detach()).mean()).backward()
            trains[0].step()
            discriminator(fake).mean().backward()
            trains[1].step()
    assert told(tmp_path)["step"] == 2


@pytest.mark.parametrize("own", [True, False], ids=["the loss is finite", "the loss is not"])
def test_a_loss_that_only_a_gradient_scaler_makes_overflow_is_no_fault(
    own: bool, tmp_path: Path
) -> None:
    model, scaler = Net(), torch.amp.GradScaler("cpu", init_scale=1e38)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        for number in range(5):
            x = torch.rand(8, 4) + 9
            x[0] = x[0] * (own or number < 4)
            optimizer.zero_grad()
            scaler.scale(model(x).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() < 1e38, "it has overflown"
    if own:
        assert not any("not finite" in said for said in hook.report.remarks)
    else:
        assert told(tmp_path)["step"] == 4
    assert torch.amp.GradScaler.scale.__module__ == "torch.amp.grad_scaler"
    assert "__wrapped__" not in vars(torch.amp.GradScaler.scale)


class Flat(nn.Module):
    """Its recording holds the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        return self.layer(x).view(rows * 4).square() + x.view(rows * 4).log()


def test_a_step_of_another_shape_cannot_be_replayed_and_the_next_one_is_recorded(
    tmp_path: Path,
) -> None:
    model = Flat()
    spoilt = torch.zeros(3, 4)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        model(torch.ones(5, 4)).mean().backward()
        model(spoilt).mean().backward()
        with pytest.raises(RuntimeError, match="mat1"):  # while it is recorded
            model(torch.ones(3, 5))
        model(spoilt).mean().backward()
        assert torch.autograd.backward is BACKWARD
    first, second = [one for one in hook.report.remarks if "not finite" in one]
    assert first.startswith("The loss of step 1 was not finite, and the step could not be examined")
    assert "The next step is recorded" in first
    assert second.startswith("The loss of step 3 was not finite: log (torch.Tensor.log)")
    assert told(tmp_path)["is_certain"]


class Branches(nn.Module):
    """Python decides by the numbers what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() < 1:
            return (self.layer(x) - self.layer(x)).log()
        return self.layer(x).square()


def test_where_python_takes_another_branch_nothing_is_told_as_certain(tmp_path: Path) -> None:
    model = Branches()
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        model(torch.ones(3, 4)).mean().backward()
        model(torch.zeros(3, 4)).mean().backward()
        model(torch.zeros(3, 4)).mean().backward()
    assert "The replay gives finite numbers where the step did not" in str(hook.report.remarks)
    found = told(tmp_path)
    assert (found["step"], found["op"], found["is_certain"]) == (2, "torch.Tensor.log", True)


# --- the loss is finite, its gradients are not


class Length(nn.Module):
    """The root of a sum that may be zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).square().sum(-1).sqrt()


class Root(torch.autograd.Function):
    """A root whose author forgot zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        root = x.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / (2 * ctx.saved_tensors[0])


@pytest.mark.parametrize("bad", [0, 3])
def test_gradients_that_are_not_finite_are_told_with_the_op_before_they_change_weights(
    bad: int, tmp_path: Path
) -> None:
    def losses(model: nn.Module) -> list[torch.Tensor]:
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        seen = []
        for x in batches(bad)[: bad + 1]:
            optimizer.zero_grad()
            model(x).mean().backward()
            seen.append(model.layer.weight.grad.clone())
        return [*seen, torch.get_rng_state()]

    plain, model = Length(), Length()
    model.load_state_dict(plain.state_dict())
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        found = losses(model)
        assert torch.autograd.backward is BACKWARD
    pairs = zip(found, losses(plain), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)
    told_of = told(tmp_path)
    assert (told_of["kind"], told_of["name"], told_of["step"]) == ("gradient", "sqrt", bad)
    assert told_of["is_certain"]
    start = f"The loss of step {bad} was finite, its gradients were not: the backward of sqrt ("
    assert any(one.startswith(start) for one in hook.report.remarks)


@pytest.mark.parametrize("spoilt", ["op", "parameter", "data"])
def test_a_picture_marks_what_is_to_blame_and_the_line_names_its_file(
    spoilt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("floor", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.layer(x).square() + 0.1 - self.floor).log()

    parts = [Part() for _ in range(3)]
    model, few = nn.Sequential(*parts, nn.Flatten(0)), {**FEW, "formats": ["svg", "html"]}
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **few):
        x = torch.rand(2, 4)
        model(x).mean().backward()
        parts[1].floor += 99 * (spoilt == "op")
        with torch.no_grad():
            parts[1].layer.weight[0] *= math.nan if spoilt == "parameter" else 1
        model(x * math.nan if spoilt == "data" else x).mean().backward()
    # Steps of a repeat are one box: the first one's.
    marked, page = {
        "op": ("0_Part/log", "index.html#s=1_Part/log"),
        "parameter": ("0_Part/layer/linear", "index.html#s=1_Part/layer/linear"),
        "data": ("input", "index.html#s=input"),
    }[spoilt]
    assert told(tmp_path)["page"] == page
    picture = ElementTree.parse(tmp_path / "nonfinite.svg").getroot()
    found = [
        group.get("data-name")
        for group in picture.iter("{http://www.w3.org/2000/svg}g")
        if any(shape.get("class") == "suspect" for shape in group)
    ]
    assert found == [marked]
    assert f" See {tmp_path / 'nonfinite.svg'}." in capsys.readouterr().out


def test_gradients_that_come_broken_from_a_loss_outside_are_told_so(tmp_path: Path) -> None:
    model = nn.Linear(4, 4, bias=False)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        for x in batches(1):
            model(x).square().sum(-1).sqrt().mean().backward()
    found = told(tmp_path)
    assert (found["kind"], found["name"], found["is_certain"]) == ("gradient", "loss", True)
    assert found["op"].startswith("Mean ← Sqrt ← Sum")


def test_a_backward_of_the_authors_own_is_not_blamed_on_another_op(tmp_path: Path) -> None:
    class Own(Length):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Root.apply(self.layer(x).square().sum(-1))  # type: ignore[no-untyped-call,no-any-return]

    model = Own()
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        for x in batches(1):
            model(x).mean().backward()
    assert not (tmp_path / "nonfinite.json").exists()
    (remark,) = [one for one in hook.report.remarks if "could not be examined" in one]
    assert remark.startswith("The loss of step 1 was finite, but the gradient of layer.weight")
    assert "author's autograd functions do in it (Root)" in remark


def test_gradients_that_overflow_by_a_scalers_factor_are_no_fault(tmp_path: Path) -> None:
    model, scaler = nn.Linear(4, 4), torch.amp.GradScaler("cpu", init_scale=2.0**120)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    broken = False
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        for x in batches(1):
            optimizer.zero_grad()
            scaler.scale((model(x) * 1e5).square().mean()).backward()
            broken |= not bool(model.weight.grad.isfinite().all())
            scaler.step(optimizer)
            scaler.update()
    assert broken
    assert not (tmp_path / "nonfinite.json").exists()


def test_a_large_gradient_is_looked_at_row_by_row(tmp_path: Path) -> None:
    model = Length()
    model.layer = nn.Linear(4, 8192, bias=False)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        for x in batches(1, 2):
            model(x).mean().backward()
    assert told(tmp_path)["name"] == "sqrt"


def test_a_copy_of_the_model_is_not_watched_and_can_be_saved(tmp_path: Path) -> None:
    model, data = Net(), batches(0)[1:]
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, data)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin(torch.zeros(8, 4)).mean()
        model(data[0]).square().mean().backward()
    assert not (tmp_path / "nonfinite.json").exists()


def test_a_fault_of_the_search_is_a_remark_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("a fault of the search")

    monkeypatch.setattr(watch_module, "examine", fails)
    model, data = Net(), batches(2)
    plain = copy.deepcopy(model)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        left = train(model, data)
    assert "a fault of the search" in str(hook.report.remarks)
    assert torch.equal(left[-1], train(plain, data)[-1])
    assert torch.autograd.backward is BACKWARD


class Module(pl.LightningModule):
    def __init__(self, is_manual: bool) -> None:
        super().__init__()
        self.net = Net()
        self.automatic_optimization = not is_manual

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> Any:
        (x,) = batch
        loss = self.net(x).square().mean()
        if self.automatic_optimization:
            return {"loss": loss, "x": x}
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("beside", [{}, {"watch_changes": 1}, {"inspect_step": 2}])
@pytest.mark.parametrize("is_manual", [False, True])
def test_a_step_of_lightning_is_examined_before_it_changes_weights(
    is_manual: bool, beside: dict[str, Any], tmp_path: Path
) -> None:
    callback = GraphLogger(dirpath=tmp_path, find_nonfinite=True, **beside, **FEW)
    loader = DataLoader(TensorDataset(torch.cat(batches(2))), 8)
    trainer_for(tmp_path, callback, max_steps=-1, max_epochs=1).fit(Module(is_manual), loader)
    assert callback.report is not None
    assert callback.report.refused == []
    found = told(tmp_path)
    assert (found["step"], found["op"], found["is_certain"]) == (2, "torch.Tensor.log", True)
    assert found["module"] == "net"
    assert torch.autograd.backward is BACKWARD


class Scored(Net):
    """Has a method that gives the loss."""

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return self(x).square().mean()


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_models_that_are_watched_either_may_end_first(first: int, tmp_path: Path) -> None:
    models, data, method = [Scored(), Scored()], batches(0)[1:], vars(Scored)["loss"]
    hooks = [
        GraphHook(
            model,
            method="loss",
            dirpath=tmp_path / str(number),
            find_nonfinite=True,
            inspect_step=2,
            **FEW,
        )
        for number, model in enumerate(models)
    ]
    for x in data:
        for model in models:
            model.loss(x).backward()
    hooks[first].close()
    assert torch.autograd.backward is not BACKWARD
    models[first].loss(torch.zeros(8, 4)).backward()
    hooks[1 - first].close()
    assert torch.autograd.backward is BACKWARD
    assert vars(Scored)["loss"] is method
    assert not (tmp_path / str(first) / "nonfinite.json").exists()


@pytest.mark.parametrize("way", ["torch.autograd.grad", "gradients", "eval", "an edge", "nothing"])
def test_what_a_loop_without_a_backward_from_a_loss_lets_go_is_not_kept_alive(
    way: str, tmp_path: Path
) -> None:
    model, data, results = Net(), batches(0)[1:], []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW) as hook:
        train(model, data)
        model.train(way != "eval")
        for x in data:
            result = model(x)
            results.append(ref(result))
            if way == "torch.autograd.grad":
                torch.autograd.grad(result.sum(), model.layer.weight)
                optimizer.step()
            elif way == "gradients":
                result.backward(torch.ones_like(result))
                optimizer.step()
            elif way == "an edge":
                edge = torch.autograd.graph.get_gradient_edge(result.sum())
                torch.autograd.backward(edge, torch.ones(()))  # type: ignore[arg-type]
                optimizer.step()
            del result
        alive = sum(one() is not None for one in results)
    assert alive == (way == "nothing")  # a backward may still come
    assert hook.report.refused == []


class Again(nn.Linear):
    """Calls itself."""

    def forward(self, x: torch.Tensor, depth: int = 2) -> torch.Tensor:
        found: torch.Tensor = self(x, depth - 1) if depth else super().forward(x)
        return found


def test_calls_that_a_model_makes_of_itself_are_no_steps(tmp_path: Path) -> None:
    model, data = Again(4, 4), batches(0)[1:]
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        train(model, data[:3])
        model(data[0] * math.nan).sum().backward()
    found = told(tmp_path)
    assert (found["step"], found["kind"], found["is_certain"]) == (3, "data", True)


def test_a_recording_of_the_same_model_beside_has_no_op_of_the_watch(tmp_path: Path) -> None:
    model, data = Net(), batches(0)[1:]
    first = GraphHook(model, dirpath=tmp_path / "first", find_nonfinite=True, **FEW)
    second = GraphHook(model, dirpath=tmp_path / "second", **FEW)
    train(model, data)
    first.close()
    second.close()
    graphs = [ModelGraph.load(tmp_path / name / "graph.json") for name in ("first", "second")]
    assert [node.op for node in graphs[1].ops] == [node.op for node in graphs[0].ops]


def test_with_an_accelerator_around_the_forward_alone_is_recorded_and_watched(
    tmp_path: Path,
) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    model, data = Net(), batches(2)
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, watch_changes=1, **FEW) as hook:
        train(model, data)
    assert fabric.world_size == 1
    assert told(tmp_path)["step"] == 2
    assert not [one for one in hook.report.remarks if "no effect" in one or "Later steps" in one]


@pytest.fixture
def loss_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a loss be looked at as on a GPU: later, and only where nothing has to wait for it."""

    class Later(LossFlag):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.is_quick = False
            for call in self.calls:
                call.settle()

    monkeypatch.setattr(watch_module, "LossFlag", Later)


@pytest.mark.usefixtures("loss_on_another_device")
@pytest.mark.parametrize("way", ["plain", "closure", "lightning", "no optimizer"])
def test_a_loss_that_is_looked_at_late_is_so_before_weights_change(
    way: str, tmp_path: Path
) -> None:
    data = batches(2)
    if way == "lightning":
        callback = GraphLogger(dirpath=tmp_path, find_nonfinite=True, **FEW)
        loader = DataLoader(TensorDataset(torch.cat(data)), 8)
        trainer_for(tmp_path, callback, max_steps=-1, max_epochs=1).fit(Module(False), loader)
    else:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
            for x in data[:3]:

                def closure(x: torch.Tensor = x) -> torch.Tensor:
                    loss = model(x).square().mean()
                    loss.backward()
                    return loss

                if way == "closure":
                    optimizer.step(closure)  # type: ignore[arg-type]
                else:
                    closure()
                    if way == "plain":
                        optimizer.step()
            if way == "no optimizer":  # it is looked at when the next forward begins
                model(data[3])
                assert torch.autograd.backward is BACKWARD
                assert not model._forward_pre_hooks
    found = told(tmp_path)
    assert (found["step"], found["op"], found["is_certain"]) == (2, "torch.Tensor.log", True)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_recording_that_is_handed_on_at_the_close_has_no_steps_left_to_watch(
    is_training: bool, tmp_path: Path
) -> None:
    model = nn.Linear(4, 2).train(is_training)
    scale = torch.amp.GradScaler.scale
    hook = GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW)
    with torch.set_grad_enabled(not is_training):
        model(torch.ones(1, 4))
    hook.close()
    assert "graph.txt" in hook.report.files
    assert torch.autograd.backward is BACKWARD
    assert torch.amp.GradScaler.scale is scale
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_what_a_scaler_scales_that_is_no_loss_is_not_kept(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    scaler = torch.amp.GradScaler("cpu")
    with GraphHook(model, dirpath=tmp_path, find_nonfinite=True, **FEW):
        model(torch.ones(1, 4)).sum().backward()
        storage = ref((made := torch.ones(64, 4)).untyped_storage())
        scaler.scale([made])
        scaler.scale(made)
        del made
        assert storage() is None
