"""Examines a training step whose loss is not finite, by replaying what was recorded before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.pytree import leaves, listed, walk
from modelviz_callbacks.tracing.capture.random_state import RandomState
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import OpEntry, flat_records
from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function, storage_address
from modelviz_callbacks.tracing.lowering.to_program import Program, to_program
from modelviz_callbacks.tracing.nonfinite.finiteness import look, range_of
from modelviz_callbacks.tracing.nonfinite.forward_search import NonfiniteSearch, losses_among
from modelviz_callbacks.tracing.nonfinite.found import Nonfinite
from modelviz_callbacks.tracing.op_facts import torch_name

# How far a number of the replay may be from the step's: relative, by what the type resolves. The
# step ran with autograd, which chooses other kernels now and then.
_TOLERANCE = 100.0
# Larger results of a step are not kept for the comparison.
_MOST_ELEMENTS = 2**20
# What changes running statistics in training without reading them.
_ONLY_TAKE_IN = ("batch_norm", "instance_norm")
# How many of autograd's functions behind the recorded code are named.
_MOST_NAMES = 6

NOT_REPRODUCED = "the replay did not give what the step gave, as where Python takes another branch"
_NOT_COMPARED = "the step's results were not at hand to be compared with the replay's"
_FINITE_AGAIN = (
    "The replay gives finite numbers where the step did not, as where Python takes another branch."
)
_CHANGED = "the step itself writes to it, and what it was before was not kept"
_NO_FORWARD = "no forward was seen before this backward"
_NO_NUMBERS = "No tensor of floating-point numbers was found in what was returned."
_TALKS = (
    "What was recorded may exchange data with other processes (synchronized batch norm, a function "
    "of the author's own), which one process alone must not repeat."
)


@dataclass
class StepCall:
    """One call of the code that was recorded, in a later step.

    Attributes:
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        random_state: Before it began; ``None``: not known.
        tensors: Its input tensors in place of the arguments, if these are not known.
        result: What it returned.
        has_returned: Whether it did.
        results: The tensors of its result, once they were taken out of it.
        gradients: Of a loss with respect to them, by their places, if its backward was watched.
        state: What the state that the code writes to was before, by the ``id`` of each tensor.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    random_state: RandomState | None = None
    tensors: Sequence[torch.Tensor] | None = None
    result: Any = None
    has_returned: bool = False
    results: list[torch.Tensor] | None = None
    gradients: dict[int, torch.Tensor] | None = None
    state: dict[int, torch.Tensor] = field(default_factory=dict)

    def returned(self, result: Any) -> None:
        """Keeps a result, to compare a replay with it."""
        self.result, self.has_returned = result, True

    def settle(self) -> None:
        """Takes the tensors out of the result, without autograd; large ones are let go."""
        self._take_out()

    def _take_out(self) -> list[torch.Tensor]:
        result, self.result = self.result, None
        if not self.has_returned or result is None:
            return []
        walked = walk(listed(result), lambda one: one)
        tensors = [tensor for _, tensor in leaves(walked, "")]
        if self.results is None:
            self._keep(tensors)
        return tensors

    def watch_gradients(self) -> list[RemovableHandle]:
        """Keeps the gradients of what it gave, in the backward that comes.

        Returns:
            What ends it.
        """
        found: dict[int, torch.Tensor] = {}
        self.gradients = found
        with no_torch_function():
            return [
                tensor.register_hook(partial(found.__setitem__, place))  # type: ignore[no-untyped-call]
                for place, tensor in enumerate(self._take_out())
                if tensor.requires_grad
            ]

    def inputs_of(self, program: Program, recording: Recording) -> Sequence[torch.Tensor]:
        """The tensors that a program is to run on.

        Args:
            program: Of what was recorded.
            recording: Of the same.

        Raises:
            ReplayError: There are more or fewer of them.
        """
        tensors = self.tensors
        if tensors is None:
            tensors = recording.tensors_of(self.args, self.kwargs)
        if len(tensors) != len(program.inputs):
            raise ReplayError(
                f"The recording takes {len(program.inputs)} tensor(s), this step has "
                f"{len(tensors)}."
            )
        return tensors

    def _keep(self, tensors: list[torch.Tensor]) -> None:
        with no_torch_function():  # of another recording that is under way, or of the user's modes
            if tensors and sum(one.numel() for one in tensors) <= _MOST_ELEMENTS:
                self.results = [one.detach() for one in tensors]


def first_call(recording: Recording, random_state: RandomState | None) -> StepCall:
    """The call that was recorded itself, while its tensors are alive."""
    tensors = [record.ref() for _, record in recording.input_records()]
    results = [record.ref() for _, record in recording.output_records()]
    living = [one for one in tensors if one is not None]
    call = StepCall(random_state=random_state, tensors=living)
    if all(one is not None for one in results):
        call.returned(results)
    return call


def examine(recording: Recording, calls: Sequence[StepCall], loss: torch.Tensor) -> Nonfinite:
    """Finds out why the loss of a step is not finite.

    Args:
        recording: Of an earlier step, or of this one.
        calls: What the code recorded was called for since the last backward, in order; weights are
            as they were then.
        loss: What ``backward`` was called on.

    Returns:
        What was found; of the kind ``"outside"`` if what was recorded gave finite numbers.

    Raises:
        ReplayError: It cannot be replayed on this batch.
    """
    program: Program | None = None
    losses, _ = losses_among(recording.output_records())
    if not losses:
        raise ReplayError(_NO_NUMBERS)
    for call in calls:
        call.settle()
        results = _results_of(call, recording, loss)
        if results is not None and not any(
            look(results[place]).is_bad for place in losses if place < len(results)
        ):
            continue
        program = program_of(recording, call) if call.state or program is None else program
        found = _search(program, recording, call, results)
        if found is not None:
            return found
        if results is not None:
            raise ReplayError(_FINITE_AGAIN)
    return Nonfinite(
        "outside",
        "loss",
        range_of("loss", loss),
        op=" ← ".join(functions_of(loss)),
        is_certain=not _doubt_outside(calls),
        why_possible=_doubt_outside(calls),
    )


def _doubt_outside(calls: Sequence[StepCall]) -> str:
    if not calls:
        return _NO_FORWARD
    return "" if all(call.results is not None for call in calls) else _NOT_COMPARED


def _results_of(
    call: StepCall, recording: Recording, loss: torch.Tensor
) -> list[torch.Tensor] | None:
    """What a call gave, by the places of the recording's outputs; ``None``: not known."""
    outputs = recording.output_records()
    if call.results is not None and len(call.results) == len(outputs):
        return call.results
    is_step_alone = recording.is_step and len(outputs) == 1  # it goes on after its backward
    return [loss.detach()] if call.results is None and is_step_alone else None


def written_state(recording: Recording) -> list[torch.Tensor]:
    """The parameters and buffers that a step changes while it runs, and may read after that.

    Args:
        recording: Of a step.

    Returns:
        Those of floating-point numbers, without the statistics that a norm only takes in; nothing
        if all together are too large to be copied in every step.
    """
    state = {storage_address(tensor): tensor for tensor, _ in recording.state.all()}
    found: dict[int, torch.Tensor] = {}
    for entry in recording.tape:
        if not isinstance(entry, OpEntry) or torch_name(entry.func) in _ONLY_TAKE_IN:
            continue
        for record in (*flat_records(entry.result), *entry.writes):
            tensor = state.get(record.storage) if record.previous is not None else None
            if tensor is not None and tensor.is_floating_point():
                found[id(tensor)] = tensor
    total = sum(tensor.numel() for tensor in found.values())
    return list(found.values()) if total <= _MOST_ELEMENTS else []


def copies_of(tensors: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """What some tensors are now, by the ``id`` of each."""
    with no_torch_function(), torch.no_grad():
        return {id(tensor): tensor.detach().clone() for tensor in tensors}


def program_of(recording: Recording, call: StepCall) -> Program:
    """The program of a recording, with the state of now, or of before a call where that is known.

    Args:
        recording: Of an earlier step.
        call: A call of what was recorded.

    Raises:
        ReplayError: It cannot be run again, or might wait for other processes.
    """
    if recording.fault:
        raise ReplayError(f"This recording cannot be run again. {recording.fault}")
    program = to_program(recording, live_state=True, before=call.state)
    if _may_talk(program, recording):
        raise ReplayError(_TALKS)
    return program


def _may_talk(program: Program, recording: Recording) -> bool:
    """Whether a replay might wait for other processes."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    if distributed.get_world_size() < 2:
        return False
    if any(isinstance(one, torch.nn.SyncBatchNorm) for one in recording.model.modules()):
        return True
    return any(
        "distributed" in str(getattr(node.target, "__module__", ""))
        or "c10d" in str(node.target)
        or getattr(node.target, "__name__", "") == "apply"
        for node in program.module.graph.nodes
        if node.op == "call_function"
    )


def _search(
    program: Program,
    recording: Recording,
    call: StepCall,
    results: list[torch.Tensor] | None,
) -> Nonfinite | None:
    tensors = call.inputs_of(program, recording)
    random_state = call.random_state or RandomState.now()
    found = NonfiniteSearch(program, recording, tensors, random_state).find()
    if found.first is not None and found.first.name in _changed(recording, call):
        return replace(found.first, is_certain=False, why_possible=_CHANGED)
    if found.first is None or not found.first.is_certain:
        return found.first
    if results is None:
        doubt = _NOT_COMPARED
    else:
        pairs = zip(results, found.outputs, strict=True)
        doubt = "" if all(_alike(one, other) for one, other in pairs) else NOT_REPRODUCED
    return replace(found.first, is_certain=not doubt, why_possible=doubt)


def _changed(recording: Recording, call: StepCall) -> set[str]:
    """Names of state that a call has changed, and of which nobody knows what it was before."""
    names = set[str]()
    for entry in recording.tape:
        for record in entry.writes if isinstance(entry, OpEntry) else ():
            tensor = (record.first or record).ref()
            found = None if tensor is None else recording.state.find(tensor)
            if found is not None and id(tensor) not in call.state:
                names.add(found.name)
    return names


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a replay's result is the step's, but for rounding."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return bool(torch.equal(one, other))
    tolerance = _TOLERANCE * torch.finfo(one.dtype).eps
    least = tolerance * max(1.0, _largest(one))
    return bool(torch.allclose(one, other, rtol=tolerance, atol=least, equal_nan=True))


def _largest(tensor: torch.Tensor) -> float:
    values = tensor[torch.isfinite(tensor)].abs()
    largest = float(values.max()) if values.numel() else 0.0
    return largest if math.isfinite(largest) else 0.0


def functions_of(loss: torch.Tensor) -> Iterator[str]:
    """The names of autograd's last functions before a loss, the loss' own first."""
    node: Any = loss.grad_fn
    for _ in range(_MOST_NAMES):
        if node is None:
            return
        yield str(node.name()).removesuffix("0").removesuffix("Backward")
        following = [one for one, _ in node.next_functions if one is not None]
        node = following[0] if following else None
