"""What a finished capture hands on: the tape, and what went in and came out."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch

from modelviz_callbacks.tracing.capture.backward_record import BackwardRecord
from modelviz_callbacks.tracing.capture.pytree import (
    TreeSpec,
    as_walked,
    leaves,
    map_leaves,
    rebuild,
    walk,
)
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import (
    Entry,
    Leave,
    OpEntry,
    RawEntry,
    TensorRecord,
    ToldSize,
    as_entry,
    flat_records,
)


@dataclass(eq=False)
class Recording:
    """One recorded stretch of code.

    Attributes:
        model: The model recorded; its parameters and buffers give their names.
        raw_tape: The tape as it was recorded; see ``modelviz_callbacks.tracing.capture.tape``.
        signature: Of the code recorded (the model's forward, or the training step).
        inputs: Its arguments by name, walked: tensors replaced by records.
        state: The names of the model's parameters and buffers.
        result: What it returned, walked likewise; ``None`` if it ended early.
        error: The exception that ended it early, as text; ``""`` if it ended well.
        is_step: Whether a whole training step was recorded, not just the model's forward.
        grad: Whether gradients were enabled when it began.
        losses: What ``backward`` was called on in it.
        node_names: Of a part of a recording: what the graph of the whole calls the node of a
            tape entry, by the entry's ``id``. ``None``: this is a whole one.
        remarks: What happened while recording that a person should know.
        backward: What autograd knew right after it, if somebody looked.
        seconds: How long the code recorded ran.
        input_values: Copies of input tensors on the CPU by their first slots, if they were kept;
            they stay in this process.
        died: Tells of a record after which entry of the tape its tensor was gone, ``None`` of what
            outlived the recording. ``None`` in its place: nobody has looked.
        lazy: Where in the result something computes later, which is not recorded.
        sizes_told: The sizes that Python has asked for; they stay in this process.
        fault: What kept the recorder from seeing all of it, as a sentence; ``""``: nothing.
    """

    model: torch.nn.Module
    raw_tape: list[RawEntry]
    signature: inspect.Signature
    inputs: dict[str, Any]
    state: StateNames
    result: Any = None
    error: str = ""
    is_step: bool = False
    grad: bool = True
    losses: list[TensorRecord] = field(default_factory=list)
    node_names: Mapping[int, str] | None = None
    remarks: list[str] = field(default_factory=list)
    backward: BackwardRecord | None = None
    seconds: float = 0.0
    input_values: dict[TensorRecord, torch.Tensor] = field(default_factory=dict)
    fault: str = ""
    lazy: list[str] = field(default_factory=list)
    died: Callable[[TensorRecord], int | None] | None = None
    sizes_told: Collection[ToldSize] = ()

    @property
    def is_partial(self) -> bool:
        """Whether some of the code recorded did not run, or was not seen."""
        return bool(self.error or self.fault)

    @cached_property
    def tape(self) -> list[Entry]:
        """The entries of the tape, with names for their fields."""
        return [as_entry(raw) for raw in self.raw_tape]

    def input_records(self) -> list[tuple[str, TensorRecord]]:
        """The tensors handed in, each with its path, the first name of each only."""
        found: dict[TensorRecord, str] = {}
        for path, record in paths_of_arguments(self.inputs):
            found.setdefault(record, path)
        return _with_unique_paths([(path, record) for record, path in found.items()])

    def output_records(self) -> list[tuple[str, TensorRecord]]:
        """The tensors returned, each with its path (``output``, ``out.logits``).

        A training step that calls ``backward`` itself may return nothing, or predictions only: what
        it called that on are its outputs then, too, ``loss``, ``loss_1``, ...
        """
        found = named_leaves(self.result)
        if self.is_step and not any(_may_be_loss(record) for _, record in found):
            found = [*found, *named_losses(self.losses)]
        return _with_unique_paths(found)

    def tensors_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors among other arguments, in the order of `input_records`.

        A tensor that stood in two places when recorded is taken from the first of them.
        """
        given = paths_of_arguments(named_inputs(self.signature, args, kwargs, lambda t: t))
        recorded = paths_of_arguments(self.inputs)
        if len(given) != len(recorded):
            return [tensor for _, tensor in given]
        by_path = dict(given)
        if by_path.keys() == {path for path, _ in recorded}:  # a dictionary may have another order
            given = [(path, by_path[path]) for path, _ in recorded]
        first: dict[TensorRecord, torch.Tensor] = {}
        for (_, record), (_, tensor) in zip(recorded, given, strict=True):
            first.setdefault(record, tensor)
        return list(first.values())

    def arguments_from(
        self, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The recorded arguments with other tensors in them, in the order of `input_records`."""
        given = dict(zip((record for _, record in self.input_records()), tensors, strict=True))
        values = {name: rebuild(walked, given.get) for name, walked in self.inputs.items()}
        parameters = self.signature.parameters
        extra = {name: values.pop(name) for name in list(values) if name not in parameters}
        for parameter in parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                values[parameter.name] = extra
        bound = inspect.BoundArguments(self.signature, OrderedDict(values))
        return bound.args, bound.kwargs

    def result_from(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        """The recorded result with other tensors in it, in the order of `output_records`."""
        waiting = iter(tensors)
        return rebuild(self.result, lambda _: next(waiting))

    def needed(self, lazy_creation: bool = True) -> list[bool]:
        """Which entries of the tape belong to the model.

        A training framework's own bookkeeping (logging) is recorded like anything else, but
        belongs only where the model's results depend on it.

        Args:
            lazy_creation: Whether the making of lazy modules' parameters, and the moving of
                offloaded weights, belongs to it, too: a replay needs it, a picture does not.

        Returns:
            One flag for each entry; module calls are always needed.
        """
        # What made an input ran before the model: an earlier call of a step may be recorded, too.
        handed_in = {record for _, record in paths_of_arguments(self.inputs)}
        wanted = {record for _, record in self.output_records()} - handed_in
        only_for_creation: set[TensorRecord] = set()
        keep = [True] * len(self.tape)
        for index in range(len(self.tape) - 1, -1, -1):
            entry = self.tape[index]
            if not isinstance(entry, OpEntry):
                continue
            made = {*flat_records(entry.result), *entry.writes}
            keep[index] = not entry.plumbing or not made.isdisjoint(wanted)
            others = made.difference(entry.writes)
            is_for_creation = not lazy_creation and others.isdisjoint(wanted)
            if is_for_creation and _serves_creation(entry, made, only_for_creation):
                keep[index] = False
                only_for_creation.update(argument_records(entry))
            if keep[index]:
                given = argument_records(entry)
                wanted.update(record for record in given if record not in handed_in)
                for record in given:  # what brought an offloaded weight
                    if record.was_fetched and record.origin is not None:
                        only_for_creation.update(record.origin.sources)
        return keep


def _serves_creation(
    entry: OpEntry, made: set[TensorRecord], only_for_creation: set[TensorRecord]
) -> bool:
    """Whether a call only brings lazy parameters to life, or looks at them before they live.

    Or it fetches offloaded weights, or takes them back.
    """
    if entry.writes:
        return all(record.began_lazy for record in entry.writes)
    given = argument_records(entry)
    looks = any(record.began_lazy for record in given)
    if made and all(record.device.type == "meta" for record in made):
        looks = looks or any(record.was_fetched for record in given)
    return looks or not made.isdisjoint(only_for_creation)


def argument_records(entry: OpEntry) -> list[TensorRecord]:
    """The tensors among an op's arguments, in order."""
    return [*flat_records(entry.args), *flat_records(entry.kwargs)]


def _with_unique_paths(
    found: list[tuple[str, TensorRecord]],
) -> list[tuple[str, TensorRecord]]:
    """The same with ``_1``, ``_2``, ... behind a path that was there before."""
    taken: set[str] = {path for path, _ in found}
    if len(taken) == len(found):
        return found
    used: set[str] = set()
    unique = []
    for path, record in found:
        name, number = path, 0
        while name in used or (number and name in taken):
            number += 1
            name = f"{path}_{number}"
        used.add(name)
        unique.append((name, record))
    return unique


def named_leaves(result: Any) -> list[tuple[str, Any]]:
    """What stands for tensors in a walked result: ``output``, or ``out`` and a path."""
    return list(leaves(result, "out" if isinstance(result, TreeSpec) else "output"))


def paths_of_arguments(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    """What stands for tensors among named, walked arguments, each with its path."""
    return [leaf for name, value in arguments.items() for leaf in leaves(value, name)]


def named_inputs(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    replace: Callable[[torch.Tensor], Any],
) -> dict[str, Any]:
    """The arguments of a call by the names its signature gives them, walked.

    Args:
        signature: Of the function called, without ``self``.
        args: Positional arguments of the call.
        kwargs: Its keyword arguments.
        replace: Called with each tensor.

    Returns:
        Walked values by name, in the order of the signature. Extra keyword arguments stand
        under their own names; arguments that do not fit the signature as ``args[0]``, ...
    """
    bound = _bind(signature, args, kwargs)
    return {name: walk(value, replace) for name, value in bound.items()}


def bound_arguments(entry: Leave, position: int) -> dict[str, Any]:
    """The arguments of a module call by name, walked, as they were when it began.

    Args:
        entry: The end of the call, where the recorder takes its arguments.
        position: Where on the tape it began.

    Returns:
        As `named_inputs`, with records for the tensors.
    """
    bound = _bind(forward_signature(entry.module), entry.args, entry.kwargs)

    def then(record: TensorRecord) -> TensorRecord:
        while record.previous is not None and record.created_at > position:
            record = record.previous
        return record

    return {name: map_leaves(as_walked(value), then) for name, value in bound.items()}


def _bind(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    if len(args) == len(signature.parameters) == 1 and not kwargs:
        ((name, only),) = signature.parameters.items()
        if only.kind is only.POSITIONAL_OR_KEYWORD:
            return {name: args[0]}  # most modules, and much quicker than to bind
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return {"args": args, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.items():
        parameter = signature.parameters.get(name)
        if parameter is not None and parameter.kind is parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


# Signatures of the forwards of classes: modules of one class are many.
_SIGNATURES: WeakKeyDictionary[type[torch.nn.Module], inspect.Signature] = WeakKeyDictionary()


def _takes_anything(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError


def named_losses(losses: list[TensorRecord]) -> list[tuple[str, TensorRecord]]:
    """What ``backward`` was called on, each once: ``loss``, ``loss_1``, ..."""
    records = dict.fromkeys(losses)
    return [(f"loss_{n}" if n else "loss", record) for n, record in enumerate(records)]


def _may_be_loss(record: TensorRecord) -> bool:
    """Whether a tensor is a single number, as a loss is."""
    return record.dtype.is_floating_point and record.shape in ((), (1,))


def forward_signature(module: torch.nn.Module) -> inspect.Signature:
    """The signature of a module's forward; ``(*args, **kwargs)`` where it has none to tell."""
    if "forward" in vars(module):
        return _signature_of(module.forward)
    cls = type(module)
    known = _SIGNATURES.get(cls)
    if known is None:
        known = _SIGNATURES[cls] = _signature_of(module.forward)
    return known


def _signature_of(forward: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(forward)
    except (TypeError, ValueError):
        return inspect.signature(_takes_anything)
