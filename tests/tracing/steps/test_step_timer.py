"""A later step is timed op by op, its times are tied to the graph, and nothing else happens."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import Capture, to_graph
from modelviz_callbacks.tracing.steps import backward_timer, step_timer
from modelviz_callbacks.tracing.steps.step_timer import StepTimer
from modelviz_callbacks.tracing.steps.step_times import OpTimes, matched, op_times
from modelviz_callbacks.tracing.steps.timed_step import TimedStep
from modelviz_callbacks.writers.graphdef import timed_graph
from tests.lightning_modules import data, trainer_for
from tests.models import BUILDERS, TwoBranches, build, images
from tests.zoo.cases import Case
from tests.zoo.leaves import difference
from tests.zoo.switches import switches
from tests.zoo.timed import assert_untouched_by_timing


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> None:
    """What other tests have compiled is no part of these models."""
    torch._dynamo.reset()
    counters.clear()


def recorded(model: nn.Module, *args: Any, **kwargs: Any) -> ModelGraph:
    capture = Capture(model)
    capture.start(args, kwargs)
    try:
        result = model(*args, **kwargs)
    finally:
        capture.stop()
    return to_graph(capture.finish(result))


def timed(model: nn.Module, *args: Any, **kwargs: Any) -> TimedStep:
    timer = StepTimer(model)
    timer.start()
    try:
        model(*args, **kwargs)
    finally:
        timer.stop()
    return timer.finish()


def op_names(graph: ModelGraph) -> set[str]:
    return {node.name for node in graph.of_kind("op")}


class Clock:
    """Stands still, but for the ops that take the time they are told to."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(step_timer, "perf_counter_ns", stopped)
    return stopped


@pytest.fixture
def takes(clock: Clock) -> Iterator[Callable[[torch.Tensor, int], torch.Tensor]]:
    """An op that takes as many microseconds as its second argument says."""

    @torch.library.custom_op("modelviz_tests::takes", mutates_args=())
    def op(x: torch.Tensor, duration_us: int) -> torch.Tensor:
        clock.now_ns += duration_us * 1_000
        return x + 1

    yield torch.ops.modelviz_tests.takes
    del op


# --- what is timed, and how it is tied to the graph


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_op_of_every_model_gets_its_time_in_a_later_step(name: str) -> None:
    model, args, kwargs = build(name)
    graph = recorded(model, *args, **kwargs)
    _, args, kwargs = build(name)  # some write to what they are given
    times = op_times(timed(model, *args, **kwargs), graph)

    only_once = {"layer/1_BatchNorm1d/zero_"} if name == "LazyLayers" else set()
    assert op_names(graph) - set(times.times_us) == only_once
    assert [node.name for node in graph.ops if node.name in times.times_us] == list(times.times_us)
    assert min(times.times_us.values()) >= 0
    assert 0 < sum(times.times_us.values()) < times.total_us


def test_each_op_gets_the_time_it_took(
    clock: Clock, takes: Callable[[torch.Tensor, int], torch.Tensor]
) -> None:
    class Part(nn.Module):
        def forward(self, x: torch.Tensor, duration_us: int) -> torch.Tensor:
            return takes(takes(x, duration_us), 2 * duration_us)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = takes(self.part(x, 10), 100)
            clock.now_ns += 5_000  # between the ops
            return self.part(x, 1000).contiguous()

    model = Model()
    graph = recorded(model, torch.ones(2))
    times = op_times(timed(model, torch.ones(2)), graph)

    assert times.times_us == {
        "part/takes": 10.0,
        "part/takes_1": 20.0,
        "takes": 100.0,
        "part_1/takes": 1000.0,
        "part_1/takes_1": 2000.0,
    }
    assert (times.total_us, times.remarks) == (3135.0, ())


def test_the_times_make_a_named_graph_whose_boxes_are_sums() -> None:
    model, args, kwargs = build("Transformer")
    graph = recorded(model, *args, **kwargs)
    times = op_times(timed(model, *args, **kwargs), graph)

    assert timed_graph(Analysis(graph), times.times_us, "time of step 3").has_graph


def test_what_was_timed_can_go_to_another_process() -> None:
    model, args, kwargs = build("TwoBranches")
    graph = recorded(model, *args, **kwargs)
    step = timed(model, *args, **kwargs)

    assert op_times(pickle.loads(pickle.dumps(step)), graph) == op_times(step, graph)


class TakesAnotherPath(nn.Module):
    """Three paths with the same functions on different lines."""

    path = "recorded"

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        if self.path == "recorded":
            x = torch.relu(x) + 1
            x = torch.tanh(x) + 2
        else:
            x = torch.relu(x) + 3
        return self.fc(x) * 2


def test_a_step_that_takes_another_path_has_times_for_what_both_ran(
    clock: Clock, takes: Callable[[torch.Tensor, int], torch.Tensor]
) -> None:
    model = TakesAnotherPath()
    graph = recorded(model, torch.ones(2, 4))
    model.path = "other"
    times = op_times(timed(model, torch.ones(2, 4)), graph)

    # One relu and one addition were timed, but on lines that the graph does not have.
    assert op_names(graph) - set(times.times_us) == {"tanh", "add_1"}
    assert times.remarks == (
        "2 of 7 recorded ops have no time: the timed step did not run them as the recorded one "
        "did. The first is tanh.",
    )


def test_ops_on_the_lines_of_the_graph_go_before_others_of_the_same_name() -> None:
    wanted = [("add", "f:1"), ("relu", "f:2"), ("add", "f:3")]
    ran = [("add", "f:0"), ("add", "f:1"), ("relu", "f:2"), ("add", "f:3")]

    assert matched(wanted, ran) == [(0, 1), (1, 2), (2, 3)]


def test_a_model_without_a_line_of_its_own_can_be_called_from_another_line() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = recorded(model, torch.ones(2, 4))
    times = op_times(timed(model, torch.ones(2, 4)), graph)

    assert {str(node.source) for node in graph.ops} != {"None"}
    assert set(times.times_us) == op_names(graph)


def test_time_that_went_into_other_ops_is_said(
    clock: Clock, takes: Callable[[torch.Tensor, int], torch.Tensor]
) -> None:
    class Model(nn.Module):
        more = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return takes(takes(x, 30), 30) if self.more else takes(x, 30)

    model = Model()
    graph = recorded(model, torch.ones(2))
    model.more = True
    (remark,) = op_times(timed(model, torch.ones(2)), graph).remarks

    assert remark == "50 % of the timed step went into ops that are not in the graph."


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_what_is_matched_is_equal_and_in_order_in_both(one: list[int], other: list[int]) -> None:
    pairs = matched(one, other)

    assert all(one[a] == other[b] for a, b in pairs)
    assert pairs == sorted(set(pairs))
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_a_sequence_with_others_in_between_is_matched_whole(steps: list[tuple[int, bool]]) -> None:
    ran = [number for number, _ in steps]
    wanted = [number for number, is_wanted in steps if is_wanted]

    assert len(matched(wanted, ran)) == len(wanted)


def test_very_long_sequences_are_matched_up_to_their_first_difference() -> None:
    wanted = [*range(3000), "a", *range(3000)]
    ran = [*range(3000), "b", *range(3000)]

    assert matched(wanted, ran) == [(number, number) for number in range(3000)]


class Holder(nn.Module):
    """Holds a layer that others hold, too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class MayDoNothing(nn.Module):
    """Where it does nothing, and is no part of the model, the graph does not have it."""

    def forward(self, x: torch.Tensor, does_something: bool) -> torch.Tensor:
        return x.sin() if does_something else x


def test_modules_that_are_shared_or_no_part_of_the_model_are_known_again() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.two = nn.Linear(4, 4)
            self.left, self.right = Holder(self.one), Holder(self.one)
            self.hidden = [nn.Linear(4, 4), nn.Tanh()]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.right(self.left(self.two(self.one(x))))
            for module in self.hidden:
                x = module(x) + nn.ReLU()(x)
            for number in range(4):
                x = MayDoNothing()(x, number % 2 == 1)
            return x

    model = Model()
    graph = recorded(model, torch.ones(2, 4))
    times = op_times(timed(model, torch.ones(2, 4)), graph)

    assert {"left/layer", "right/layer"} <= {call.name for call in graph.modules}
    assert set(times.times_us) == op_names(graph)
    assert times.remarks == ()


def test_a_module_that_nobody_can_look_into_takes_what_its_call_took() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.hidden(x) + 1

    model = Model()
    graph = recorded(model, torch.ones(2, 4))
    times = op_times(timed(model, torch.ones(2, 4)), graph)

    (opaque,) = graph.of_kind("opaque")
    assert 0 < times.times_us[opaque.name] < times.total_us


def test_a_timer_that_starts_inside_the_models_own_call_ties_the_same() -> None:
    model, args, kwargs = build("CallsItself")
    graph = recorded(model, *args, **kwargs)
    timer = StepTimer(model)
    depth = 0

    def before(*_: Any) -> None:
        nonlocal depth
        if not depth:
            timer.start(inside_model=True)
        depth += 1

    def after(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if not depth:
            timer.stop()

    with model.register_forward_pre_hook(before), model.register_forward_hook(after):
        model(*args, **kwargs)
    times = op_times(timer.finish(), graph)

    assert set(times.times_us) == op_names(graph)
    assert times.remarks == ()


class Manual(nn.Module):
    """A whole step: forward, backward that recomputes, optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.optimizer = torch.optim.Adam(self.net.parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = checkpoint(self.net, x, use_reentrant=False).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return self.net(x).mean() * 2


def test_backward_and_optimiser_inside_the_step_are_no_ops_of_it() -> None:
    model = Manual()
    graph = recorded(model, torch.ones(2, 4))
    step = timed(model, torch.ones(2, 4))
    times = op_times(step, graph)

    assert set(times.times_us) == op_names(graph)
    functions = Counter(op.target for op in step.ops)
    assert functions["torch.nn.functional.linear"] == 4  # not those of the recomputation
    of_others = ("backward", "lerp", "addcdiv", "_foreach")
    assert not [target for target in functions if any(word in target for word in of_others)]


@pytest.mark.filterwarnings("ignore:::lightning")
def test_a_lightning_step_that_logs_is_tied_whole(tmp_path: Path) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 2)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            loss = self.net(batch).square().mean()
            self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
            return loss * torch.ones(()).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    graphs: list[ModelGraph] = []
    steps: list[TimedStep] = []

    class Both(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            inner = pl_module.training_step

            def first_recorded_then_timed(batch: torch.Tensor, batch_idx: int) -> Any:
                if batch_idx == 0:
                    capture = Capture(pl_module)
                    capture.start((batch, batch_idx), {}, capture._signature)
                    result = inner(batch, batch_idx)
                    graphs.append(to_graph(capture.finish(result)))
                    return result
                timer = StepTimer(pl_module)
                timer.start()
                result = inner(batch, batch_idx)
                timer.stop()
                steps.append(timer.finish())
                return result

            pl_module.training_step = first_recorded_then_timed  # type: ignore[method-assign]

    trainer_for(tmp_path, Both(), max_steps=2).fit(Module(), data())
    times = op_times(steps[0], graphs[0])

    assert {"net/linear", "square", "mean"} <= set(times.times_us)
    assert set(times.times_us) == op_names(graphs[0])
    assert times.remarks == ()


# --- the backward


class Slow(torch.autograd.Function):
    """Takes as long in the backward as it is told to."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, clock: Clock, duration_us: int) -> torch.Tensor:
        ctx.clock, ctx.duration_us = clock, duration_us
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        ctx.clock.now_ns += ctx.duration_us * 1_000
        return grads[0] * 2, None, None


class SlowBackward(nn.Module):
    """The same layer twice, each time followed by something that is slow in the backward."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.layer = clock, nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = Slow.apply(self.layer(x), self.clock, 10)
        x = Slow.apply(self.layer(x), self.clock, 200)
        return x.detach() + x


def timed_with_backward(
    model: nn.Module, x: torch.Tensor, loss_of: Callable[[torch.Tensor], torch.Tensor] = torch.sum
) -> TimedStep:
    timer = StepTimer(model)
    timer.start()
    result = model(x)
    timer.stop(result)
    loss_of(result).backward()
    return timer.finish()


def test_each_op_gets_the_time_that_autograd_took_for_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backward_timer, "perf_counter_ns", clock)
    model = SlowBackward(clock)
    graph = recorded(model, torch.ones(1, 2))
    times = op_times(timed_with_backward(model, torch.ones(1, 2)), graph)

    took = {name: us for name, us in times.backward_us.items() if us}
    assert took == {"mul": 10.0, "mul_1": 200.0}
    assert times.backward_total_us == 210.0
    assert {"layer/linear", "layer_1/linear", "add"} <= set(times.backward_us)
    assert "detach" not in times.backward_us
    assert times.remarks == ()


def test_only_the_backward_of_the_timed_forward_is_timed_and_no_hook_stays(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backward_timer, "perf_counter_ns", clock)
    model, timer = SlowBackward(clock), StepTimer(SlowBackward(clock))
    before = model(torch.ones(1, 2))  # of an earlier step, and still in the graph
    timer.start()
    result = model(before.detach()) + before
    timer.stop(result)
    result.sum().backward(retain_graph=True)
    graph = recorded(model, torch.ones(1, 2))
    step = timer.finish()
    ran = len(step.backward)
    result.sum().backward()

    assert op_times(step, graph).backward_total_us == 210.0
    assert ran == len(timer.finish().backward)


def test_a_backward_in_the_timed_code_and_those_of_several_losses_are_timed() -> None:
    model = Manual()
    graph = recorded(model, torch.ones(2, 4))
    step = timed_with_backward(model, torch.ones(2, 4))
    times = op_times(step, graph)

    assert {"square", "mean", "net/0_Linear/linear"} <= set(times.backward_us)  # the one inside
    assert {"net_1/0_Linear/linear", "mul"} <= set(times.backward_us)  # the one after it


# --- what it leaves alone


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_timed_step_trains_as_if_nobody_watched(name: str) -> None:
    assert_untouched_by_timing(Case(name, "small", BUILDERS[name], "tests.models"))


def test_a_step_can_be_recorded_and_timed_at_once() -> None:
    model, args, kwargs = build("Transformer")
    before, capture, timer = switches(), Capture(model), StepTimer(model)
    capture.start(args, kwargs)
    timer.start()
    result = model(*args, **kwargs)
    timer.stop()
    graph = to_graph(capture.finish(result))
    times = op_times(timer.finish(), graph)

    assert not difference(before, switches())
    assert set(times.times_us) == op_names(graph)
    assert times.remarks == ()


def test_an_exception_goes_on_and_what_ran_until_then_is_timed() -> None:
    class Fails(TwoBranches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cnn(x)
            raise KeyError("mine")

    torch.manual_seed(0)
    graph = recorded(TwoBranches(), images())
    before, timer = switches(), StepTimer(failing := Fails())
    timer.start()
    with pytest.raises(KeyError, match="mine"):
        failing(images())
    timer.stop()

    assert not difference(before, switches())
    times = op_times(timer.finish(), graph)
    in_cnn = {node.name for node in graph.ops if node.scope.partition("/")[0] == "cnn"}
    assert set(times.times_us) == in_cnn != set()


class EarlyExit(BaseException):
    """Hooks that are always called are not called after one of these."""


@pytest.mark.parametrize("error", [ValueError, EarlyExit])
def test_an_exception_that_the_model_catches_leaves_no_call_open(
    error: type[BaseException],
) -> None:
    class Raises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Raises()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.inner(x)
            except error:
                return torch.relu(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.catches = Catches()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.catches(x))

    model = Model()
    graph = recorded(model, torch.ones(2))
    times = op_times(timed(model, torch.ones(2)), graph)

    assert {node.op for node in graph.ops} == {"relu", "tanh"}
    assert set(times.times_us) == op_names(graph)


def test_what_other_threads_run_meanwhile_is_neither_timed_nor_counted() -> None:
    model, args, kwargs = build("ReusedLayer")
    graph = recorded(model, *args, **kwargs)
    timer = StepTimer(model)
    timer.start()
    other = threading.Thread(target=lambda: model(*args, **kwargs))
    other.start()
    other.join()
    model(*args, **kwargs)
    timer.stop()

    times = op_times(timer.finish(), graph)
    assert set(times.times_us) == op_names(graph)
    assert times.remarks == ()


@pytest.mark.parametrize("part", ["model", "submodule", "in place"])
def test_compiled_code_stays_compiled_and_is_timed_as_one(part: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.ReLU())
    called: nn.Module = model
    if part == "model":
        called = torch.compile(model, backend="eager")  # type: ignore[assignment]
    elif part == "submodule":
        model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    else:
        model[0].compile(backend="eager")
    x = torch.ones(2, 4)
    called(x)
    compiled = counters["stats"]["unique_graphs"]
    graph = recorded(called, x)
    before, timer = switches(), StepTimer(model, called)
    assert timer.start()
    result = called(x)
    timer.stop(result)
    assert not difference(before, switches())
    result.sum().backward()
    times = op_times(timer.finish(), graph)

    assert counters["stats"]["unique_graphs"] == compiled
    if part == "model":
        assert times.times_us == times.backward_us == times.compiled_us == {}
    else:
        assert set(times.times_us) == set(times.backward_us) == {"1_ReLU/relu"}
        assert set(times.compiled_us) == set(times.compiled_backward_us) == {"0_Sequential"}
        assert times.compiled_us["0_Sequential"] < times.total_us
    (remark,) = times.remarks
    assert "timed as one" in remark


def test_a_compiled_function_is_timed_as_one() -> None:
    @torch.compile(backend="eager")
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return double(x).tanh()

    model, x = Model(), torch.ones(2)
    model(x)
    step = timed(model, x)

    assert [call.class_name for call in step.calls if call.is_compiled] == [double.__qualname__]
    assert [op.target for op in step.ops] == ["torch.Tensor.tanh"]


def test_a_fault_of_the_timer_ends_the_timing_and_not_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(func: Any) -> Any:
        if func is F.relu:
            raise LookupError("injected")
        return step_timer.CallKind.PURE

    monkeypatch.setattr(step_timer, "classify", fails)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    x = torch.ones(2, 4)
    expected = model(x)
    timer = StepTimer(model)
    timer.start()
    assert torch.equal(model(x), expected)
    timer.stop()

    step = timer.finish()
    assert [op.target for op in step.ops] == ["torch.nn.functional.linear"]
    assert step.remarks == ("The timing of the step ended early with LookupError('injected').",)


# --- CUDA, with streams and events that can be looked at


class Stream:
    """Where each event was put, and what the device does until then."""

    now_us = 0.0
    step_is_running = False


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at_us: float | None = None

    def record(self, stream: Any) -> None:
        self.at_us = Stream.now_us

    def synchronize(self) -> None:
        assert not Stream.step_is_running, "the step waited for the device"

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds, as torch has it."""
        assert self.at_us is not None
        assert other.at_us is not None
        return (other.at_us - self.at_us) / 1000


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "Event", Event)


def on_cuda(graph: ModelGraph, but: str) -> ModelGraph:
    """The graph as if all of it but one op had run on a GPU."""

    def moved(node: Any) -> Any:
        specs = [dataclasses.replace(spec, device="cuda:0") for spec in node.outputs]
        return node if node.name == but else dataclasses.replace(node, outputs=tuple(specs))

    return dataclasses.replace(graph, nodes=tuple(moved(node) for node in graph.nodes))


@pytest.mark.usefixtures("cuda")
def test_ops_on_a_gpu_are_timed_by_events_and_the_step_never_waits(
    clock: Clock, takes: Callable[[torch.Tensor, int], torch.Tensor]
) -> None:
    @torch.library.custom_op("modelviz_tests::kernel", mutates_args=())
    def kernel(x: torch.Tensor, duration_us: int) -> torch.Tensor:
        Stream.now_us += duration_us
        return x + 1

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.ops.modelviz_tests.kernel(takes(x, 3), 500)
            return torch.ops.modelviz_tests.kernel(x, 40)

    model = Model()
    graph = on_cuda(recorded(model, torch.ones(2)), but="takes")
    timer = StepTimer(model)
    Stream.step_is_running = True
    timer.start()
    model(torch.ones(2))
    timer.stop()
    Stream.step_is_running = False

    times = op_times(timer.finish(), graph)
    assert times.times_us == {"takes": 3.0, "kernel": 500.0, "kernel_1": 40.0}
    assert times.total_us == 540.0


@pytest.mark.usefixtures("cuda")
def test_the_backward_on_a_gpu_is_timed_by_events_and_waits_for_nothing() -> None:
    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            Stream.now_us += 70
            return grads[0] * 2

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Kernel.apply(x).tanh()

    model, x = Model(), torch.ones(2, requires_grad=True)
    graph = on_cuda(recorded(model, x), but="")
    Stream.step_is_running = True
    timer = StepTimer(model)
    timer.start()
    result = model(x)
    timer.stop(result)
    thread = threading.Thread(target=result.sum().backward)  # autograd has one for each GPU
    thread.start()
    thread.join()
    Stream.step_is_running = False

    times = op_times(timer.finish(), graph)
    assert times.backward_us == {"mul": 70.0, "tanh": 0.0}


@pytest.mark.usefixtures("cuda")
def test_a_step_that_is_captured_as_a_cuda_graph_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    timer = StepTimer(nn.Linear(2, 2))

    assert not timer.start()
    assert "CUDA graph" in timer.finish().remarks[0]


@pytest.mark.usefixtures("cuda")
def test_an_event_that_cannot_be_recorded_costs_the_timing_and_not_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected = model(x)
    timer = StepTimer(model)
    timer.start()
    monkeypatch.delattr(Event, "record")
    assert torch.equal(model(x), expected)
    timer.stop()

    assert "ended early with AttributeError" in timer.finish().remarks[0]


def test_times_on_other_devices_are_said_to_be_the_threads() -> None:
    model = nn.Linear(2, 2, device="meta")
    x = torch.ones(1, 2, device="meta")
    times = op_times(timed(model, x), recorded(model, x))

    assert set(times.times_us) == {"linear"}
    assert times.remarks == ("Times on meta are those of the calling thread, not of the device.",)


def test_a_step_that_was_never_timed_has_no_times() -> None:
    model, args, kwargs = build("TwoBranches")

    times = op_times(StepTimer(model).finish(), recorded(model, *args, **kwargs))

    assert times == OpTimes({}, 0.0, ())
