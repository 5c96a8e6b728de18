"""Loops of one's own with accelerate and Fabric, and what is found around a plain loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks import GraphHook
from modelviz_callbacks.integrations.fabric import GraphCallback
from modelviz_callbacks.report import Report
from modelviz_callbacks.tracing.capture import end_of_forward
from tests.integrations.seen import (
    IN_PLACE,
    NET_OPS,
    batches,
    events_in,
    graph_of,
    hooks_on,
    net,
    same,
)

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|lightning|accelerate)")


def forget() -> None:
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@pytest.fixture
def accelerator(tmp_path: Path) -> Iterator[Callable[..., Accelerator]]:
    """Makes an Accelerator; what accelerate keeps for the whole process is forgotten."""

    def make(**options: Any) -> Accelerator:
        return Accelerator(cpu=True, project_dir=tmp_path, **options)

    forget()
    yield make
    forget()


def train(
    model: nn.Module, optimizer: Any, backward: Callable[[torch.Tensor], object]
) -> nn.Module:
    torch.manual_seed(1)
    model.train()
    for features, labels in batches():
        optimizer.zero_grad()
        backward(cross_entropy(model(features), labels))
        optimizer.step()
    return model


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def test_an_accelerators_tensorboard_run_gets_the_graph_by_the_models_own_names(
    tmp_path: Path, accelerator: Callable[..., Accelerator]
) -> None:
    made = accelerator(log_with="tensorboard")
    made.init_trackers("run")
    model = net()
    prepared, optimizer = made.prepare(model, sgd(model))
    with GraphHook(prepared, accelerator=made, **IN_PLACE) as hook:
        train(prepared, optimizer, made.backward)
    made.end_training()
    graph = graph_of(hook.report)
    assert [node.op for node in graph.ops][:5] == [*NET_OPS, "cross_entropy"]
    assert [node.name for node in graph.of_kind("output")] == ["loss"]
    assert [call.name for call in graph.modules if not call.parent] == ["body", "head"]
    assert Path(hook.report.folder) == tmp_path / "run" / "model_graph"
    assert events_in(tmp_path / "run").Tags()["graph"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_weights_under_accelerate_are_the_same_to_the_bit(
    precision: str, tmp_path: Path, accelerator: Callable[..., Accelerator]
) -> None:
    made = accelerator(mixed_precision=precision)
    trained = []
    for is_watched in (True, False):
        model = net()
        prepared, optimizer = made.prepare(model, sgd(model))
        if is_watched:
            with GraphHook(prepared, accelerator=made, dirpath=tmp_path, **IN_PLACE):
                train(prepared, optimizer, made.backward)
        else:
            train(prepared, optimizer, made.backward)
        assert hooks_on(model) == 0
        trained.append(model)
    assert same(trained[0].parameters(), trained[1].parameters())


def test_the_accelerator_among_the_variables_is_found(
    tmp_path: Path, accelerator: Callable[..., Accelerator]
) -> None:
    made = accelerator(log_with="tensorboard")
    made.init_trackers("run")
    with GraphHook(model := net(), **IN_PLACE) as hook:
        train(model, sgd(model), made.backward)
    graph_of(hook.report)
    assert Path(hook.report.folder) == tmp_path / "run" / "model_graph"
    made.end_training()


# --- Fabric


def fit_with_fabric(fabric: Fabric, model: nn.Module) -> nn.Module:
    prepared, optimizer = fabric.setup(model, sgd(model))
    train(prepared, optimizer, fabric.backward)
    fabric.call("on_train_end")
    return model


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabrics_callback_records_the_model_by_its_own_names_into_its_loggers_run(
    precision: Any, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="runs")
    callback = GraphCallback(**IN_PLACE)
    fabric = Fabric(accelerator="cpu", loggers=[logger], callbacks=[callback], precision=precision)
    model = fit_with_fabric(fabric, net())
    graph = graph_of(callback.report)
    assert graph.class_name.endswith(".Net")
    assert {"body", "head"} <= {call.name for call in graph.modules}
    (loss,) = graph.of_kind("output")
    assert (loss.name, graph.by_name[loss.inputs[0].node].op) == ("loss", "cross_entropy")
    assert events_in(Path(logger.log_dir)).Tags()["graph"]
    assert (Path(logger.log_dir) / "model_graph" / "graph.txt").exists()
    without = fit_with_fabric(Fabric(accelerator="cpu", precision=precision), net())
    assert same(model.parameters(), without.parameters())


def test_a_hook_around_a_loop_with_fabric_finds_it_and_its_folder(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", loggers=[CSVLogger(tmp_path, name="runs")])
    model = net()
    model, optimizer = fabric.setup(model, sgd(model))
    with GraphHook(model, **IN_PLACE) as hook:
        train(model, optimizer, fabric.backward)
    assert graph_of(hook.report).class_name.endswith(".Net")
    assert Path(hook.report.folder) == tmp_path / "runs" / "version_0" / "model_graph"


# --- a plain loop


class Outer(nn.Module):
    """A model around another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = net(), nn.Linear(3, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(self.inner(features))


def one_call(model: nn.Module, critic: nn.Module) -> torch.Tensor:
    features, labels = batches()[0]
    with torch.device("cpu"):  # a mode of torch's that is left before the backward
        logits = model(features)
    logits.argmax(1).eq(labels).sum()  # the loss does not come from it
    return cross_entropy(logits, labels)


def two_calls(model: nn.Module, critic: nn.Module) -> torch.Tensor:
    (features, _), (others, _), *_ = batches()
    return (model(features) - model(others)).square().sum()


def many_calls(model: nn.Module, critic: nn.Module) -> torch.Tensor:
    return torch.stack([model(features).sum() for features, _ in batches() * 3]).sum()


def trains_its_critic_first(model: nn.Module, critic: nn.Module) -> torch.Tensor:
    """A GAN's generator: the first backward is that of the other network."""
    made = model(batches()[0][0])
    critic(made.detach()).mean().backward()
    sgd(critic).step()
    return critic(made).sum()


def of_another(model: nn.Module, critic: nn.Module) -> torch.Tensor:
    return critic(model(batches()[0][0]).detach()).sum()


def inside_another(model: nn.Module, critic: nn.Module) -> torch.Tensor:
    outer = Outer()
    outer.inner = model
    return outer(batches()[0][0]).sum()


@pytest.mark.parametrize(
    ("step", "ops", "output"),
    [
        (one_call, [*NET_OPS, "cross_entropy"], "loss"),
        (two_calls, [*NET_OPS, *NET_OPS, "sub", "square", "sum"], "loss"),
        (many_calls, [*[*NET_OPS, "sum"] * 12, "stack", "sum"], "loss"),
        (trains_its_critic_first, [*NET_OPS, "linear", "sum"], "loss"),
        (of_another, NET_OPS, "output"),
        (inside_another, NET_OPS, "output"),
    ],
)
def test_a_hook_that_is_asked_for_the_loss_records_on_to_a_backward_of_the_models_results(
    step: Callable[[nn.Module, nn.Module], torch.Tensor],
    ops: list[str],
    output: str,
    tmp_path: Path,
) -> None:
    trained = []
    for is_watched in (True, False):
        model, critic = net(), nn.Linear(3, 1)
        torch.manual_seed(1)
        hook = GraphHook(model, loss=True, dirpath=tmp_path, **IN_PLACE) if is_watched else None
        for _ in range(2):
            optimizer = sgd(model)
            step(model, critic).backward()
            optimizer.step()
        if hook is not None:
            hook.close()
            graph = graph_of(hook.report)
            assert [node.op for node in graph.ops] == ops
            assert [node.name for node in graph.of_kind("output")] == [output]
            is_said = any("The loss is not in the graph" in str(note) for note in graph.notes)
            assert is_said is (step is of_another)
        assert hooks_on(model) == 0
        assert torch._C._len_torch_function_stack() == 0
        trained.append(model)
    assert same(trained[0].parameters(), trained[1].parameters())


def test_of_an_agent_that_acts_before_it_learns_the_call_that_the_loss_comes_from_is_recorded(
    tmp_path: Path,
) -> None:
    model, data = net(), batches()
    features, labels = data[0]
    with GraphHook(model, loss=True, dirpath=tmp_path, **IN_PLACE) as hook:
        # With gradients enabled, and the last result is alive when it learns.
        acted = [model(seen[:1]) for seen, _ in data]
        cross_entropy(model(features), labels).backward()
        sgd(model).step()
    assert len(acted) == 4
    graph = graph_of(hook.report)
    assert [node.op for node in graph.ops] == [*NET_OPS, "cross_entropy"]
    assert [node.name for node in graph.of_kind("output")] == ["loss"]
    assert [node.outputs[0].shape for node in graph.of_kind("input")] == [(5, 4)]
    names = [call.name for call in graph.modules]
    assert len([name for name in names if name.endswith("head")]) == 1, names


def test_where_no_backward_comes_the_forward_is_the_graph_whatever_is_raised(
    tmp_path: Path,
) -> None:
    hook = GraphHook(model := net(), loss=True, dirpath=tmp_path, **IN_PLACE)

    def fails() -> None:
        with hook:
            model(batches()[0][0]).square()
            raise RuntimeError("of the user")

    with pytest.raises(RuntimeError, match="of the user"):
        fails()
    graph = graph_of(hook.report)
    assert [node.op for node in graph.ops] == NET_OPS
    assert not graph.partial


@pytest.mark.parametrize("what", ["trained", "evaluated", "closed elsewhere"])
def test_where_no_backward_comes_what_other_models_do_is_not_recorded_forever(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_of_forward, "_MOST_BEHIND", 50)
    other, features = nn.Linear(4, 4), torch.ones(2, 4)
    lengths: list[int] = []
    reports: list[Report] = []

    def use_model_and_other() -> None:  # what is left on a thread's own stack ends with it
        hook = GraphHook(model := net(), loss=True, dirpath=tmp_path, **IN_PLACE)
        model(batches()[0][0])
        capture = hook._capture
        assert capture is not None
        if what == "closed elsewhere":
            closing = threading.Thread(target=hook.close)
            closing.start()
            closing.join()
        for _ in range(100):
            result = other(features).sum()
            if what == "trained":
                result.backward()
            lengths.append(len(capture.recorder.tape))
        hook.close()
        reports.append(hook.report)

    thread = threading.Thread(target=use_model_and_other)
    thread.start()
    thread.join()
    (report,) = reports
    assert [node.op for node in graph_of(report).ops] == NET_OPS
    assert len(lengths) == 100
    assert lengths[-1] == lengths[50]


def test_the_one_open_writer_among_the_variables_is_found(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path / "run"))
    closed = SummaryWriter(str(tmp_path / "other"))
    closed.close()
    with GraphHook(model := net(), **IN_PLACE) as hook:
        train(model, sgd(model), torch.Tensor.backward)
    writer.close()
    graph_of(hook.report)
    assert events_in(tmp_path / "run").Tags()["graph"]
    assert not events_in(tmp_path / "other").Tags()["graph"]
    assert Path(hook.report.folder) == tmp_path / "run" / "model_graph"


class Loop:
    """A trainer as people write them: the writer is an attribute."""

    def __init__(self, folder: Path) -> None:
        self.writer = SummaryWriter(str(folder))
        self.model = net()

    def fit(self) -> GraphHook:
        with GraphHook(self.model, **IN_PLACE) as hook:
            train(self.model, sgd(self.model), torch.Tensor.backward)
        self.writer.close()
        return hook


def test_a_writer_that_is_an_attribute_of_the_loops_object_is_found(tmp_path: Path) -> None:
    graph_of(Loop(tmp_path).fit().report)
    assert events_in(tmp_path).Tags()["graph"]


def test_of_two_open_writers_none_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writers = {name: SummaryWriter(str(tmp_path / name)) for name in ("train", "test")}
    first, second = writers.values()
    with GraphHook(model := net(), **IN_PLACE) as hook:
        train(model, sgd(model), torch.Tensor.backward)
    first.close()
    second.close()
    graph_of(hook.report)
    assert Path(hook.report.folder) == tmp_path / "model_graph" / "Net"
    assert not events_in(tmp_path / "train").Tags()["graph"]


class DeepSpeedEngine(nn.Module):
    """Stands around a model as DeepSpeed's does, which needs a compiler to be imported."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.module(*inputs)


def test_an_engine_around_the_model_gives_no_name(tmp_path: Path) -> None:
    engine = DeepSpeedEngine(net())
    with GraphHook(engine, dirpath=tmp_path, **IN_PLACE) as hook:
        engine(batches()[0][0]).sum().backward()
    graph = graph_of(hook.report)
    assert graph.class_name.endswith(".Net")
    assert {call.name for call in graph.modules if not call.parent} == {"body", "head"}
    assert {one.name for one in graph.parameters} == {name for name, _ in net().named_parameters()}
