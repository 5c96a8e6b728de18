"""Memory that numpy shares with tensors, and writes to where torch sees nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing import pack, to_graph, unpack
from modelviz_callbacks.tracing.capture import shared_memory

_Forward = Callable[[torch.Tensor], torch.Tensor]


class Runs(nn.Module):
    """Runs a function of its input."""

    def __init__(self, function: _Forward) -> None:
        super().__init__()
        self.function = function
        self.table = nn.Buffer(torch.arange(12.0).view(3, 4))
        self.array = numpy.zeros((3, 4), numpy.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def constants(x: torch.Tensor) -> torch.Tensor:
    table = torch.zeros(3, 4)
    table.numpy()[1] = 5.0
    return x + table


def twice(x: torch.Tensor) -> torch.Tensor:
    table = torch.zeros(3, 4)
    array = numpy.asarray(table)
    row = table[1]
    array[1] = 1.0
    y = x + row
    array[1] = 2.0
    table.mul_(3)
    y = y * table
    array[0, 0] = 7
    return y + table


def written_by_torch_meanwhile(x: torch.Tensor) -> torch.Tensor:
    table = torch.ones(3, 4)
    array = table.numpy()
    table.add_(x.detach())
    return table * float(array[0, 0] * 0)


def what_is_returned(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(3, 4)
    array = y.numpy()
    y += 1
    array[2] = 4
    return y


def through_dlpack(x: torch.Tensor) -> torch.Tensor:
    table = torch.zeros(3, 4)
    numpy.from_dlpack(table)[0] = 3.0
    return x + table


def an_array_used_again(x: torch.Tensor) -> torch.Tensor:
    array = numpy.ones((3, 4), numpy.float32)
    y = x + torch.from_numpy(array)
    array[0] = 5
    other = torch.from_numpy(array)
    y = y * other
    array[:] = numpy.nan
    return y


def an_array_kept(x: torch.Tensor) -> torch.Tensor:
    array = numpy.ones((3, 4), numpy.float32)
    tensor = torch.from_numpy(array)
    y = x + tensor
    array[0] = 5
    return y * tensor


def both_ways(x: torch.Tensor) -> torch.Tensor:
    table = torch.zeros(3, 4)
    torch.from_numpy(table[1:].numpy()).add_(1)
    torch.from_dlpack(table.t())[0] += 2
    return x * table


@pytest.mark.parametrize(
    "function",
    [
        constants,
        twice,
        written_by_torch_meanwhile,
        through_dlpack,
        an_array_used_again,
        an_array_kept,
        both_ways,
        what_is_returned,
    ],
)
def test_what_numpy_wrote_whatever_goes_in_is_written_again(function: _Forward) -> None:
    torch.manual_seed(0)
    x, other = torch.randn(3, 4), torch.randn(3, 4)
    model = Runs(function)
    traced = trace(model, x)
    assert torch.equal(traced.outputs, model(x))
    assert torch.equal(traced.replay(x), traced.outputs)
    if function is not written_by_torch_meanwhile:  # which reads what torch wrote
        assert torch.equal(traced.replay(other), model(other))


def into_a_copy(x: torch.Tensor) -> torch.Tensor:
    y = x.detach().clone()
    array = y.numpy()
    array[array < 0] = 0
    return x + y


def into_another_tensor(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(3, 4)
    y.numpy()[:] = numpy.sin(x.detach().numpy())
    return x * y


def into_a_kept_array(x: torch.Tensor) -> torch.Tensor:
    array = numpy.zeros((3, 4), numpy.float32)
    y = torch.from_numpy(array)
    z = y + 1
    array[:] = x.detach().numpy() * 2
    return x * y + z


def through_bits(x: torch.Tensor) -> torch.Tensor:
    y = x.detach() * 1
    bits = torch.from_numpy(y.numpy().view(numpy.int32))
    bits &= 0x7FFFFFFF
    return y + x


def into_the_input(x: torch.Tensor) -> torch.Tensor:
    x.detach().numpy()[0] = 0
    return x * 2


def through_a_view_written_before(x: torch.Tensor) -> torch.Tensor:
    table = torch.zeros(3, 4)
    table[0].copy_(x.detach()[0])
    return x + float(table.numpy().sum())


@pytest.mark.parametrize(
    "function",
    [
        into_a_copy,
        into_another_tensor,
        into_a_kept_array,
        through_bits,
        into_the_input,
        through_a_view_written_before,
        lambda x: torch.from_dlpack(x.detach()) * x,
    ],
)
def test_what_numpy_made_of_the_input_is_not_taken_for_what_it_makes_of_another(
    function: _Forward,
) -> None:
    torch.manual_seed(0)
    x, other = torch.randn(3, 4), torch.randn(3, 4)
    traced = trace(Runs(function), x.clone())
    assert torch.equal(traced.outputs, function(x.clone()))
    assert torch.equal(traced.replay(x.clone()), traced.outputs)
    with pytest.raises(ReplayError, match=r"numpy|dlpack"):
        traced.replay(other)


def test_a_buffer_is_the_one_before_numpy_wrote() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * model.table
        model.table.numpy()[0] += 10
        return y + model.table

    model = Runs(forward)
    x = torch.ones(3, 4)
    first = torch.arange(12.0).view(3, 4)
    traced = trace(model, x)
    assert torch.equal(model.table[0], first[0] + 10)
    wanted = first + torch.cat([first[:1] + 10, first[1:]])
    assert torch.equal(traced.outputs, wanted)
    assert torch.equal(traced.replay(x), wanted)
    assert torch.equal(model.table[0], first[0] + 10)


def test_the_graph_has_the_write_and_what_it_comes_from() -> None:
    graph = trace(Runs(into_another_tensor), torch.ones(3, 4)).graph
    assert [(node.kind, node.op) for node in graph.nodes] == [
        ("input", "input"),
        ("op", "zeros"),
        ("op", "detach"),
        ("op", "numpy"),
        ("op", "numpy"),
        ("op", "data"),
        ("opaque", "python"),
        ("op", "copy_"),
        ("op", "mul"),
        ("output", "output"),
    ]
    assert {ref.node for ref in graph.by_name["mul"].inputs} == {"x", "copy_"}


def test_nothing_is_compared_once_the_array_is_gone_and_nothing_is_held() -> None:
    seen: list[int] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        total = float(x.detach().numpy().sum()) + x.sum().item() * 0 + len(x.tolist()) * 0
        for _ in range(5):
            x = x * total
        return x

    from modelviz_callbacks.tracing.capture import shared_memory

    original = shared_memory._is_equal

    def counted(one: torch.Tensor, other: torch.Tensor) -> bool:
        seen.append(1)
        return original(one, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_memory, "_is_equal", counted)
        trace(Runs(forward), torch.ones(3, 4))
    assert len(seen) == 1


def test_autograd_hears_no_more_of_the_write_than_without_a_recording() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        squared = y * y  # keeps y
        y.detach().numpy()[0] = 1
        return squared + y * 1

    gradients = []
    for run in (lambda x: trace(Runs(forward), x).outputs, forward):
        x = torch.full((3, 4), 3.0, requires_grad=True)
        run(x).sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy])
def test_what_numpy_made_is_joined_to_what_it_read(
    make: Callable[[numpy.ndarray], torch.Tensor],
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        table = torch.ones(3, 4)
        read = numpy.tanh(x.detach().numpy()) * table.numpy()
        return x * make(read)

    traced = trace(Runs(forward), torch.ones(3, 4))
    for graph in (traced.graph, to_graph(unpack(pack(traced._recording)))):
        (product,) = [node for node in graph.ops if node.op == "mul"]
        (made,) = {ref.node for ref in product.inputs} - {"x"}
        assert [ref.node for ref in graph.by_name[made].inputs] == ["detach"]


def test_an_array_that_was_there_before_is_joined_to_nothing() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * torch.as_tensor(numpy.ones(4, numpy.float32))
        return y * float(x.sum())

    graph = trace(Runs(forward), torch.ones(3, 4)).graph
    assert not graph.by_name["as_tensor"].inputs


@pytest.mark.parametrize("limit", ["_MOST_WATCHED_BYTES", "_MOST_COMPARED_BYTES"])
def test_memory_that_is_watched_no_longer_is_said(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> list[str]:
        graph = trace(Runs(twice), torch.ones(3, 4)).graph
        return [note.message for note in graph.notes if "shown to numpy" in note.message]

    assert not said()
    monkeypatch.setattr(shared_memory, limit, 40)
    assert len(said()) == 1
