"""Writes that torch tells no function mode of: ``.imag =``, ``set_`` and those to storages."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from modelviz_callbacks import trace

_Forward = Callable[[torch.Tensor], torch.Tensor]


class Writes(nn.Module):
    """Runs a function that writes."""

    def __init__(self, forward: _Forward) -> None:
        super().__init__()
        self.write = forward
        self.weight = nn.Parameter(torch.full((3, 4), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.write(x * self.weight)


def imaginary(x: torch.Tensor) -> torch.Tensor:
    z = torch.fft.fft(x)
    z.imag = x * 2
    return z.abs()


def real_part_of_a_view(x: torch.Tensor) -> torch.Tensor:
    z = torch.complex(x, x)
    z[1:].real = 3.0
    z.real[0] = 1
    z.imag = 2
    return torch.view_as_real(z) * 1


def real_of_a_real_one(x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    y.real = x * 2
    return y + 1


def another_one(x: torch.Tensor) -> torch.Tensor:
    y, w = (x * 1).detach(), (x * 3).detach()
    y.set_(w)
    y.add_(1)
    return w * 2


def storage(x: torch.Tensor) -> torch.Tensor:
    y, w = (x * 1).detach(), (x * 3).detach()
    y.set_(w.untyped_storage(), 4, (4, 2), (2, 1))
    w.add_(1)
    return y + 1


def data(x: torch.Tensor) -> torch.Tensor:
    y, w = x * 1, x * 3
    y.data = w
    y.detach().add_(1)
    return w * 2


def zeros(x: torch.Tensor) -> torch.Tensor:
    y = x * 1
    y.untyped_storage().fill_(0)
    return y + x


def bytes_of_a_slice(x: torch.Tensor) -> torch.Tensor:
    y = (x * 1)[:, 1:]
    y[0].sum()  # which nobody holds: it is no tensor to write through
    y.untyped_storage()[3:17].fill_(65)
    y.untyped_storage()[40] = 3
    return y + 1


def copied(x: torch.Tensor) -> torch.Tensor:
    y, w = x * 1, (x * 3).double()
    w.untyped_storage()[:48].copy_(y.untyped_storage())
    return w + 1


def copied_as_a_whole(x: torch.Tensor) -> torch.Tensor:
    y, w = x * 1, x * 3
    y.t()[1].add_(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once a process that it is old
        y.storage().copy_(w.storage())
    return y.t() + 1


def clone(x: torch.Tensor) -> torch.Tensor:
    apart = (x * 1).untyped_storage().clone()
    y = torch.empty(0).set_(apart, 4, (2, 3))
    return y + 1


def larger(x: torch.Tensor) -> torch.Tensor:
    y = (x * 1).detach()
    memory = y.untyped_storage()
    memory.resize_(0)
    memory.resize_(4 * 24)
    memory.fill_(0)
    y[0] = x[0]
    return torch.empty(0).set_(memory, 0, (24,)) + 1


STORAGES = [zeros, bytes_of_a_slice, copied, copied_as_a_whole, clone, larger]
FORWARDS = [imaginary, real_part_of_a_view, real_of_a_real_one, another_one, storage, data]
FORWARDS += STORAGES


@pytest.mark.parametrize("forward", FORWARDS)
def test_replay_on_other_inputs_is_exact_and_nothing_is_left_behind(forward: _Forward) -> None:
    model = Writes(forward)
    traced = trace(model, torch.randn(3, 4))
    assert not {"imag", "real", "set_"} & vars(torch.Tensor).keys()
    assert not {"fill_", "copy_", "resize_", "__setitem__"} & vars(torch.UntypedStorage).keys()
    other = torch.randn(3, 4)
    assert torch.equal(traced.replay(other), model(other))


@pytest.mark.parametrize("forward", [real_of_a_real_one, another_one, storage, data, zeros])
def test_onnxruntime_gives_what_a_forward_with_such_a_write_gives(
    forward: _Forward, tmp_path: Path
) -> None:
    x = torch.randn(3, 4)
    traced = trace(Writes(forward), x)
    path = traced.save_onnx(tmp_path / "graph.onnx", weights=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.as_tensor(found), traced.outputs.detach())


@pytest.mark.parametrize(
    ("forward", "wanted"),
    [
        (imaginary, {"abs": ["set_imag"]}),
        (another_one, {"add_": ["set_", "detach_1"], "mul_3": ["add_"]}),
        (data, {"mul_3": ["add_"]}),
        (zeros, {"add": ["fill_", "mul"]}),
        (copied_as_a_whole, {"copy_": ["view_1", "view", "add_"], "t_1": ["copy_"]}),
    ],
)
def test_who_reads_after_the_write_reads_what_it_wrote(
    forward: _Forward, wanted: dict[str, list[str]]
) -> None:
    graph = trace(Writes(forward), torch.randn(3, 4)).graph
    for name, sources in wanted.items():
        assert [ref.node for ref in graph.by_name[name].inputs] == sources


def test_a_write_to_the_storage_of_a_buffer_is_done_again_from_what_it_was() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = nn.Buffer(torch.tensor([1.0, 2.0, 3.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            before = self.seen * 1
            self.seen.untyped_storage().copy_((x + self.seen).untyped_storage())
            return before + self.seen

    model, x, other = Counts(), torch.randn(3), torch.randn(3)
    fresh = copy.deepcopy(model)
    traced = trace(model, x)
    assert torch.equal(model.seen, x + fresh.seen)
    assert torch.equal(traced.replay(other), fresh(other))


def test_autograd_hears_of_a_write_to_a_storage_as_little_as_without_us() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        z = y * y  # keeps `y`
        y.untyped_storage().fill_(0)
        return z + y

    gradients = []
    for run in (lambda m, x: trace(m, x).outputs, lambda m, x: m(x)):
        model = Writes(forward)
        run(model, torch.ones(3, 4)).sum().backward()
        assert model.weight.grad is not None
        gradients.append(model.weight.grad)
    assert torch.equal(*gradients)


def test_a_storage_that_refuses_says_so_as_without_us() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        with pytest.raises(RuntimeError, match="size does not match"):
            y.untyped_storage().copy_(torch.ones(1).untyped_storage())
        with pytest.raises(RuntimeError, match="expects int"):
            y.untyped_storage().fill_("no")  # type: ignore[arg-type]
        return y

    x = torch.randn(3, 4)
    traced = trace(Writes(forward), x)
    assert torch.equal(traced.replay(x), x * 2)


def test_gradients_through_such_a_write_are_the_same_to_the_bit() -> None:
    gradients = []
    for run in (lambda m, x: trace(m, x).outputs, lambda m, x: m(x)):
        model = Writes(imaginary)
        torch.manual_seed(0)
        run(model, torch.randn(3, 4)).sum().backward()
        assert model.weight.grad is not None
        gradients.append(model.weight.grad)
    assert torch.equal(*gradients)


def test_modes_of_the_users_and_other_threads_see_nothing_more() -> None:
    seen: list[str] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    def forward(x: torch.Tensor) -> torch.Tensor:
        def aside() -> None:
            torch.complex(x, x).imag = x

        thread = threading.Thread(target=aside)
        thread.start()
        thread.join()
        z = torch.complex(x, x)
        with Mode():
            z.imag = x
        return z.abs()

    graph = trace(Writes(forward), torch.randn(3, 4)).graph
    assert not seen
    assert [node.op for node in graph.ops] == ["mul", "complex", "set_imag", "abs"]


def test_an_error_is_the_users_own_and_a_copy_is_one_op() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        with pytest.raises(TypeError, match="can't assign a str"):
            x.real = "one"  # type: ignore[assignment]
        with pytest.raises(TypeError, match="set_"):
            x.set_("one")  # type: ignore[call-overload]
        return copy.deepcopy(x.detach()) + 1

    traced = trace(Writes(forward), torch.randn(3, 4))
    assert [node.op for node in traced.graph.ops] == ["mul", "detach", "deepcopy", "add"]
