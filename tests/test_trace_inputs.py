"""The names of inputs, and what a replay says where Python stood between input and output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
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
