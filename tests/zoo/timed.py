"""A training step timed op by op leaves everything as a plain one does, to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch._dynamo.utils import counters

from modelviz_callbacks.tracing.steps.step_timer import StepTimer
from tests.zoo.cases import Case
from tests.zoo.leaves import difference
from tests.zoo.switches import switches
from tests.zoo.untouched import plain_forward, state_after_step


def assert_untouched_by_timing(case: Case) -> None:
    """Compares a plain training step with a timed one, on two equal builds."""
    case.make()  # what a library keeps from the first model of a class is there for both
    plain = state_after_step(case, plain_forward)
    # A timer leaves a process alone that has compiled something; these builds have not.
    counters.clear()
    found = difference(plain, state_after_step(case, timed_forward), "state")
    assert not found, f"timing changed the training step: {found}"


def timed_forward(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The forward as the user runs it, timed; only autograd's nodes have hooks in the backward."""
    before = switches()
    timer = StepTimer(model)
    timer.start()
    result = None
    try:
        result = model(*args, **kwargs)
    finally:
        timer.stop(result)
    found = difference(before, switches())
    assert not found, f"the timing left something behind: {found}"
    return result
