"""The names of inputs, and what a replay says where Python stood between input and output."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.errors import ReplayError


class Through(nn.Module):
    """A layer behind a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(3, 3), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.layer(x) + self.function(x))


def _numpy(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(numpy.tanh(x.detach().numpy() * 2))


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (_numpy, "numpy"),
        (lambda x: x.sum().item(), "item"),
        (lambda x: torch.tensor(x.tolist()), "tolist"),
    ],
)
def test_replay_on_other_inputs_refuses_what_python_made_of_the_recorded_ones(
    function: Any, op: str
) -> None:
    x = torch.randn(2, 3)
    t = trace(Through(function), x)
    assert torch.equal(t.replay(x.clone()), t.outputs)
    with pytest.raises(ReplayError, match=op):
        t.replay(x + 1)


def test_replay_on_other_inputs_runs_where_python_only_read_one_that_stayed() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
            return x[: int(length.item())] * 2

    x, length = torch.randn(4, 3), torch.tensor(2)
    t = trace(Two(), x, length)
    assert torch.equal(t.replay(x + 1, length), (x[:2] + 1) * 2)
    with pytest.raises(ReplayError, match="item"):
        t.replay(x, torch.tensor(3))


def _branch(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.sum() > 0 else x * 3


def _guard(x: torch.Tensor) -> torch.Tensor:
    if torch.equal(x, -x.abs()):
        return x
    return x + float(x.max()) if x.any().item() else x - 1


def _steps(x: torch.Tensor) -> torch.Tensor:
    is_done = torch.zeros((), dtype=torch.bool)
    total = x.detach().abs().max()
    while not is_done:
        x, total = x / 2, total / 2
        is_done.logical_or_(total < 1)
    return x


def _below_a_transform(x: torch.Tensor) -> torch.Tensor:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return (x * x).sum() if x.sum() > 0 else x.sum()

    return x * torch.func.grad(inner)(x)


def _longest(x: torch.Tensor) -> torch.Tensor:
    return x[:, : int(x.detach().abs().max())]


@pytest.mark.parametrize(
    ("function", "same", "other"),
    [
        (_branch, 2.0, -1.0),
        (_guard, 1.0, 2.0),
        (_guard, 1.0, -1.0),
        (_steps, 1.5, 4.5),
        (_longest, 1.9, 2.1),
        (_below_a_transform, 2.0, -1.0),
    ],
)
@pytest.mark.parametrize("with_gradients", [True, False])
def test_replay_runs_as_long_as_python_reads_what_it_read(
    function: Any, same: float, other: float, with_gradients: bool
) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x * 1.0)  # type: ignore[no-any-return]

    net, ones = Net(), torch.ones(2, 3)
    with torch.set_grad_enabled(with_gradients):
        t = trace(net, ones)
        assert torch.equal(t.replay(ones * same), net(ones * same))
        with pytest.raises(ReplayError, match=r"what Python reads at \w+ was .* and is .* now"):
            t.replay(ones * other)
        assert torch.equal(t.replay(ones * same), net(ones * same))


def _rows(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([row * 2 for row in x[x[:, 0] > 0]]).sum()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum() / (x > 0).nonzero().shape[0],
        lambda x: x.sum() / (x[x > 0] * 2).numel(),
        lambda x: x.sum() / len(torch.masked_select(x, x > 0)),
        lambda x: x[x > 0].view(-1, x[x > 0].size(0)).sum(1),
        lambda x: torch.unique(x > 0) + x.new_zeros(torch.unique(x > 0).size()),
        lambda x: x.sum() / torch.where(x > 0)[0].size(-1),
        _rows,
        lambda x: torch.stack([part.sum() for part in x[x[:, 0] > 0].split(1)]).sum(),
    ],
)
def test_replay_refuses_where_a_size_or_number_that_python_reads_hangs_on_values(
    function: Any,
) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x * 1.0)  # type: ignore[no-any-return]

    x = torch.ones(4, 3)
    y = x.clone()
    y[1] = -1
    t = trace(Net(), x)
    assert torch.equal(t.replay(x * 2), Net()(x * 2))
    with pytest.raises(ReplayError, match=r"(read|results|index).* (was|were|out of) .*Call trace"):
        t.replay(y)


@torch.library.custom_op("trace_inputs::longest", mutates_args=())
def longest(x: torch.Tensor) -> int:
    return int(x.max())


@longest.register_fake
def _(x: torch.Tensor) -> int:
    raise NotImplementedError


def test_a_number_that_an_op_of_the_users_own_gives_is_read_again(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 * longest(x * 1.0)

    t = trace(Net(), torch.ones(2, 3))
    (read,) = [node for node in t.graph.ops if node.reads_value]
    assert read.op == "longest"
    assert torch.equal(t.replay(torch.full((2, 3), 1.5)), torch.full((2, 3), 3.0))
    with pytest.raises(ReplayError, match="what Python reads at longest was 1 and is 4 now"):
        t.replay(torch.full((2, 3), 4.0))
    nodes = onnx.load(t.save_onnx(tmp_path / "graph.onnx")).graph.node
    assert {node.op_type for node in nodes} == {"Constant", "Mul"}


def test_where_nobody_reads_them_sizes_may_be_others() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            chosen = x[x > 0]
            return torch.as_tensor(chosen.view(-1, x.size(1)).mean(0) + chosen.dim())

    t = trace(Net(), torch.ones(4, 3))
    y = torch.ones(6, 3)
    y[1] = -1
    assert torch.equal(t.replay(y), Net()(y))


def test_an_error_of_an_op_is_one_of_the_replay_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    t = trace(nn.Linear(4, 2), torch.ones(3, 4))
    with pytest.raises(ReplayError, match=r"^The recording cannot be run on these inputs: mat1"):
        t.replay(torch.ones(3, 5))
    assert capfd.readouterr() == ("", "")


def test_what_python_reads_may_be_no_number_both_times() -> None:
    t = trace(Through(lambda x: 0 * float(x.sum() * torch.nan)), torch.ones(2, 3))
    assert t.replay(torch.zeros(2, 3)).isnan().all()


def test_a_search_for_what_is_not_finite_follows_the_recorded_path() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.log() if x.isfinite().all() else x.nan_to_num()

    found = trace(Net(), torch.ones(2, 3)).find_nonfinite(torch.full((2, 3), torch.nan))
    assert found is not None
    assert found.kind == "data"


class Batch:
    def __init__(self, one: torch.Tensor, two: torch.Tensor) -> None:
        self._one, self._two = one, two


def test_the_parts_of_an_object_have_names_of_their_own_in_graph_and_program(
    tmp_path: Path,
) -> None:
    class Net(nn.Module):
        def forward(self, batch: Batch, batch__one: torch.Tensor) -> torch.Tensor:
            return batch._one + batch._two + batch__one

    given = Batch(torch.randn(2), torch.randn(2)), torch.randn(2)
    t = trace(Net(), *given)
    paths = [node.path for node in t.graph.of_kind("input")]
    assert paths == ["batch._one", "batch._two", "batch__one"]
    assert torch.equal(t.replay(*given), t.outputs)


def test_a_tensor_handed_in_twice_has_its_first_name_everywhere() -> None:
    class Net(nn.Module):
        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return input_ids * labels

    x = torch.randn(3)
    t = trace(Net(), input_ids=x, labels=x)
    assert [node.path for node in t.graph.of_kind("input")] == ["input_ids"]
    assert t._program.inputs == ["input_ids"]


@pytest.mark.slow
def test_a_compiled_part_that_ran_is_not_called_one_that_was_never_called() -> None:
    model = nn.Sequential()
    model.a = torch.compile(nn.Linear(3, 3), backend="eager")  # type: ignore[assignment]
    notes = [note.message for note in trace(model, torch.randn(2, 3)).graph.notes]
    assert not [message for message in notes if "never called" in message]


def test_a_scripted_part_is_not_said_to_be_missing_in_a_replay() -> None:
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU())))
    x = torch.randn(2, 3)
    t = trace(model, x)
    (opaque,) = [note.message for note in t.graph.notes if note.kind == "opaque"]
    assert "replay" not in opaque
    assert torch.equal(t.replay(x), t.outputs)


class Takes(nn.Module):
    """Makes something of whatever kind of argument there is."""

    def forward(self, x: torch.Tensor, given: Any = None, *more: Any, by: Any = 1.0) -> Any:
        if isinstance(given, dict):
            x, given = x + given["x"], given.get("scale")
        if isinstance(given, numpy.ndarray):
            x = x * torch.from_numpy(given)
        elif isinstance(given, (int, float)):
            x = x * given
        elif isinstance(given, list):
            x = x * sum(given)
        elif given == "relu":
            x = x.relu()
        return x * by + sum(more)


ROW = numpy.arange(4, dtype=numpy.float32)
ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "a number": ((2.0,), {}, "given is 2.0 and was None"),
    "a number by name": ((), {"by": 2.0}, "by is 2.0 and was 1.0"),
    "one of several": ((None, 3), {}, r"more\[0\] is 3 and was not there"),
    "a flag": ((True,), {}, "given is True and was None"),
    "a text": (("relu",), {}, "given is 'relu' and was None"),
    "an array": ((ROW,), {}, r"given is an array of \(4,\) and was None"),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_replay_with_another_plain_argument_names_it_and_what_it_was(kind: str) -> None:
    args, kwargs, told = ARGUMENTS[kind]
    x = torch.randn(3, 4)
    with pytest.raises(ReplayError, match=told):
        trace(Takes(), x).replay(x, *args, **kwargs)
    recorded = trace(Takes(), x, *args, **kwargs)
    assert torch.equal(recorded.replay(x + 1, *args, **kwargs), Takes()(x + 1, *args, **kwargs))
    with pytest.raises(ReplayError, match="the recording"):
        recorded.replay(x)


def test_numbers_inside_of_structures_are_compared_and_names_of_files_are_not() -> None:
    x = torch.randn(3, 4)
    recorded = trace(Takes(), x, {"x": x + 1, "scale": 2.0, "file": "one.jpg", "nan": math.nan})
    same = {"file": "two.jpg", "nan": math.nan, "scale": 2.0, "x": x}
    assert torch.equal(recorded.replay(x, same), Takes()(x, same))
    with pytest.raises(ReplayError, match=r"given\['scale'\] is 3.0 and was 2.0"):
        recorded.replay(x, same | {"scale": 3.0})
    recorded = trace(Takes(), x, [1, 2])
    with pytest.raises(ReplayError, match=r"given\[1\] is 3 and was 2"):
        recorded.replay(x, [1, 3])


def test_an_argument_that_is_what_it_would_be_by_default_is_no_other_one() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(trace(Takes(), x).replay(x, None, by=1), x)
    assert torch.equal(trace(Takes(), x, by=1.0).replay(x), x)


def test_the_items_of_a_dictionary_may_come_in_another_order() -> None:
    class Differs(nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["a"] - batch["b"]

    a, b = torch.randn(3), torch.randn(3)
    recorded = trace(Differs(), {"a": a, "b": b})
    assert torch.equal(recorded.replay({"b": b + 2, "a": a}), a - (b + 2))


def test_a_tensor_that_was_handed_in_twice_must_be_one_again() -> None:
    class Pairs(nn.Module):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return x - labels * 2

    x, y = torch.randn(3), torch.randn(3)
    recorded = trace(Pairs(), x, labels=x)
    assert torch.equal(recorded.replay(y, labels=y), y - y * 2)
    assert torch.equal(recorded.replay(y, labels=y.clone()), y - y * 2)
    with pytest.raises(ReplayError, match="labels is another tensor than x"):
        recorded.replay(x, labels=y)


def test_sizes_that_python_read_below_a_transform_are_looked_at_where_they_are_there() -> None:
    class Jacobian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.func.jacrev(lambda row: self.layer(row).tanh())(x)

    model = Jacobian()
    other = torch.randn(4)
    assert torch.equal(trace(model, torch.randn(4)).replay(other), model(other))
