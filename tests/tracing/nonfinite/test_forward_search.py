"""What made the first number that is not finite is named, and nothing else as certain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.faults import gradient_models
from benchmarks.faults.nonfinite import found_in, is_right
from benchmarks.faults.nonfinite_models import CASES, Case
from modelviz_callbacks import trace
from modelviz_callbacks.errors import ReplayError

# One of each kind; ``python -m benchmarks.faults.nonfinite`` runs all.
SAMPLE = (
    "log of zero beside masks",
    "attention to nothing by hand",
    "product in half",
    "an infinite number in the data",
    "a buffer that is NaN",
    "weights explode",
    "running statistics take the blame",
    "a logarithm that is thrown away hides a division",
    "division in place through a view",
    "sqrt of zero beside masks",
    "p-norm by hand",
    "log of zero there",
    "attention to nothing there",
)


@pytest.mark.parametrize(
    "case",
    [one for one in (*CASES, *gradient_models.CASES) if one.name in SAMPLE],
    ids=lambda one: one.name,
)
def test_the_op_to_blame_is_named_with_certainty(case: Case) -> None:
    found = found_in(case)
    assert is_right(case, found), found
    assert found is not None
    assert found.is_certain


def test_gradients_that_a_branch_throws_away_again_are_no_fault() -> None:
    for case in gradient_models.HARMLESS:
        assert found_in(case) is None, case.name


def test_an_op_whose_backward_is_to_blame_is_told_with_gradients_and_inputs() -> None:
    class Length(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).square().sum(-1).sqrt().mean()

    model = Length()
    traced = trace(model, torch.ones(3, 4))
    batch, state = torch.ones(3, 4), torch.get_rng_state()
    batch[1] = 0
    found = traced.find_nonfinite(batch)
    assert found is not None
    assert (found.kind, found.name, found.is_certain) == ("gradient", "sqrt", True)
    assert (found.made.infs, found.gradients[0].most) == (1, pytest.approx(1 / 3))
    assert found.inputs[0].least == 0
    assert str(found).startswith("the backward of sqrt (torch.Tensor.sqrt) at ")
    assert model.layer.weight.grad is None
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        assert traced.find_nonfinite(batch) is None


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.layer(x)))
        weights = (x @ x.T).masked_fill(hidden, -math.inf).softmax(-1)
        return (weights @ x).square().mean()


def test_an_op_is_told_with_its_place_and_the_ranges_of_what_it_was_given() -> None:
    model, mask = Attention(), torch.zeros(3, 3, dtype=torch.bool)
    traced = trace(model, torch.rand(3, 4), mask)
    partly, whole = mask.clone(), mask.clone()
    partly[1, 0], whole[1] = True, True
    assert traced.find_nonfinite(torch.rand(3, 4), partly) is None
    found = traced.find_nonfinite(torch.rand(3, 4), whole)
    assert found is not None
    assert (found.kind, found.name, found.op) == ("op", "softmax", "torch.Tensor.softmax")
    assert found.source.startswith("tests/tracing/nonfinite/test_forward_search.py:")
    assert (found.function, found.module) == ("forward", "")
    (scores,) = found.inputs
    assert (scores.name, scores.shape, scores.infs, scores.nans) == ("masked_fill", (3, 3), 3, 0)
    assert scores.finite_share == pytest.approx(2 / 3)
    assert scores.least is not None
    assert found.made.nans == 3
    assert "softmax (torch.Tensor.softmax) at tests/" in str(found)
    assert "made 3 NaN of masked_fill (3×3 float32) from " in str(found)


def test_a_search_leaves_weights_inputs_and_random_numbers_as_they_are() -> None:
    model, mask = Attention(), torch.zeros(3, 3, dtype=torch.bool)
    traced = trace(model, torch.rand(3, 4), mask)
    x = torch.rand(3, 4)
    x[0, 0] = math.nan
    before = [x.clone(), *(one.clone() for one in model.state_dict().values())]
    random, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    found = traced.find_nonfinite(x, mask)
    assert found is not None
    assert (found.kind, found.name) == ("data", "x")
    after = [x, *model.state_dict().values()]
    assert all(
        torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        for one, other in zip(before, after, strict=True)
    )
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled() == enabled
    assert all(one.grad is None for one in model.parameters())


class WritesToItsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.log_().sum()


def test_an_input_that_the_model_writes_to_is_not_written_to_by_a_search() -> None:
    traced = trace(WritesToItsInput(), torch.ones(3))
    x = torch.zeros(3)
    found = traced.find_nonfinite(x)
    assert found is not None
    assert found.op == "torch.Tensor.log_"
    assert found.inputs[0].most == 0
    assert x.tolist() == [0, 0, 0]


class Ratio(nn.Module):
    """The square root of a number that is not told is not finite alone."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"logits": x.masked_fill(x > 0, -math.inf)}


def test_infinite_numbers_on_purpose_in_an_output_that_is_no_loss_are_possible_only() -> None:
    found = trace(Ratio(), -torch.ones(3)).find_nonfinite(torch.ones(3))
    assert found is not None
    assert found.name == "masked_fill"
    assert not found.is_certain
    assert str(found).startswith("possibly: masked_fill")


def test_a_batch_on_which_the_ops_cannot_run_is_refused() -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0] * x.shape[1]).log().sum()

    traced = trace(Flat(), torch.ones(2, 3))
    with pytest.raises(ReplayError, match=r"cannot be run on this batch .*shape"):
        traced.find_nonfinite(torch.zeros(3, 3))


def test_a_generator_of_the_authors_own_goes_on_as_if_there_had_been_no_search() -> None:
    generator = torch.Generator()

    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + torch.rand(x.shape, generator=generator)).sum().log()

    traced = trace(Noisy(), torch.ones(3))
    before = generator.get_state()
    found = traced.find_nonfinite(-torch.ones(3) * 9)
    assert found is not None
    assert found.is_certain
    assert torch.equal(generator.get_state(), before)
