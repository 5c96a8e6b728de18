"""torch's higher-order ops, which it compiles where nobody sees: one box with all that goes in."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from modelviz_callbacks import trace
from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.hidden_calls import tensors_behind


class Attention(nn.Module):
    """Attention whose scores a learned buffer changes."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.slope = nn.Buffer(torch.tensor([0.5, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).view(1, 4, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s * self.slope[h]) * 2


class Branches(nn.Module):
    """One of two branches, which close over modules, a parameter and a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        made = torch.cond(
            x.sum() > 0,
            lambda t: self.fc(t).sin() + y,
            lambda t: self.fc(t).cos() + self.shift,
            (x,),
        )
        return made + self.other(x)


@pytest.mark.filterwarnings("ignore")
def test_without_gradients_attention_has_its_edges_and_no_note_says_it_has_no_effect() -> None:
    model, x = Attention().eval(), torch.randn(1, 4, 8)
    with torch.no_grad():
        traced = trace(model, x)
        assert torch.equal(traced.outputs, model(x))
    graph = traced.graph
    (box,) = graph.of_kind("opaque")
    assert box.op == "flex_attention"
    sources = [ref.node for ref in box.inputs]
    assert sources[:4] == ["transpose", "transpose_1", "transpose_2", "slope"]
    assert not graph.of_kind("constant")
    assert [ref.node for ref in graph.by_name["mul"].inputs] == [box.name]
    said = " ".join(note.message for note in graph.notes)
    assert "flex_attention" in said
    assert "no effect" not in said
    assert "uses the result" not in said
    with pytest.raises(ReplayError, match="flex_attention"):
        traced.replay(x)


@pytest.mark.parametrize("grad", [True, False])
def test_a_branch_comes_from_what_it_closes_over_with_and_without_gradients(grad: bool) -> None:
    model, x = Branches(), torch.randn(3, 4)
    with torch.set_grad_enabled(grad):
        traced = trace(model, x)
        assert torch.equal(traced.outputs, model(x))
    (box,) = traced.graph.of_kind("opaque")
    assert box.op == "cond"
    found = {ref.node for ref in box.inputs}
    assert found == {"fc.weight", "fc.bias", "shift", "gt", "mul", "x"}
    assert {node.op for node in traced.graph.ops} == {"mul", "sum", "gt", "linear", "cond", "add"}
    with pytest.raises(ReplayError, match="cond"):
        traced.replay(x)


def test_of_a_module_that_a_function_closes_over_only_the_parts_that_it_names_are_behind_it() -> (
    None
):
    model, x, y = Branches(), torch.ones(1), torch.ones(2)

    def inner(t: torch.Tensor, extra: torch.Tensor = y) -> torch.Tensor:
        return inner(t) if t.sum() < 0 else model.fc(t) + x + extra

    found = tensors_behind([functools.partial(inner, extra=y), {"again": [inner, y]}])
    wanted = [model.fc.weight, model.fc.bias, x, y]
    assert sorted(map(id, found)) == sorted(map(id, wanted))
    everything = [*model.parameters()]
    assert list(map(id, tensors_behind([model]))) == list(map(id, everything))
