"""The zoo's three properties can fail: each notices what it is there for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from modelviz_callbacks import trace
from modelviz_callbacks.errors import GraphError
from modelviz_callbacks.graph import Argument, ModelGraph, Ref
from tests.zoo import untouched
from tests.zoo.captured import assert_connected, assert_sound, needs_of_outputs
from tests.zoo.cases import Built, Case
from tests.zoo.leaves import difference, frozen
from tests.zoo.replayed import assert_result_again
from tests.zoo.switches import switches


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.norm(self.fc(x)) + y.detach()}


def _build() -> Built:
    return _Model(), (torch.randn(3, 4), torch.randn(3, 4)), {}


class _Tagged(torch.Tensor):
    pass


_CASE = Case("example", "example", _build, "written for these tests")


def _graph() -> ModelGraph:
    model, args, _ = _CASE.make()
    return trace(model, *args).graph


def test_autograd_tells_what_an_output_needs() -> None:
    (needs,) = needs_of_outputs(_CASE)
    assert needs == (
        frozenset({"fc.weight", "fc.bias", "norm.weight", "norm.bias"}),
        frozenset({0}),
    )


def test_a_missing_edge_is_noticed() -> None:
    graph = _graph()
    cut = [
        dataclasses.replace(node, arguments=(Argument("input", Ref("y")),))
        if node.op == "linear"
        else node
        for node in graph.nodes
    ]
    with pytest.raises(AssertionError, match=r"needs parameter fc\.bias"):
        assert_connected(dataclasses.replace(graph, nodes=tuple(cut)), needs_of_outputs(_CASE))


def test_a_missing_output_is_noticed() -> None:
    graph = _graph()
    fewer = tuple(node for node in graph.nodes if node.kind != "output")
    with pytest.raises(AssertionError, match="1 tensors were returned"):
        assert_connected(dataclasses.replace(graph, nodes=fewer), needs_of_outputs(_CASE))


def test_a_partial_graph_is_noticed() -> None:
    with pytest.raises(AssertionError, match="partial"):
        assert_sound(dataclasses.replace(_graph(), partial=True))


def test_a_broken_graph_is_noticed() -> None:
    graph = _graph()
    with pytest.raises(GraphError):
        assert_sound(dataclasses.replace(graph, nodes=graph.nodes[1:]))


def test_another_replay_is_noticed() -> None:
    model, args, _ = _CASE.make()
    recorded = trace(model, *args)
    with torch.no_grad():
        model.fc.weight[0, 0] += 1e-3
    with pytest.raises(AssertionError, match="values differ"):
        assert_result_again(recorded, args, {}, frozen(recorded.outputs))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.tensor([0.0, float("nan")])),
        ([torch.zeros(2)], (torch.zeros(2),)),
        ({"a": torch.zeros(2)}, {"b": torch.zeros(2)}),
        (torch.zeros(2), None),
        ([1, 2.0], [1, 3.0]),
        (torch.zeros(2).as_subclass(_Tagged), torch.zeros(2)),
        (torch.eye(2).to_sparse(), torch.eye(2)),
    ],
)
def test_results_that_differ_are_told_apart(one: Any, other: Any) -> None:
    assert difference(frozen(one), frozen(other))


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([float("nan"), 1.0]),
        torch.eye(2).to_sparse(),
        torch.randn(2, dtype=torch.complex64).conj(),
        {"a": [torch.ones(2), None, "text", float("nan")]},
    ],
)
def test_equal_results_are_equal(value: Any) -> None:
    assert not difference(frozen(value), frozen(value))


def _forget_hook(model: nn.Module, args: Any, kwargs: Any) -> Any:
    model.fc.register_forward_hook(lambda *_: None)
    return model(*args, **kwargs)


def _draw_number(model: nn.Module, args: Any, kwargs: Any) -> Any:
    torch.rand(1)
    return model(*args, **kwargs)


def _change_flag(model: nn.Module, args: Any, kwargs: Any) -> Any:
    model.norm.eval()
    return model(*args, **kwargs)


def _run_twice(model: nn.Module, args: Any, kwargs: Any) -> Any:
    model(*args, **kwargs)
    return model(*args, **kwargs)


def _leave_attribute(model: nn.Module, args: Any, kwargs: Any) -> Any:
    model.fc._seen = True
    return model(*args, **kwargs)


def _change_weight(model: nn.Module, args: Any, kwargs: Any) -> Any:
    model.fc.weight.data[0, 0] += 1e-6
    return model(*args, **kwargs)


@pytest.mark.parametrize(
    "forward",
    [_forget_hook, _draw_number, _change_flag, _run_twice, _leave_attribute, _change_weight],
)
def test_a_disturbed_training_step_is_noticed(forward: untouched.Forward) -> None:
    plain = untouched.state_after_step(_CASE, untouched.plain_forward)
    assert difference(plain, untouched.state_after_step(_CASE, forward))


def test_a_forgotten_global_hook_is_noticed() -> None:
    before = switches()
    handle = module_hooks.register_module_forward_pre_hook(lambda *_: None)
    during = switches()
    handle.remove()
    assert difference(before, during)
    assert not difference(before, switches())
