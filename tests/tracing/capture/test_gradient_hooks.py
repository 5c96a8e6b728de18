"""Hooks that change a gradient which the forward takes itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.errors import ReplayError
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
