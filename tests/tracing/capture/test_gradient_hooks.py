"""Hooks that change a gradient which the forward takes itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.graph import Ref
from modelviz_callbacks.tracing import pack, to_graph, unpack

_PutUp = Callable[[torch.Tensor, torch.Tensor], object]


class Force(nn.Module):
    """The slope of an energy, which hooks may change."""

    def __init__(self, put_up: _PutUp, takes_gradient: bool = True) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
        self.put_up, self.takes_gradient = put_up, takes_gradient

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        hidden = self.layer(x).tanh()
        self.put_up(hidden, x)
        energy = self.head(hidden * hidden).sum()
        if not self.takes_gradient:
            return torch.as_tensor(energy)
        return torch.autograd.grad(energy, x, create_graph=True)[0]


def of_a_value_in_between(hidden: torch.Tensor, _: torch.Tensor) -> None:
    hidden.register_hook(lambda gradient: gradient * 2 + 1)


def of_the_input(_: torch.Tensor, x: torch.Tensor) -> None:
    x.register_hook(torch.neg)


def removed(hidden: torch.Tensor, _: torch.Tensor) -> None:
    hidden.register_hook(torch.neg).remove()


def holding_a_value(hidden: torch.Tensor, x: torch.Tensor) -> None:
    mask = (x > 0).float()
    hidden.register_hook(lambda gradient: gradient * mask)


@pytest.mark.parametrize("put_up", [of_a_value_in_between, of_the_input, removed])
def test_a_replay_calls_the_hook_again(put_up: _PutUp) -> None:
    torch.manual_seed(0)
    model, x, other = Force(put_up), torch.randn(3, 4), torch.randn(3, 4)
    traced = trace(model, x)
    assert torch.equal(traced.outputs, model(x))
    assert torch.equal(traced.replay(x), traced.outputs)
    assert torch.equal(traced.replay(other), model(other))


def test_a_hook_that_holds_a_value_of_the_forward_is_not_called_again() -> None:
    traced = trace(Force(holding_a_value), torch.randn(3, 4))
    with pytest.raises(ReplayError, match="register_hook"):
        traced.replay(torch.randn(3, 4))


class Watched(nn.Module):
    """The slope of what a part gives, whose gradients, or what is kept for them, hooks may change.

    Args:
        watch: Puts hooks on a tensor in between, or on the part.
        kept: Hooks for what autograd keeps.
    """

    def __init__(self, watch: Callable[[Any], object] | None = None, kept: Any = None) -> None:
        super().__init__()
        self.part, self.watch = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), watch
        self.kept = kept or contextlib.nullcontext

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        with self.kept():
            hidden = self.part(x)
        if self.watch is not None:
            self.watch(hidden)
        slope = torch.autograd.grad(hidden.square().sum(), x, create_graph=True)[0]
        return torch.as_tensor(slope * 2)


def twice(gradients: Any, *_: Any) -> Any:
    return tuple(None if one is None else one * 2 for one in gradients)


def on_the_node(hidden: torch.Tensor) -> None:
    assert hidden.grad_fn is not None
    hidden.grad_fn.register_hook(twice)


def before_the_node(hidden: torch.Tensor) -> None:
    assert hidden.grad_fn is not None
    hidden.grad_fn.register_prehook(twice)


def on_a_node_further_on(hidden: torch.Tensor) -> None:
    node = torch.autograd.graph.get_gradient_edge(hidden).node
    following = node.next_functions[0][0]
    assert following is not None
    following.register_hook(twice)


def on_the_part(put_up: str) -> nn.Module:
    model = Watched()
    getattr(model.part, put_up)(lambda _, *gradients: twice(gradients[0]))
    return model


def kept_twice() -> Any:
    return torch.autograd.graph.saved_tensors_hooks(lambda one: one * 2, lambda one: one)


@pytest.mark.parametrize(
    "model",
    [
        Watched(on_the_node),
        Watched(before_the_node),
        Watched(on_a_node_further_on),
        on_the_part("register_full_backward_hook"),
        on_the_part("register_full_backward_pre_hook"),
        on_the_part("register_backward_hook"),
        Watched(kept=kept_twice),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
def test_a_gradient_changed_out_of_sight_is_not_taken_again(model: Any, tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 12).view(3, 4)
    plain = Watched()
    plain.part = nn.Sequential(*model.part)  # the same weights, without hooks on the part
    assert not torch.equal(model(x), plain(x))
    traced = trace(model, x)
    assert torch.equal(traced.outputs, model(x))
    for recording in (traced, trace(model, x)):
        with pytest.raises(ReplayError, match="hooks on autograd's nodes"):
            recording.replay(x)
    proto = onnx.load(traced.save_onnx(tmp_path / "graph.onnx", weights=True))
    nodes = [*proto.graph.node, *(node for body in proto.functions for node in body.node)]
    assert "grad" in [node.op_type for node in nodes if node.domain == "pytorch"]


def only_read(hidden: torch.Tensor) -> None:
    assert hidden.grad_fn is not None


def put_up_and_removed(hidden: torch.Tensor) -> None:
    assert hidden.grad_fn is not None
    hidden.grad_fn.register_hook(twice).remove()


def on_another_node(hidden: torch.Tensor) -> None:
    on_the_node(hidden.exp())


@pytest.mark.parametrize(
    "model",
    [
        Watched(only_read),
        Watched(put_up_and_removed),
        Watched(on_another_node),
        Watched(kept=torch.autograd.graph.save_on_cpu),
    ],
)
def test_hooks_that_change_nothing_of_it_are_of_no_matter(model: nn.Module) -> None:
    torch.manual_seed(0)
    x, other = torch.randn(3, 4), torch.randn(3, 4)
    traced = trace(model, x)
    assert torch.equal(traced.replay(x), traced.outputs)
    assert torch.equal(traced.replay(other), model(other))


def test_looking_for_hooks_changes_no_training() -> None:
    x = torch.linspace(-1, 1, 12).view(3, 4)
    gradients = []
    for is_recorded in (False, True):
        torch.manual_seed(0)
        model = Watched(on_the_node)
        outputs = trace(model, x).outputs if is_recorded else model(x)
        outputs.square().sum().backward()
        gradients.append([one.grad for one in model.parameters()])
    assert all(map(torch.equal, *gradients))
    assert all(one is not None for one in gradients[0])


@pytest.mark.parametrize(
    ("model", "is_shown"),
    [
        (Force(of_a_value_in_between), True),
        (Force(removed), False),
        (Force(of_a_value_in_between, takes_gradient=False), False),
    ],
)
def test_the_graph_has_it_where_the_forward_needs_it(model: nn.Module, is_shown: bool) -> None:
    traced = trace(model, torch.randn(3, 4))
    for graph in (traced.graph, to_graph(unpack(pack(traced._recording)))):
        ops = [node.op for node in graph.ops]
        assert ("register_hook" in ops) == is_shown, ops


@pytest.mark.parametrize(
    ("put_up", "is_translated"),
    [(of_a_value_in_between, False), (of_the_input, False), (removed, True)],
)
def test_no_file_has_the_gradient_without_the_hook(
    put_up: _PutUp, is_translated: bool, tmp_path: Path
) -> None:
    traced = trace(Force(put_up), torch.randn(3, 4))
    proto = onnx.load(traced.save_onnx(tmp_path / "graph.onnx", weights=True))
    onnx.checker.check_model(proto)
    nodes = [*proto.graph.node, *(node for body in proto.functions for node in body.node)]
    foreign = [node.op_type for node in nodes if node.domain == "pytorch"]
    assert foreign == ([] if is_translated else ["grad"])


class Backward(nn.Module):
    """Goes on with a gradient that a backward of its own forward has made.

    Args:
        run: Calls ``backward`` on the energy.
        owner: Gives the leaf whose gradient is read: the input's copy or the weight.
    """

    def __init__(self, run: Callable[[torch.Tensor], object], owner: str) -> None:
        super().__init__()
        self.layer, self.run, self.owner = nn.Linear(4, 4), run, owner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        self.run((self.layer(x) ** 2).sum())
        read = x if self.owner == "input" else self.layer.weight
        assert read.grad is not None
        return self.layer(x) + read.grad.sum(0)


@pytest.mark.parametrize(
    ("run", "owner"),
    [
        (torch.Tensor.backward, "input"),
        (torch.autograd.backward, "input"),
        (torch.Tensor.backward, "weight"),
    ],
)
def test_the_gradient_of_a_backward_inside_is_no_constant(
    run: Callable[[torch.Tensor], object], owner: str
) -> None:
    traced = trace(Backward(run, owner), torch.randn(3, 4))
    (made,) = traced.graph.of_kind("opaque")
    assert made.op == "backward"
    assert [ref.node for ref in made.inputs] == ["sum"]
    assert [one.op for one in traced.graph.consumers[Ref(made.name, 0)]] == ["sum"]
    with pytest.raises(ReplayError, match="made by backward"):
        traced.replay(torch.randn(3, 4))


def test_a_gradient_of_a_backward_inside_is_no_constant_when_it_was_clipped() -> None:
    class Clips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.detach().requires_grad_()
            (self.layer(x) ** 2).sum().backward()
            assert x.grad is not None
            x.grad.clamp_(-1, 1)
            return torch.as_tensor(self.layer(x) + x.grad)

    traced = trace(Clips(), torch.randn(3, 4))
    with pytest.raises(ReplayError, match="made by backward"):
        traced.replay(torch.randn(3, 4))


def test_a_gradient_of_an_earlier_step_is_a_constant() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.layer.weight.grad is not None
            return torch.as_tensor(self.layer(x) + self.layer.weight.grad.sum(0))

    model, x = Reads(), torch.randn(3, 4)
    model.layer(x).sum().backward()
    traced = trace(model, x)
    assert torch.equal(traced.replay(2 * x), model(2 * x))
    assert not list(traced.graph.of_kind("opaque"))


def test_a_gradient_at_an_edge_of_the_recorded_graph_is_not_taken_again() -> None:
    class Edge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.detach().requires_grad_()
            edge = torch.autograd.graph.get_gradient_edge(x)
            (slope,) = torch.autograd.grad(self.layer(x).sum(), edge)
            return torch.as_tensor(self.layer(x) + slope)

    traced = trace(Edge(), torch.randn(3, 4))
    with pytest.raises(ReplayError, match="GradientEdge"):
        traced.replay(torch.randn(3, 4))
