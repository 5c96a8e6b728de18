"""Copies that do not feed each other are one pattern where the author wrote them as one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.repeats.wiring import Fold
from modelviz_callbacks.view.formatting import repeat_text
from modelviz_callbacks.view.overview import overview

STEPS = 6


class Heads(nn.Module):
    """Layers in a container, used by a function that is given."""

    def __init__(self, use: Callable[[nn.Module, torch.Tensor], object], names: list[str]) -> None:
        super().__init__()
        self.use = use
        self.cell = nn.GRUCell(8, 8)
        self.heads = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})

    def forward(self, x: torch.Tensor) -> object:
        return self.use(self, x)


def every_head(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    return [head(x) for head in model.heads.values()]


def joined(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.softmax(head(x), -1) for head in model.heads.values()], -1)


def shifted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([head(x + i) for i, head in enumerate(model.heads.values())])


def parts(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    pieces = x.chunk(STEPS, 1)
    made = [head(piece) for head, piece in zip(model.heads.values(), pieces, strict=True)]
    return torch.cat(made, 1)


def every_frame(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([model.heads["0"](x[:, t]) for t in range(STEPS)], 1)


def every_part(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([model.heads["0"](frame) for frame in x.unbind(1)], 1)


def every_prefix(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([model.heads["0"](x[:, : t + 1]).sum(1) for t in range(STEPS)], 1)


def attention(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    query, key, value, *_ = (head(x) for head in model.heads.values())
    return nn.functional.scaled_dot_product_attention(query, key, value)


def one_used_alone(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    made = every_head(model, x)
    return torch.stack(made) * made[2]


def folds(use: Callable[[nn.Module, torch.Tensor], object], names: list[str]) -> tuple[Fold, ...]:
    model = Heads(use, names)
    analysis = Analysis(trace(model, torch.randn(2, STEPS, 8)).graph)
    assert len(overview(analysis).boxes) < 60
    return analysis.folds()


NUMBERS = [str(number) for number in range(STEPS)]
WORDS = ["age", "income", "height", "weight", "city", "country", "job", "school", "hobby"]


@pytest.mark.parametrize(
    ("use", "names", "told"),
    [
        (every_head, NUMBERS, "in parallel"),
        (every_head, [f"head {number}" for number in NUMBERS], "in parallel"),
        (every_head, WORDS, "in parallel"),
        (joined, NUMBERS, "in parallel"),
        (shifted, NUMBERS, "other = 0, 1, 2, 3, 4, 5; in parallel"),
        (parts, NUMBERS, "in parallel"),
        (every_frame, NUMBERS, "[:, t], t = 0..5; in parallel"),
        (every_part, NUMBERS, "in parallel"),
        (every_prefix, NUMBERS, "[:, :t], t = 1..6; sizes differ; in parallel"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_was_written_as_one_folds(
    use: Callable[[nn.Module, torch.Tensor], object], names: list[str], told: str
) -> None:
    (fold,) = folds(use, names)
    assert fold.times == len(names)
    assert repeat_text(fold) == told


@pytest.mark.parametrize(
    ("use", "names"),
    [
        (every_head, NUMBERS[:3]),
        (every_head, WORDS[:5]),
        (attention, NUMBERS[:3]),
        (one_used_alone, NUMBERS),
    ],
    ids=["three", "names", "query, key, value", "one used alone"],
)
def test_what_has_a_part_of_its_own_to_play_does_not_fold(
    use: Callable[[nn.Module, torch.Tensor], object], names: list[str]
) -> None:
    assert folds(use, names) == ()


class Columns(nn.Module):
    """An embedding for each column of a table."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(nn.Embedding(*size) for size in sizes)
        self.out = nn.Linear(sum(width for _, width in sizes), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([one(x[:, i]) for i, one in enumerate(self.columns)], -1))


def test_embeddings_of_any_sizes_are_one_box_in_pictures() -> None:
    model = Columns([(5, 3), (120, 16), (7, 4), (7, 4), (31, 8), (3, 2)])
    analysis = Analysis(trace(model, torch.zeros(4, 6, dtype=torch.long)).graph)
    (fold,) = analysis.folds(sizes=True)
    assert repeat_text(fold) == "[:, t], t = 0..5; sizes differ; in parallel"
    assert analysis.folds() == ()
    drawn = overview(analysis)
    (group,) = [group for group in drawn.groups if "columns.0-5" in group.label]
    assert group.weights.count == sum(one.weight.numel() for one in model.columns)


def test_branches_with_kernels_of_unlike_sizes_tell_them() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv1d(8, 4, size) for size in (2, 3, 4, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([conv(x).amax(-1) for conv in self.convs], -1)

    (fold,) = Analysis(trace(Branches(), torch.randn(2, 8, 9)).graph).folds(sizes=True)
    assert repeat_text(fold) == "kernel size = 2, 3, 4, 5; in parallel"


def test_equal_layers_that_have_a_name_each_do_not_fold() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.red, self.green, self.blue, self.alpha = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.red(x), self.green(x), self.blue(x), self.alpha(x)])

    assert Analysis(trace(Towers(), torch.randn(2, 8)).graph).folds() == ()


def test_a_loop_over_the_parts_of_a_tensor_is_one_body() -> None:
    def states(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        hidden, made = x[:, 0], []
        for frame in x.unbind(1):
            hidden = model.cell(frame, hidden)
            made.append(hidden)
        return torch.stack(made, 1)

    (fold,) = folds(states, NUMBERS)
    assert (fold.times, fold.shared, fold.in_parallel) == (STEPS, True, False)


def test_parts_that_are_read_in_no_order_are_not_the_steps_of_a_loop() -> None:
    def mixed(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        frames = x.unbind(1)
        return torch.stack([model.heads["0"](frames[i]) for i in (0, 3, 1, 5, 2, 4)], 1)

    assert folds(mixed, NUMBERS) == ()


def test_slices_that_an_author_chose_are_told_one_by_one() -> None:
    def merged(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)], -1)

    assert folds(merged, NUMBERS) == ()
