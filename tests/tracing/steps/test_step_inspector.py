"""What a `StepInspector` sees of a step, against values worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from modelviz_callbacks.tracing import Measured
from modelviz_callbacks.tracing.steps.inspected_step import InspectedStep, TensorHealth
from modelviz_callbacks.tracing.steps.step_health import health_notes
from modelviz_callbacks.tracing.steps.step_inspector import StepInspector
from modelviz_callbacks.tracing.steps.tensor_statistics import TensorStatistics
from modelviz_callbacks.tracing.transport.measurements import pack_measured, unpack_measured
from tests.zoo.leaves import difference
from tests.zoo.switches import switches


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Another test may have compiled something, and outputs are not looked at then.
    monkeypatch.setattr(
        "modelviz_callbacks.tracing.steps.step_inspector.has_compiled", lambda: False
    )
    before = switches()
    yield
    assert difference(before, switches()) == ""


class Looking:
    """A window over the steps that a test runs."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[InspectedStep] = []
        self.inspector = StepInspector(model, 1, self.seen.append)
        self.inspector.start()

    def end(self) -> InspectedStep:
        self.inspector.close()
        (step,) = self.seen
        return step


def health(tensor: torch.Tensor) -> TensorHealth | None:
    statistics = TensorStatistics()
    found = statistics.look(tensor)
    assert found is not None
    return statistics.read().health(found[0])


def gradients(step: InspectedStep) -> dict[str, Any]:
    return {one.name: one.gradient for one in step.parameters}


def linear(weights: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    layer.weight.data = torch.tensor(weights)
    return layer


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor([-3.0, 0.0, 1.0, 6.0]), (4, -3, 6, 1, math.sqrt(10.5), 1, 0, 0)),
        (torch.tensor([[2.0]], dtype=torch.float64), (1, 2, 2, 2, 0, 0, 0, 0)),
        (torch.tensor([1.0, INF, -INF, 0.0]), (4, -INF, INF, NAN, NAN, 1, 0, 2)),
        (torch.tensor([1.0, NAN, 0.0]), (3, NAN, NAN, NAN, NAN, 1, 1, 0)),
        (torch.tensor([-3, 0, 1, 6]), (4, -3, 6, 1, math.sqrt(10.5), 1, 0, 0)),
        (torch.tensor([True, False]), (2, 0, 1, 0.5, 0.5, 1, 0, 0)),
        (torch.tensor([3 + 4j, 0]), (2, 0, 5, 2.5, 2.5, 1, 0, 0)),
        (torch.tensor([60000.0, 0.0], dtype=torch.float16), (2, 0, 6e4, 3e4, 3e4, 1, 0, 0)),
        (torch.tensor([-2.0, 4.0], dtype=torch.bfloat16), (2, -2, 4, 1, 3, 0, 0, 0)),
    ],
)
def test_the_figures_of_a_tensor_are_those_worked_out_by_hand(
    tensor: torch.Tensor, expected: tuple[float, ...]
) -> None:
    assert health(tensor) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_what_a_sparse_tensor_does_not_store_is_zero() -> None:
    places, values = torch.tensor([[0, 2, 2]]), torch.tensor([6.0, 1.0, 1.0])
    tensor = torch.sparse_coo_tensor(places, values, (4,), check_invariants=True)
    assert health(tensor) == pytest.approx((4, 0, 6, 2, math.sqrt(6), 2, 0, 0))
    empty = torch.sparse_coo_tensor(size=(4,), check_invariants=True)
    assert health(empty) == pytest.approx((4, 0, 0, 0, 0, 4, 0, 0))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of parts of torch that are new, or old
def test_what_cannot_be_read_has_no_figures() -> None:
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for one in (torch.empty(3, device="meta"), jagged, torch.eye(2).to_sparse_csr(), quantized):
        assert health(one) is None


def test_outputs_gradients_and_updates_of_a_step_are_those_worked_out_by_hand() -> None:
    model = nn.Sequential(linear([[1.0, -2.0], [0.0, 2.0]]), nn.ReLU(), linear([[1.0, 3.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    looking = Looking(model)
    model(torch.tensor([[1.0, 1.0]])).sum().backward()
    optimizer.step()
    assert looking.inspector.is_closed  # every parameter has had its step
    step = looking.end()
    first, relu, last, whole = (output.health for output in step.outputs)
    assert first == pytest.approx((2, -1, 2, 0.5, 1.5, 0, 0, 0))
    assert relu == pytest.approx((2, 0, 2, 1, 1, 1, 0, 0))
    assert last == whole == pytest.approx((1, 6, 6, 6, 0, 0, 0, 0))
    assert [output.is_again for output in step.outputs] == [False, False, False, True]
    one, two = step.parameters
    # d/dW of 3·relu(W1·x) with x = (1, 1): the first row is cut off by the ReLU.
    assert one.gradient == pytest.approx((4, 0, 3, 1.5, 1.5, 2, 0, 0))
    assert two.gradient == pytest.approx((2, 0, 2, 1, 1, 1, 0, 0))
    assert one.update_norm == pytest.approx(0.5 * math.sqrt(18))
    assert one.weight_norm == pytest.approx(3.0)
    assert two.update_ratio == pytest.approx(0.5 * 2 / math.sqrt(10))
    assert step.remarks == ()
    assert unpack_measured(pack_measured(Measured(None, (step,)))) == Measured(None, (step,))


def test_an_accumulated_gradient_is_told_whole() -> None:
    model = linear([[1.0, 1.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    looking = Looking(model)
    for row in ([1.0, 0.0], [3.0, 2.0]):
        model(torch.tensor([row])).sum().backward()
        looking.inspector.next_forward()
    optimizer.step()
    step = looking.end()
    assert [output.health.mean for output in step.outputs if output.health] == [1.0]
    assert gradients(step)["weight"] == pytest.approx((2, 2, 4, 3, 1, 0, 0, 0))
    assert any("2 more forward(s)" in remark for remark in step.remarks)


def test_without_an_optimizer_the_gradients_are_told_and_the_updates_are_not() -> None:
    model = linear([[1.0, 1.0]])
    looking = Looking(model)
    model(torch.tensor([[2.0, 4.0]])).sum().backward()
    step = looking.end()
    assert gradients(step)["weight"] == pytest.approx((2, 2, 4, 3, 1, 0, 0, 0))
    assert step.parameters[0].update_norm is None
    assert any("No optimizer step" in remark for remark in step.remarks)


def test_an_optimizer_that_calls_the_model_is_seen_after_its_step() -> None:
    model = linear([[1.0, 1.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    looking = Looking(model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.tensor([[2.0, 4.0]])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    step = looking.end()
    assert gradients(step)["weight"] == pytest.approx((2, 2, 4, 3, 1, 0, 0, 0))
    assert step.parameters[0].update_norm == pytest.approx(0.5 * math.sqrt(20))


def test_a_window_that_opens_within_an_optimizers_step_says_what_it_cannot_know() -> None:
    model = linear([[1.0, 1.0]])
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    looking: list[Looking] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        looking[:] = looking or [Looking(model)]
        loss: torch.Tensor = (model(torch.tensor([[2.0, 4.0]])) - 1).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    step = looking[0].end()
    assert gradients(step)["weight"] is not None
    assert step.parameters[0].update_norm is None
    assert any("Updates were not measured" in remark for remark in step.remarks)


def test_hooks_of_others_behind_its_own_are_called_all_the_same() -> None:
    model = linear([[1.0, 1.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    looking = Looking(model)
    called: list[str] = []
    hooks = [
        register_optimizer_step_pre_hook(lambda *_: called.append("before")),
        register_optimizer_step_post_hook(lambda *_: called.append("after")),
    ]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    looking.end()
    assert called == ["before", "after"]
    optimizer.step()
    for hook in hooks:
        hook.remove()
    looking.inspector.remove_hooks()


def test_two_optimizers_are_both_waited_for() -> None:
    model = nn.Sequential(linear([[1.0, 2.0]]), linear([[3.0]]))
    one = torch.optim.SGD(model[0].parameters(), lr=1.0)
    other = torch.optim.Adam(model[1].parameters(), lr=1.0)
    looking = Looking(model)
    model(torch.ones(1, 2)).sum().backward()
    one.step()
    assert not looking.inspector.is_closed
    model[0].weight.grad *= 2.0
    one.step()  # a second step is not this one's update
    other.step()
    assert looking.inspector.is_closed
    norms = [parameter.update_norm for parameter in looking.end().parameters]
    assert norms == pytest.approx([math.sqrt(18), 1.0], rel=1e-4)


def test_a_step_that_a_scaler_skips_is_said_with_the_gradient_that_is_not_finite() -> None:
    model = linear([[1.0, 1.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    looking = Looking(model)
    for factor in (INF, 1.0):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = model(torch.ones(1, 2)).float().sum() * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        looking.inspector.end_forward()
        optimizer.zero_grad()
        looking.inspector.next_forward()
    step = looking.end()
    assert gradients(step)["weight"].infs + gradients(step)["weight"].nans == 2
    assert step.parameters[0].update_norm is None
    assert any("gradient scaler skips it" in remark for remark in step.remarks)
    kinds = {note.kind for note in health_notes([step])}
    assert "not-finite-gradient" in kinds


class Odd(nn.Module):
    """A module called twice, a shared parameter, a frozen one, one that nothing reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.table = nn.Embedding(6, 4, sparse=True)
        self.out = nn.Linear(4, 6, bias=False)
        self.again = nn.Linear(4, 6, bias=False)
        self.again.weight = self.out.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.kept = nn.Sequential(self.frozen, nn.Tanh())
        self.unreached = nn.Parameter(torch.ones(3))
        self.complex = nn.Parameter(torch.tensor([3 + 4j]))

    def forward(self, tokens: torch.Tensor) -> dict[str, Any]:
        x = self.twice(self.twice(self.table(tokens))) * self.complex.abs()
        found = torch.utils.checkpoint.checkpoint(self.kept, x, use_reentrant=False)
        return {"tokens": tokens, "pair": (self.out(found), self.again(x)), "none": None}


def test_odd_modules_and_parameters_are_each_told_once() -> None:
    torch.manual_seed(0)
    model = Odd()
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    looking = Looking(model)
    out = model(torch.tensor([[1, 1, 2]]))
    (out["pair"][0].sum() + out["pair"][1].sum()).backward()
    optimizer.step()
    step = looking.end()
    assert [(one.path, one.call_index, one.place) for one in step.outputs] == [
        ("table", 0, ""),
        ("twice", 0, ""),
        ("twice", 1, ""),
        ("frozen", 0, ""),
        ("kept.1", 0, ""),
        ("kept", 0, ""),
        ("out", 0, ""),
        ("again", 0, ""),
        ("", 0, "['tokens']"),
        ("", 0, "['pair'][0]"),
        ("", 0, "['pair'][1]"),
    ]
    assert step.outputs[8].dtype == "int64"
    by_name = {one.name: one for one in step.parameters}
    assert "frozen.weight" not in by_name
    assert "again.weight" not in by_name
    assert not by_name["unreached"].has_gradient
    assert by_name["table.weight"].gradient.zeros == 4 * 4  # type: ignore[union-attr]
    assert by_name["complex"].weight_norm == pytest.approx(5.0)
    assert step.remarks == ()


def test_parameters_without_data_are_left_alone_and_said() -> None:
    model = nn.Linear(2, 3, device="meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    looking = Looking(model)
    model(torch.empty(4, 2, device="meta")).sum().backward()
    optimizer.step()
    step = looking.end()
    assert [(one.shape, one.health) for one in step.outputs] == [((4, 3), None)]
    assert {(one.has_gradient, one.gradient) for one in step.parameters} == {(True, None)}
    assert [remark[:42] for remark in step.remarks] == [
        "2 of 2 parameters were not looked at: thei"
    ]


def test_what_is_under_a_transform_is_left_alone_and_said() -> None:
    model = nn.Linear(2, 2)
    looking = Looking(model)
    torch.func.vmap(model)(torch.ones(3, 2))
    step = looking.end()
    assert step.outputs == ()
    assert any("vmap" in remark for remark in step.remarks)


def test_a_step_that_is_captured_as_a_cuda_graph_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = "modelviz_callbacks.tracing.steps.step_inspector"
    monkeypatch.setattr(f"{home}.is_captured", lambda: True)
    before = switches()
    looking = Looking(nn.Linear(2, 2))
    assert difference(before, switches()) == ""
    step = looking.end()
    assert (step.outputs, step.parameters) == ((), ())
    assert any("CUDA graph" in remark for remark in step.remarks)


def test_a_fault_of_its_own_is_a_remark_and_the_step_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TensorStatistics, "look", broken)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    looking = Looking(model)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert any("out of memory" in remark for remark in looking.end().remarks)


def _adam(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    return lambda: _step(model, optimizer)


def _sgd(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    return lambda: _step(model, optimizer)


def _autocast(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            _step(model, optimizer)

    return step


def _half(model: nn.Module) -> Callable[[], None]:
    return _sgd(model.bfloat16())


def _accumulating(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    count = iter(range(100))

    def step() -> None:
        _forward(model).backward()
        if next(count) % 2:
            optimizer.step()
            optimizer.zero_grad()

    return step


def _scaled(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = _forward(model)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()

    return step


def _lbfgs(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = _forward(model)
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)  # type: ignore[no-untyped-call, no-any-return]


def _forward(model: nn.Module) -> torch.Tensor:
    first = next(model.parameters())
    loss: torch.Tensor = model(torch.randn(8, 6).to(first.dtype)).float().square().mean()
    return loss


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    _forward(model).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "kind",
    [_sgd, _adam, _autocast, _half, _accumulating, _scaled, _lbfgs],
    ids=lambda k: k.__name__,
)
def test_weights_and_random_numbers_are_the_same_to_the_bit(
    kind: Callable[[nn.Module], Callable[[], None]],
) -> None:
    def train(looks: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(5)
        model = nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(8, 3),
        )
        step = kind(model)
        looking = None
        for number in range(5):
            if looking is not None:
                looking.inspector.next_forward()
            if looks and number == 2:
                looking = Looking(model)
            step()
            if looking is not None:
                looking.inspector.end_forward()
        if looking is not None:
            assert looking.end().outputs
        state = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
        return [copy.deepcopy(one) for one in state if one is not None], torch.get_rng_state()

    weights, numbers = train(True)
    expected, expected_numbers = train(False)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))
    assert torch.equal(numbers, expected_numbers)
