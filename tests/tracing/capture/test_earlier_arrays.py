"""Arrays that were there before the forward are constants, whatever is read in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import pack, to_graph, unpack
from modelviz_callbacks.tracing.capture import earlier_arrays

MEAN = numpy.arange(4, dtype=numpy.float32)
KERNEL = torch.from_numpy(numpy.full(4, 2.0, numpy.float32))
SHOWN = torch.full((4,), 3.0)
SHOWN.numpy()

_Taken = Callable[["Keeps"], torch.Tensor]


class Keeps(nn.Module):
    """Keeps arrays, reads a value, and then uses one of them."""

    def __init__(self, taken: _Taken) -> None:
        super().__init__()
        self.taken = taken
        self.array = numpy.linspace(0, 1, 4, dtype=numpy.float32)
        self.tensor = torch.from_numpy(numpy.linspace(1, 2, 4, dtype=numpy.float32))
        self.scales = {"a": [1.0], "b": numpy.ones(4, numpy.float32)}
        self.levels = [torch.from_numpy(numpy.ones((2, 4), numpy.float32))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.isnan(x).any():
            raise ValueError("not a number")
        return x * self.taken(self)


def graphs(model: nn.Module) -> list[ModelGraph]:
    """Of a recording, as lowered here and as lowered by another process."""
    traced = trace(model, torch.ones(3, 4))
    return [traced.graph, to_graph(unpack(pack(traced._recording)))]


def behind_factor(graph: ModelGraph) -> list[str]:
    """What the second operand of the product comes from, as far as it is read here."""
    (product,) = [node for node in graph.ops if node.op == "mul"]
    (made,) = {ref.node for ref in product.inputs} - {"x"}
    assert graph.by_name[made].op != "python"
    return [ref.node for ref in graph.by_name[made].inputs]


@pytest.mark.parametrize(
    "taken",
    [
        lambda _: torch.tensor(MEAN),
        lambda _: torch.from_numpy(MEAN),
        lambda _: torch.as_tensor(MEAN[1:2]),
        lambda _: KERNEL,
        lambda _: SHOWN,
        lambda net: net.tensor,
        lambda net: torch.from_numpy(net.array),
        lambda net: torch.asarray(net.array),
        lambda net: torch.tensor(net.scales["b"]),
    ],
)
def test_what_was_there_is_joined_to_nothing(taken: _Taken) -> None:
    for graph in graphs(Keeps(taken)):
        assert behind_factor(graph) == []


def test_a_view_of_what_was_there_is_the_view_of_a_constant() -> None:
    for graph in graphs(Keeps(lambda net: net.levels[0][1])):
        assert not [node for node in graph.nodes if node.op == "python"]


def _filled(net: Keeps) -> torch.Tensor:
    net.array[:] = net.array + 1
    return torch.from_numpy(net.array)


def _filled_behind_a_tensor(net: Keeps) -> torch.Tensor:
    net.tensor.numpy()[:] += 1
    return torch.tensor(net.tensor.numpy().copy())


@pytest.mark.parametrize(
    "taken",
    [
        _filled,
        _filled_behind_a_tensor,
        lambda _: torch.from_numpy(numpy.ones(4, numpy.float32)),
        lambda _: torch.tensor(MEAN + 1),
    ],
)
def test_what_was_made_or_changed_meanwhile_may_hold_what_was_read(taken: _Taken) -> None:
    traced = trace(Keeps(taken), torch.ones(3, 4))
    (product,) = [node for node in traced.graph.ops if node.op == "mul"]
    (made,) = {ref.node for ref in product.inputs} - {"x"}
    assert traced.graph.by_name[made].inputs


def test_a_replay_on_values_that_lead_elsewhere_is_refused() -> None:
    def taken(net: Keeps) -> torch.Tensor:
        return torch.from_numpy(net.array)

    traced = trace(Keeps(taken), torch.ones(3, 4))
    assert torch.equal(
        traced.replay(torch.full((3, 4), 2.0)), Keeps(taken)(torch.full((3, 4), 2.0))
    )
    with pytest.raises(ReplayError, match="reads at bool was False and is True now"):
        traced.replay(torch.full((3, 4), torch.nan))


@pytest.mark.parametrize("limit", ["_MOST_BYTES", "_MOST_BYTES_OF_ALL", "_MOST_COMPARED_BYTES"])
def test_what_is_too_large_to_be_compared_may_hold_what_was_read(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier_arrays, limit, 8)
    for graph in graphs(Keeps(lambda net: torch.tensor(net.array))):
        assert behind_factor(graph) == ["any"]


def test_an_array_can_be_resized_in_the_forward_as_without_a_recording() -> None:
    def taken(net: Keeps) -> torch.Tensor:
        net.array.resize(8)  # numpy refuses it where anybody else refers to the array
        return torch.tensor(net.array[:4].copy())

    trace(Keeps(taken), torch.ones(3, 4))
