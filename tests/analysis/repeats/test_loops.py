"""Loops over the same weights are one body, whatever grows from one step to the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.view.formatting import variation_text
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.view.simplified import simplified
from modelviz_callbacks.writers import mermaid, svg, text

STEPS = 6


class Decoder(nn.Module):
    """Attention over a memory, with a state that begins as zeros; outputs are stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(16, 8)
        self.query = nn.Linear(8, 8)
        self.out = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        state = None
        context = torch.zeros(len(x), 8)
        made = []
        for t in range(STEPS):
            hidden, _cell = state = self.cell(torch.cat([x[:, t], context], -1), state)
            weights = torch.softmax(memory @ self.query(hidden).unsqueeze(-1), 1)
            context = (weights * memory).sum(1)
            made.append(self.out(torch.cat([hidden, context], -1)))
        return torch.stack(made, 1)


class Cached(nn.Module):
    """Keys and values grow by concatenation, from empty ones on."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = values = torch.zeros(len(x), 0, 8)
        made = []
        for t in range(STEPS):
            now = x[:, t : t + 1]
            keys = torch.cat([keys, self.key(now)], 1)
            values = torch.cat([values, self.value(now)], 1)
            made.append(torch.softmax(now @ keys.transpose(1, 2), -1) @ values)
        return torch.cat(made, 1)


class AllStates(nn.Module):
    """Each step attends to a list of the states of all steps so far."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(len(x), 8)
        states = []
        for t in range(STEPS):
            state = self.cell(x[:, t], state)
            states.append(state)
            seen = torch.stack(states, 1)
            state = torch.tanh((torch.softmax(seen.sum(-1), 1)[..., None] * seen).sum(1))
        return state


def _graph(model: nn.Module, *inputs: torch.Tensor) -> ModelGraph:
    torch.manual_seed(0)
    return trace(model, *inputs).graph


def _decoder() -> ModelGraph:
    return _graph(Decoder(), torch.randn(2, STEPS, 8), torch.randn(2, 3, 8))


@pytest.mark.parametrize(
    ("model", "more", "varies"),
    [
        (Decoder(), (torch.randn(2, 3, 8),), "[:, t], t = 0..5"),
        (Cached(), (), "[:, t:t+1], t = 0..5; sizes change"),
        (AllStates(), (), "[:, t], t = 0..5; sizes change"),
    ],
    ids=["zero state", "growing cache", "all states"],
)
def test_all_steps_of_a_loop_are_one_body(
    model: nn.Module, more: tuple[torch.Tensor, ...], varies: str
) -> None:
    graph = _graph(model, torch.randn(2, STEPS, 8), *more)
    (fold,) = simplified(Analysis(graph)).folds()
    assert (fold.times, fold.shared) == (STEPS, True)
    assert fold.variation is not None
    assert variation_text(fold.variation) == varies


def test_steps_on_weights_of_their_own_are_no_loop() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys = nn.ModuleList(nn.Linear(8, 8) for _ in range(STEPS))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            cache = x
            for key in self.keys:
                cache = torch.cat([cache, key(x)], 1)
                x = x + cache.mean(1, keepdim=True)
            return x

    graph = _graph(Own(), torch.randn(2, 3, 8))
    assert not any(fold.shared for fold in simplified(Analysis(graph)).folds())


def test_a_loop_whose_middle_step_is_read_elsewhere_does_not_hide_it() -> None:
    class Peeked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            cache = x
            for t in range(STEPS):
                x = torch.tanh(self.layer(x))
                cache = torch.cat([cache, x], 1)
                if t == 3:
                    middle = x
            return cache.mean(1) + middle.mean(1)

    graph = _graph(Peeked(), torch.randn(2, 3, 8))
    hidden = {name for f in Analysis(graph).folds() for copy in f.copies[1:-1] for name in copy}
    read = {ref.node for node in graph.ops if node.op == "mean" for ref in node.inputs}
    assert not read & hidden


def test_what_a_step_hands_to_the_next_is_an_edge_back() -> None:
    graph = _decoder()
    view = overview(graph)
    titles = {box.name: box.title for box in view.boxes}
    back = {(titles[edge.source], titles[edge.target]) for edge in view.carried}
    assert back == {("LSTMCell", "LSTMCell"), ("sum", "cat")}
    analysis = Analysis(graph)
    drawn = svg.render(analysis).decode()
    assert drawn.count('class="line carried"') == 2
    assert "to the next step" in drawn
    assert mermaid.render(analysis).decode().count("-. next step .->") == 2
    assert "the next step reads" in text.render(analysis).decode()


def test_what_a_solver_calls_is_seen_in_its_box_and_its_weights_count_once() -> None:
    class Wrapper(nn.Module):
        """Not a part of the model: made in each call of a library's function."""

        def __init__(self, field: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.field = [field]

        def forward(self, state: torch.Tensor) -> torch.Tensor:
            return self.field[0](state)

    def solve(field: Callable[[torch.Tensor], torch.Tensor], state: torch.Tensor) -> torch.Tensor:
        right = Wrapper(field)
        for _ in range(STEPS):
            half = state + 0.05 * right(state)
            state = state + 0.1 * right(half)
        return state

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return solve(self.field, x)

    view = overview(_graph(Flow(), torch.randn(2, 8)))
    loops = {group.title: group for group in view.groups if group.times == STEPS}
    assert [group.weights.count for group in loops.values()] == [72]
    assert "Linear" in {box.title for box in view.boxes}
    assert view.carried


def test_a_graph_without_loops_has_no_edge_back() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)))
    assert overview(_graph(layers, torch.randn(2, 8))).carried == ()


def test_a_trace_takes_the_same_display_options_as_a_hook(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dim_head = 4
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu()

    traced = trace(nn.Sequential(Heads(), nn.Linear(8, 8)), torch.randn(2, 8))
    facts = {"dim_head": "head width {}"}
    for path in (
        traced.save_svg(tmp_path / "a.svg", label_facts=facts),
        traced.save_text(tmp_path / "a.txt", label_facts=facts),
        traced.save_mermaid(tmp_path / "a.mmd", label_facts=facts),
    ):
        assert "head width 4" in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("indices", "told"),
    [
        (range(STEPS - 1, -1, -1), "[:, t], t = 5..0"),
        (range(0, STEPS, 2), "[:, t], t = 0, 2..4"),
        (range(2, STEPS), "[:, t], t = 2..5"),
    ],
    ids=["backwards", "every second", "from the third on"],
)
def test_the_steps_are_told_in_their_order(indices: range, told: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = torch.zeros(len(x), 8)
            for t in indices:
                hidden = self.cell(x[:, t], hidden)
            return hidden

    graph = _graph(Recurrent(), torch.randn(2, STEPS, 8))
    (fold,) = simplified(Analysis(graph)).folds()
    assert fold.variation is not None
    assert variation_text(fold.variation) == told
    assert told.partition(", t =")[0] in [box.title for box in overview(graph).boxes]


class Mixture(nn.Module):
    """Each expert on the tokens that are sent to it, as many as these are."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.gate = nn.Linear(8, len(widths))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 8)) for width in widths
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = torch.softmax(self.gate(x), -1).topk(2, -1)
        made = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            tokens, rank = torch.where(chosen == number)
            made.index_add_(0, tokens, expert(x[tokens]) * weights[tokens, rank, None])
        return made


def test_experts_that_each_get_other_tokens_are_one_body() -> None:
    torch.manual_seed(0)
    analysis = Analysis(trace(Mixture([16] * 6), torch.randn(40, 8)).graph)
    (fold,) = analysis.folds()
    assert (fold.times, fold.shared) == (6, False)
    assert fold.variation is not None
    assert variation_text(fold.variation) == "other = 0, 1, 2, 3, 4, 5; sizes change"


def test_experts_of_unlike_sizes_are_told_one_by_one() -> None:
    torch.manual_seed(0)
    analysis = Analysis(trace(Mixture([16, 24, 16, 32, 8, 24]), torch.randn(40, 8)).graph)
    assert analysis.folds() == ()
