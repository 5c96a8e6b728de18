"""Examines a training step whose loss is finite and whose gradients are not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.autograd_record import record_backward
from modelviz_callbacks.tracing.capture.random_state import RandomState
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.lowering.to_program import Program
from modelviz_callbacks.tracing.nonfinite.backward_search import BackwardSearch
from modelviz_callbacks.tracing.nonfinite.finiteness import look, range_of
from modelviz_callbacks.tracing.nonfinite.found import Nonfinite
from modelviz_callbacks.tracing.nonfinite.step import (
    NOT_REPRODUCED,
    StepCall,
    functions_of,
    program_of,
)

_NOT_SEEN = "the gradients that its backward began with were not seen."
_FINITE_AGAIN = "its backward, done again, gives finite gradients."
_AUTHORS = "what the author's autograd functions do in it ({names}) is not recorded."

# Autograd's names of functions of somebody's end so, without a number.
_OF_AUTHOR = "Backward"


def examine_gradients(
    recording: Recording, calls: Sequence[StepCall], loss: torch.Tensor, bad: Collection[str]
) -> Nonfinite:
    """Finds out why the gradients of a step are not finite though its loss is.

    Args:
        recording: Of an earlier step.
        calls: What the code recorded was called for before this backward, with the gradients of
            what they gave; weights are as they were then.
        loss: What ``backward`` was called on.
        bad: Names of the parameters whose gradients are not finite.

    Returns:
        What was found; with the name ``loss`` if the gradients were so before they reached what
        was recorded.

    Raises:
        ReplayError: It cannot be replayed on this batch, or the replay's gradients are finite.
    """
    outputs, outside, program = recording.output_records(), None, None
    is_seen = False
    for call in calls:
        if not call.gradients or call.results is None or len(call.results) != len(outputs):
            continue
        is_seen = True
        arrived = [one for one in call.gradients.values() if look(one).is_bad]
        if arrived:
            outside = outside or arrived[0]
            continue
        program = program_of(recording, call) if call.state or program is None else program
        found = _search(program, recording, call, bad)
        if found is not None:
            return found
    if outside is None:
        raise ReplayError(_why_not(recording) if is_seen else _NOT_SEEN)
    made = range_of("a gradient", outside)
    names = " ← ".join(functions_of(loss))
    return Nonfinite("gradient", "loss", made, op=names, is_certain=True)


def _search(
    program: Program, recording: Recording, call: StepCall, bad: Collection[str]
) -> Nonfinite | None:
    tensors = call.inputs_of(program, recording)
    search = BackwardSearch(program, recording, tensors, call.random_state or RandomState.now())
    gradients = [(call.gradients or {}).get(place) for place in range(len(program.outputs))]
    found = search.find(gradients)
    if found is None or not found.is_certain:
        return found
    named = dict(recording.model.named_parameters(remove_duplicate=False))
    is_alike = all(name in bad for name in search.bad if name in named)
    doubt = "" if is_alike else NOT_REPRODUCED
    return replace(found, is_certain=not doubt, why_possible=doubt)


def _why_not(recording: Recording) -> str:
    backward = record_backward(recording)
    found = backward.names if backward is not None else ()
    names = [name.removesuffix(_OF_AUTHOR) for name in found if name.endswith(_OF_AUTHOR)]
    return _AUTHORS.format(names=", ".join(names)) if names else _FINITE_AGAIN
