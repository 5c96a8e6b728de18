"""The networks in a recording: each outermost module call that owns parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from modelviz_callbacks.tracing.capture.functorch_levels import LayeredProgram
from modelviz_callbacks.tracing.capture.pytree import as_walked, walk
from modelviz_callbacks.tracing.capture.recording import (
    Recording,
    bound_arguments,
    forward_signature,
    named_leaves,
)
from modelviz_callbacks.tracing.capture.tape import Enter, Leave
from modelviz_callbacks.tracing.capture.wrappers import class_of
from modelviz_callbacks.tracing.lowering.inference_form import to_inference
from modelviz_callbacks.tracing.lowering.to_graph import node_names
from modelviz_callbacks.tracing.lowering.to_program import Program, to_program
from modelviz_callbacks.tracing.lowering.without_transforms import without_layers


@dataclass
class Unit:
    """One network of a recording, as a recording of its own.

    Attributes:
        name: A file's name for it: its qualified name, or its class.
        module: The module called; for a recording without any, the model.
        recording: The part of the tape between its start and its end.
        in_eval_mode: Whether that is what the module does in eval mode.
    """

    name: str
    module: torch.nn.Module
    recording: Recording
    in_eval_mode: bool = False

    @staticmethod
    def whole(recording: Recording) -> Unit:
        """The whole recording as one network."""
        return Unit(type(recording.model).__name__, recording.model, recording)

    @cached_property
    def program(self) -> Program:
        """What it does in inference form, with the model's present parameters and buffers."""
        program = to_program(self.recording, live_state=True, is_draft=True)
        module = to_inference(program.module, self.in_eval_mode)
        if isinstance(program.module, LayeredProgram):
            module = without_layers(module, self._zeros(program))
        return replace(program, module=module)

    def examples(self) -> tuple[torch.Tensor, ...]:
        """Zeros of the shapes, dtypes and devices it takes; no random number is drawn."""
        return self._zeros(self.program)

    def recorded_inputs(self) -> tuple[torch.Tensor, ...] | None:
        """The tensors it was given when recorded; ``None`` where one was not kept."""
        records = self.program.input_records
        kept = [self.recording.input_values.get(record.first or record) for record in records]
        if any(tensor is None for tensor in kept):
            return None
        pairs = zip(kept, records, strict=True)
        return tuple(tensor.to(record.device) for tensor, record in pairs if tensor is not None)

    def _zeros(self, program: Program) -> tuple[torch.Tensor, ...]:
        # A process that was handed the recording may lack the device.
        is_elsewhere = self.recording.state.is_elsewhere
        return tuple(
            torch.zeros(
                record.sizes or (),
                dtype=_plain(record.dtype),
                device="cpu" if is_elsewhere else record.device,
            )
            for record in program.input_records
        )

    def call(
        self, module: torch.nn.Module, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[list[str], tuple[torch.Tensor, ...]]:
        """Calls a module as this one was called, with other tensors.

        Args:
            module: The module or a copy.
            tensors: As `examples`.

        Returns:
            The paths of the tensors in its result, and the tensors.
        """
        args, kwargs = self.recording.arguments_from(tensors)
        found = named_leaves(walk(module(*args, **kwargs), lambda tensor: tensor))
        return [path for path, _ in found], tuple(tensor for _, tensor in found)


def _plain(dtype: torch.dtype) -> torch.dtype:
    """A dtype that there are zeros of; quantised tensors consist of bytes."""
    return torch.uint8 if str(dtype).startswith("torch.q") else dtype


def units(recording: Recording) -> list[Unit]:
    """The networks of a recording, in order of their first calls.

    Args:
        recording: What a capture gave.

    Returns:
        One unit for each module; the whole recording where no such module was called.
    """
    paths = {id(module): path for path, module in recording.model.named_modules()}
    found: dict[int, Unit] = {}
    for start, end in _outermost(recording):
        leave = recording.tape[end]
        assert isinstance(leave, Leave)
        module = leave.module
        if id(module) not in found:
            name = paths.get(id(module)) or class_of(module).__name__
            found[id(module)] = Unit(name, module, _part(recording, start, end, leave))
    return list(found.values()) or [Unit.whole(recording)]


def _outermost(recording: Recording) -> Iterator[tuple[int, int]]:
    """Positions of the start and end of the outermost calls that own parameters."""
    open_calls: list[tuple[int, bool]] = []
    inside = 0
    for position, entry in enumerate(recording.tape):
        if isinstance(entry, Enter):
            owns = not inside and any(True for _ in entry.module.parameters())
            inside += owns
            open_calls.append((position, owns))
        elif isinstance(entry, Leave) and open_calls:
            start, owns = open_calls.pop()
            inside -= owns
            if owns:
                yield start, position


def _part(recording: Recording, start: int, end: int, leave: Leave) -> Recording:
    return Recording(
        recording.model,
        [*recording.tape[start : end + 1]],
        forward_signature(leave.module),
        bound_arguments(leave, start),
        recording.state,
        as_walked(leave.result),
        grad=recording.grad,
        node_names=node_names(recording),
        input_values=recording.input_values,
    )
