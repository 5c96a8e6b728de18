"""A training step that is looked into leaves everything as a plain one does, to the bit."""

from __future__ import annotations

from typing import Any

from torch._dynamo.utils import counters

from modelviz_callbacks.tracing.steps.inspected_step import InspectedStep
from modelviz_callbacks.tracing.steps.step_inspector import StepInspector
from tests.zoo.cases import Case, seed_everything
from tests.zoo.leaves import difference, frozen
from tests.zoo.untouched import described, loss_of, optimizer_for


def assert_untouched_by_looking(case: Case) -> None:
    """Compares a plain training step with one that is looked into, on two equal builds."""
    case.make()  # what a library keeps from the first model of a class is there for both
    plain = _state_after_step(case, [])
    # Outputs are not looked at where something was compiled; these builds have compiled nothing.
    counters.clear()
    seen: list[InspectedStep] = []
    found = difference(plain, _state_after_step(case, seen, looks=True), "state")
    assert not found, f"looking changed the training step: {found}"
    (step,) = seen
    faults = [remark for remark in step.remarks if "ended early" in remark]
    assert faults == []


def _state_after_step(case: Case, seen: list[InspectedStep], looks: bool = False) -> Any:
    """Everything that can be seen after one training step of a fresh build, `frozen`."""
    built = case.make()
    model, args, kwargs = built
    seed_everything(3)
    inspector = StepInspector(model, 1, seen.append)
    if looks:
        inspector.start()
    result = model(*args, **kwargs)
    inspector.end_forward()
    state: dict[str, Any] = {"result": frozen(result)}
    loss = loss_of(result)
    optimizer = None
    if loss is not None:
        loss.backward()
        optimizer = optimizer_for(case, model)
        if optimizer is not None:
            optimizer.step()
    if looks:
        inspector.close()
    return frozen(state | described(built, optimizer))
