"""What a finished capture hands on: the tape, and what went in and came out."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from modelviz_callbacks.tracing.capture.autograd_record import BackwardRecord

from modelviz_callbacks.tracing.capture.pytree import (
    Branch,
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
    Slot,
    as_entry,
    flat_slots,
)


@dataclass
class Recording:
    """One recorded stretch of code.

    Attributes:
        model: The model recorded; its parameters and buffers give their names.
        raw_tape: The tape as it was recorded; see ``modelviz_callbacks.tracing.capture.tape``.
        signature: Of the code recorded (the model's forward, or the training step).
        inputs: Its arguments by name, walked: tensors replaced by slots.
        state: The names of the model's parameters and buffers.
        result: What it returned, walked likewise; ``None`` if it ended early.
        error: The exception that ended it early, as text; ``""`` if it ended well.
        is_step: Whether a whole training step was recorded, not just the model's forward.
        grad: Whether gradients were enabled when it began.
        losses: What ``backward`` was called on in it.
        node_names: What the graph calls the node of a tape entry, by the entry's ``id``.
        remarks: What happened while recording that a person should know.
        backward: What autograd knew right after it, if somebody looked.
        seconds: How long the code recorded ran.
        input_values: Copies of input tensors on the CPU by their first slots, if they were kept;
            they stay in this process.
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
    losses: list[Slot] = field(default_factory=list)
    node_names: dict[int, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    backward: BackwardRecord | None = None
    seconds: float = 0.0
    input_values: dict[Slot, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def tape(self) -> list[Entry]:
        """The entries of the tape, with names for their fields."""
        return [as_entry(raw) for raw in self.raw_tape]

    def __getstate__(self) -> dict[str, Any]:
        # The names of the nodes belong to entries by their address; `tape` is made from the raw.
        return {**vars(self), "node_names": {}, "input_values": {}, "tape": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        del self.tape

    def input_slots(self) -> list[tuple[str, Slot]]:
        """The tensors handed in, each with its path, the first name of each only."""
        found: dict[Slot, str] = {}
        for path, slot in paths_of_arguments(self.inputs):
            found.setdefault(slot, path)
        return [(path, slot) for slot, path in found.items()]

    def output_slots(self) -> list[tuple[str, Slot]]:
        """The tensors returned, each with its path (``output``, ``out.logits``).

        A training step of manual optimisation returns nothing: what it called ``backward`` on
        are its outputs then, ``loss``, ``loss_1``, ...
        """
        found = named_leaves(self.result)
        if found or not self.is_step:
            return found
        return named_losses(self.losses)

    def tensors_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors among other arguments, in the order of `input_slots`.

        A tensor that stood in two places when recorded is taken from the first of them.
        """
        given = paths_of_arguments(named_inputs(self.signature, args, kwargs, lambda t: t))
        recorded = [slot for _, slot in paths_of_arguments(self.inputs)]
        if len(given) != len(recorded):
            return [tensor for _, tensor in given]
        first: dict[Slot, torch.Tensor] = {}
        for slot, (_, tensor) in zip(recorded, given, strict=True):
            first.setdefault(slot, tensor)
        return list(first.values())

    def arguments_from(
        self, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The recorded arguments with other tensors in them, in the order of `input_slots`."""
        given = dict(zip((slot for _, slot in self.input_slots()), tensors, strict=True))
        values = {name: rebuild(walked, given.get) for name, walked in self.inputs.items()}
        parameters = self.signature.parameters
        extra = {name: values.pop(name) for name in list(values) if name not in parameters}
        for parameter in parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                values[parameter.name] = extra
        bound = inspect.BoundArguments(self.signature, OrderedDict(values))
        return bound.args, bound.kwargs

    def result_from(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        """The recorded result with other tensors in it, in the order of `output_slots`."""
        waiting = iter(tensors)
        return rebuild(self.result, lambda _: next(waiting))

    def needed(self, births: bool = True) -> list[bool]:
        """Which entries of the tape belong to the model.

        A training framework's own bookkeeping (logging) is recorded like anything else, but
        belongs only where the model's results depend on it.

        Args:
            births: Whether the making of lazy modules' parameters belongs to it, too: a replay
                needs it, a picture does not.

        Returns:
            One flag for each entry; module calls are always needed.
        """
        wanted = {slot for _, slot in self.output_slots()}
        only_for_births: set[Slot] = set()
        keep = [True] * len(self.tape)
        for index in range(len(self.tape) - 1, -1, -1):
            entry = self.tape[index]
            if not isinstance(entry, OpEntry):
                continue
            made = {*flat_slots(entry.result), *entry.writes}
            keep[index] = not entry.plumbing or not made.isdisjoint(wanted)
            others = made.difference(entry.writes)
            is_for_births = not births and others.isdisjoint(wanted)
            if is_for_births and _serves_birth(entry, made, only_for_births):
                keep[index] = False
                only_for_births.update(argument_slots(entry))
            if keep[index]:
                wanted.update(argument_slots(entry))
        return keep


def _serves_birth(entry: OpEntry, made: set[Slot], only_for_births: set[Slot]) -> bool:
    """Whether a call only brings lazy parameters to life, or looks at them before they live."""
    if entry.writes:
        return all(slot.began_lazy for slot in entry.writes)
    looks = any(slot.began_lazy for slot in argument_slots(entry))
    return looks or not made.isdisjoint(only_for_births)


def argument_slots(entry: OpEntry) -> list[Slot]:
    """The tensors among an op's arguments, in order."""
    return [*flat_slots(entry.args), *flat_slots(entry.kwargs)]


def named_leaves(result: Any) -> list[tuple[str, Any]]:
    """What stands for tensors in a walked result: ``output``, or ``out`` and a path."""
    return list(leaves(result, "out" if isinstance(result, Branch) else "output"))


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
        As `named_inputs`, with slots for the tensors.
    """
    bound = _bind(forward_signature(entry.module), entry.args, entry.kwargs)

    def then(slot: Slot) -> Slot:
        while slot.previous is not None and slot.birth > position:
            slot = slot.previous
        return slot

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


def named_losses(losses: list[Slot]) -> list[tuple[str, Slot]]:
    """What ``backward`` was called on, each once: ``loss``, ``loss_1``, ..."""
    slots = dict.fromkeys(losses)
    return [(f"loss_{n}" if n else "loss", slot) for n, slot in enumerate(slots)]


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
