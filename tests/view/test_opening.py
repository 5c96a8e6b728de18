"""What pictures open at first, and what they call a loop."""

from __future__ import annotations

import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.view.overview import overview


class Act(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh()


def gated(x: torch.Tensor, act: nn.Module) -> torch.Tensor:
    """A function that calls a module without parameters."""
    return (x * 2).exp() + act(x) - x.sin()


def integrate(x: torch.Tensor, field: nn.Module) -> torch.Tensor:
    """A function that runs a module that is trained."""
    for _ in range(3):
        x = x + 0.1 * field(x)
    return x.relu()


class UsesFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.field, self.head = Act(), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(integrate(gated(x, self.act), self.field))
        return made


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, found = x.mean(1), []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            found.append(self.out(state))
        return torch.stack(found, 1)


def test_a_function_is_open_only_if_something_that_is_trained_runs_in_it() -> None:
    seen = overview(trace(UsesFunctions(), torch.ones(3, 4)).graph)
    assert [group.title for group in seen.groups if group.title in ("gated", "integrate")] == [
        "integrate"
    ]
    assert "gated" in [box.title for box in seen.boxes]


def test_a_body_that_runs_again_and_again_is_a_loop_that_says_what_varies() -> None:
    seen = overview(trace(Loop(), torch.ones(3, 6, 4)).graph)
    (loop,) = [group for group in seen.groups if group.title == "loop"]
    assert loop.times == 6
    assert loop.label == ""
    assert "[:, t], t = 0..5" in loop.details
