"""Ties a step that was looked into to the graph of an earlier one, and says what to act on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelviz_callbacks.analysis.health import StepHealth, WeightHealth
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.model import Note
from modelviz_callbacks.tracing.steps.inspected_step import (
    InspectedStep,
    SeenOutput,
    SeenParameter,
)

# From which part on an output that is zero is told; half of it is what a ReLU gives.
_MANY_ZEROS = 0.9
# Fewer elements than these are no sample.
_FEWEST_ELEMENTS = 32

# From which ratio of update to weight on it is told. About a thousandth is usual; a bias, which
# begins at zero, may be changed by more than it is.
_LARGE_UPDATE = 0.1


def step_health(step: InspectedStep, graph: ModelGraph) -> StepHealth:
    """What was seen, by the names of a graph.

    Args:
        step: The step.
        graph: Of an earlier step of the same model.
    """
    zeros: dict[tuple[str, int], tuple[int, int]] = {}
    for output in step.outputs:
        if output.health is not None:
            key = (output.path, output.call_index)
            zero, elements = zeros.get(key, (0, 0))
            zeros[key] = (zero + output.health.zeros, elements + output.health.elements)
    found = {"": zeros[("", 0)]} if ("", 0) in zeros else {}
    for call in graph.modules:
        if call.called and call.path is not None:
            path = step.aliases.get(call.path, call.path)
            if (path, call.call_index) in zeros:
                found[call.name] = zeros[path, call.call_index]
    return StepHealth(
        step.number, found, {parameter.name: _squares(parameter) for parameter in step.parameters}
    )


def _squares(parameter: SeenParameter) -> WeightHealth:
    norm = parameter.gradient.norm if parameter.gradient is not None else 0.0
    weight, update = parameter.weight_norm or 0.0, parameter.update_norm or 0.0
    return WeightHealth(norm * norm, update * update, weight * weight)


def health_notes(steps: Iterable[InspectedStep]) -> tuple[Note, ...]:
    """What a person would act on, each once, as of the first step in which it was so.

    Args:
        steps: In order.
    """
    found: dict[tuple[str, str], Note] = {}
    for step in steps:
        for note in (*_outputs(step), *_gradients(step), *_updates(step)):
            found.setdefault((note.kind, note.subject), note)
    return tuple(found.values())


def _outputs(step: InspectedStep) -> Iterator[Note]:
    is_not_finite = [
        output for output in step.outputs if output.health and not output.health.is_finite
    ]
    if is_not_finite:
        first = is_not_finite[0]
        assert first.health is not None
        yield Note(
            "not-finite-output",
            first.path,
            f"{_of(first)} gave {first.health.nans:,} NaN and {first.health.infs:,} infinite of "
            f"{first.health.elements:,} numbers in step {step.number}, the first of "
            f"{len(is_not_finite)} module outputs that are not finite.",
        )
    for output in step.outputs:
        health = output.health
        if health is None or output.is_again or not _is_fractional(output.dtype):
            continue
        if health.elements >= _FEWEST_ELEMENTS and health.zero_share >= _MANY_ZEROS:
            share = f"{int(100 * health.zero_share)} % zeros"
            yield Note("zeros", output.path, f"{_of(output)}: {share} in step {step.number}.")


def _gradients(step: InspectedStep) -> Iterator[Note]:
    trained = step.parameters
    is_not_finite = [one for one in trained if one.gradient and not one.gradient.is_finite]
    if is_not_finite:
        first = is_not_finite[0]
        assert first.gradient is not None
        yield Note(
            "not-finite-gradient",
            first.name,
            f"The gradient of {first.name} had {first.gradient.nans:,} NaN and "
            f"{first.gradient.infs:,} infinite of {first.gradient.elements:,} numbers in step "
            f"{step.number}, one of {len(is_not_finite)} gradients that are not finite.",
        )
    if not any(one.has_gradient for one in trained):
        return  # a step without a backward, which is said by itself
    for one in trained:
        if not one.has_gradient:
            message = f"No gradient reached {one.name} in step {step.number}."
            yield Note("no-gradient", one.name, message)
        elif one.gradient is not None and one.gradient.zeros == one.gradient.elements:
            message = f"The gradient of {one.name} was zero everywhere in step {step.number}."
            yield Note("zero-gradient", one.name, message)


def _updates(step: InspectedStep) -> Iterator[Note]:
    for one in step.parameters:
        ratio = one.update_ratio
        if ratio is None or one.gradient is None:
            continue
        if ratio >= _LARGE_UPDATE and len(one.shape) > 1:
            yield Note(
                "large-update",
                one.name,
                f"Update ratio {ratio:.0e} in {one.name}: step {step.number} changed it by "
                f"{100 * ratio:.0f} % of its norm.",
            )
        is_lost = ratio == 0 and one.gradient.is_finite
        if is_lost and one.gradient.zeros < one.gradient.elements:
            yield Note(
                "lost-update",
                one.name,
                f"Step {step.number} changed nothing in {one.name} ({one.dtype}), though a "
                "gradient reached it: the learning rate is 0, or too small for its precision.",
            )


def _of(output: SeenOutput) -> str:
    """``layer4.1.bn2``, and which call and tensor of it where there are several."""
    call = f" (call {output.call_index})" if output.call_index else ""
    return f"{output.path or 'The model'}{output.place}{call}"


def _is_fractional(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))
