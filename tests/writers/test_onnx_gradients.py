"""Gradients that a forward takes of its own values, in standard ops."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return -slope


class Slopes(nn.Module):
    """The gradient of an energy, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def energy(self, place: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(place)
        return found.sum()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(place), place, create_graph=True)
        return slope * 2


class OfASecondOrder(Slopes):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(self.energy(place), place, create_graph=True)
        weights = torch.ones_like(first)
        (second,) = torch.autograd.grad(first, [place], grad_outputs=weights, create_graph=True)
        return second


class OfAChain(Slopes):
    """By a tensor and by what is made of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = x.detach().requires_grad_()
        half = place.sin()
        energy = self.energy(half)
        of_place, of_half = torch.autograd.grad(energy, (place, half), create_graph=True)
        return of_place + of_half


class WithAGradientOfItsOwn(Slopes):
    def energy(self, place: torch.Tensor) -> torch.Tensor:
        return super().energy(Reversal.apply(place))  # type: ignore[no-untyped-call]


class WithADrawInBetween(Slopes):
    def energy(self, place: torch.Tensor) -> torch.Tensor:
        return super().energy(place + torch.rand_like(place))


class WithAWriteInBetween(Slopes):
    def energy(self, place: torch.Tensor) -> torch.Tensor:
        scale = torch.ones(3)
        energy = super().energy(place + scale)
        scale.mul_(2)
        return energy + scale.sum()


@pytest.mark.parametrize("kind", [Slopes, OfASecondOrder, OfAChain])
def test_a_gradient_taken_in_the_forward_is_computed_by_standard_ops(
    kind: type[Slopes], tmp_path: Any
) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(2, 3)
    path = tmp_path / "graph.onnx"
    trace(model, x).save_onnx(path, weights=True)
    assert {node.domain for node in _nodes(path)} <= {"", *_modules(path)}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.as_tensor(found), model(x).detach())


@pytest.mark.parametrize("kind", [WithAGradientOfItsOwn, WithADrawInBetween, WithAWriteInBetween])
def test_a_gradient_stays_torchs_where_making_the_calls_again_could_give_another(
    kind: type[Slopes], tmp_path: Any
) -> None:
    path = tmp_path / "graph.onnx"
    trace(kind(), torch.randn(2, 3)).save_onnx(path)
    assert [node.op_type for node in _nodes(path) if node.domain == "pytorch"] == ["grad"]


def _nodes(path: Any) -> list[onnx.NodeProto]:
    proto = onnx.load(path)
    return [node for body in (proto.graph, *proto.functions) for node in body.node]


def _modules(path: Any) -> set[str]:
    return {function.domain for function in onnx.load(path).functions}
