"""Runs a program op by op and notes where numbers that are not finite come up and go.

Each op is one event, with what it gave and from which events what it was given comes; a tensor
that was written to meanwhile comes from who wrote it. What an op made can be mended, so that a
second run shows whether the loss depends on it. Nothing of the user's is written to.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from modelviz_callbacks.tracing.capture.functorch_levels import enter_layer, layers_left
from modelviz_callbacks.tracing.capture.torch_internals import (
    AUTOCAST_DEVICES,
    set_grad_enabled,
    version_of,
)
from modelviz_callbacks.tracing.lowering.to_program import FACTS, Program
from modelviz_callbacks.tracing.nonfinite.finiteness import (
    Seen,
    bad_elements,
    is_mask,
    look,
    range_of,
)
from modelviz_callbacks.tracing.nonfinite.found import TensorRange

# Calls that need autograd: where a program has one, gradients are switched as they were.
_NEEDS_GRADIENTS = {"grad", "backward", "requires_grad_", "vjp", "jvp", "jacobian", "hessian"}

# What works element by element, with shapes that are made alike.
_NAMES = """
abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bfloat16 clamp cos cosh digamma div
divide double erf erfc erfinv exp exp2 expm1 float float_power gelu half hypot lerp lgamma log log10
log1p log2 logit maximum minimum mul neg pow radd reciprocal relu rmul rpow rsqrt rsub rtruediv
sigmoid silu sin sinh softplus sqrt square sub tan tanh true_divide truediv xlogy
"""
_BY_ELEMENT = frozenset(_NAMES.split())

# The parameters of the norms that keep running statistics.
_OF_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training")

# Where the function is told in a node's stack trace.
_PLACE = re.compile(r", line \d+, in (.+)")

# Where what an op gave is to be mended: for each tensor that it gave or wrote to.
Masks = Sequence[torch.Tensor | None]


@dataclass
class Event:
    """One node of the program that ran.

    Attributes:
        node: The node.
        gave: What is known of all that it gave or wrote to.
        given: What is known of each tensor it was given, with the event that it is from.
        is_meant: Whether it has infinite numbers only because somebody put them there: they are
            an argument of a call, as of a mask's, or a buffer.
        own: Where what it gave is not finite by itself, one mask for each tensor: not because of
            what it was given; ``None`` for a tensor without any.
        made: What it gave, if it was to be told.
        inputs: What it was given, likewise.
    """

    node: fx.Node
    gave: Seen = field(default_factory=Seen)
    given: list[tuple[Seen, Event]] = field(default_factory=list)
    is_meant: bool = False
    own: list[torch.Tensor | None] = field(default_factory=list)
    made: TensorRange | None = None
    inputs: tuple[TensorRange, ...] = ()

    @property
    def bad(self) -> list[Event]:
        """Where those of its inputs come from that are not finite."""
        return [event for seen, event in self.given if seen.is_bad]

    @property
    def is_first(self) -> bool:
        """Whether it made numbers that are not finite of finite ones, or of meant ones."""
        return any(one is not None for one in self.own)

    @property
    def unknown(self) -> list[Event]:
        """Where those of its inputs come from that could not be looked at."""
        return [event for seen, event in self.given if not seen.is_known]


class WatchedReplay(fx.Interpreter):
    """One run of a program.

    Attributes:
        events: What ran, by node, in order.
        outputs: What the program gave.
        ends: Of each of these, what is known of it and the event that it is from.
    """

    def __init__(
        self,
        program: Program,
        mended: Mapping[fx.Node, Masks | None],
        fill: float = 1,
        told: Collection[fx.Node] = (),
    ) -> None:
        """Nothing runs yet.

        Args:
            program: A recorded stretch.
            mended: In what these nodes give, ``fill`` takes the place of what is not finite by
                themselves, as far as that is known; of what has masks, of these elements.
            fill: A finite number.
            told: Of these nodes the events have ranges.
        """
        super().__init__(program.module)
        self._program = program
        self._mended = mended
        self._fill = fill
        self._told = set(told)
        self.extra_traceback = False
        self.events: dict[fx.Node, Event] = {}
        self.outputs: tuple[torch.Tensor, ...] = ()
        self.ends: list[tuple[Seen, Event]] = []
        self._writers: dict[int, Event] = {}
        # What was seen of a tensor, with its version then and who had written to its memory last:
        # what writes through ``.data`` counts no version.
        self._looked: dict[fx.Node, dict[int, tuple[int, Event | None, Seen]]] = {}
        self._paths: dict[fx.Node, str] = dict(
            zip(program.module.graph.find_nodes(op="placeholder"), program.inputs, strict=True)
        )
        self._needs_gradients = any(map(_needs_gradients, program.module.graph.nodes))

    def run_on(self, tensors: Sequence[torch.Tensor]) -> None:
        """Runs it on copies of some tensors.

        Args:
            tensors: One for each of the program's inputs.

        Raises:
            Exception: What an op raises.
        """
        copies = [
            one.detach().clone().requires_grad_(one.requires_grad and self._needs_gradients)
            for one in tensors
        ]
        before = torch.is_grad_enabled()
        with layers_left(), no_autocast():
            try:
                set_grad_enabled(self._needs_gradients)
                self.outputs = self.run(*copies, enable_io_processing=False)
            finally:
                set_grad_enabled(before)

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node and notes what it was given and gave."""
        if n.target is set_grad_enabled and not self._needs_gradients:
            return None
        if n.op == "output":
            for node in n.args[0]:  # type: ignore[union-attr]
                tensor = self.env[node]  # type: ignore[index]
                self.ends.append((self._look(node, tensor), self._source(node, tensor)))  # type: ignore[arg-type]
            return super().run_node(n)
        event = self.events[n] = Event(n)
        given = [(node, one) for node in n.all_input_nodes for one in _tensors(self.env[node])]
        unread = _unread(n)
        for node, tensor in given:
            if node not in unread:
                event.given.append((self._look(node, tensor), self._source(node, tensor)))
        if n in self._told:  # before it may write to what it is given
            event.inputs = tuple(
                range_of(self.name_of(node), one) for node, one in given if node not in unread
            )
        before = [_version(tensor) for _, tensor in given]
        result = super().run_node(n)
        written = [one for (_, one), old in zip(given, before, strict=True) if _version(one) != old]
        self._note_writes(event, _tensors(result), written, [one for _, one in given])
        gave = [*_tensors(result), *written]
        for tensor in gave:
            event.gave |= self._look(n, tensor)
        event.is_meant = event.gave.is_bad and _is_meant(event, gave)
        if n in self._told and gave:
            worst = next((one for one in gave if look(one).is_bad), gave[0])
            event.made = range_of(self.name_of(n), worst)
        if event.gave.is_bad:
            event.own = _own(event, gave, written, [one for _, one in given])
        masks = self._mended.get(n, ())
        masks = event.own if masks is None else masks
        if any(one is not None for one in masks):
            result = self._mend(event, gave, written, result, masks)
        return result

    def _note_writes(
        self,
        event: Event,
        made: list[torch.Tensor],
        written: list[torch.Tensor],
        given: list[torch.Tensor],
    ) -> None:
        """Notes who wrote to a memory last, and forgets it where the memory is a new one."""
        known = {_memory(one) for one in given}
        for tensor in made:
            if _memory(tensor) not in known:
                self._writers.pop(_memory(tensor), None)
        for tensor in written:
            self._writers[_memory(tensor)] = event

    # --- what is known of a tensor

    def _source(self, node: fx.Node, tensor: torch.Tensor) -> Event:
        """The event that a tensor has its numbers from: who made it, or wrote to it since."""
        writer = self._writers.get(_memory(tensor))
        return self.events[node] if writer is None else writer

    def _look(self, node: fx.Node, tensor: torch.Tensor) -> Seen:
        version, writer = _version(tensor), self._writers.get(_memory(tensor))
        known = self._looked.setdefault(node, {}).get(id(tensor))
        if known is not None and known[0] == version and known[1] is writer:
            return known[2]
        found = look(tensor)
        self._looked[node][id(tensor)] = version, writer, found
        return found

    def name_of(self, node: fx.Node) -> str:
        """What a person knows a node by."""
        if node.op == "placeholder":
            return self._paths[node]
        if node.op == "get_attr":
            target = str(node.target)
            return self._program.state.get(target, target)
        facts: Mapping[str, str] = node.meta.get("custom", {}).get(FACTS, {})
        if not facts and node.all_input_nodes:  # a part of what another one gave
            return self.name_of(node.all_input_nodes[0])
        return facts.get("name") or str(node.name)

    # --- mending

    def _mend(
        self,
        event: Event,
        gave: list[torch.Tensor],
        written: list[torch.Tensor],
        result: Any,
        masks: Masks,
    ) -> Any:
        """What to give instead of a result; what was written to is mended where it is."""
        mended: dict[int, torch.Tensor] = {}
        for tensor, mask in zip(gave, masks, strict=True):
            if mask is None:
                continue
            whole = torch.where(mask, torch.full_like(tensor, self._fill), tensor)
            if any(tensor is one for one in written):
                with torch.no_grad():
                    tensor.copy_(whole)
            else:
                mended[id(tensor)] = whole
        event.gave = Seen()
        for tensor in gave:
            event.gave |= self._look(event.node, mended.get(id(tensor), tensor))
        if isinstance(result, torch.Tensor):
            return mended.get(id(result), result)
        return fx.node.map_aggregate(
            result, lambda one: mended.get(id(one), one) if isinstance(one, torch.Tensor) else one
        )


def place_in(node: fx.Node) -> str:
    """The function that a node's op was called in; ``""``: not known."""
    place = _PLACE.search(node.meta.get("stack_trace", ""))
    return place[1] if place else ""


def _unread(node: fx.Node) -> list[Any]:
    """What a norm of the batch's own statistics is given only to be changed."""
    if getattr(node.target, "__name__", "") not in ("batch_norm", "instance_norm"):
        return []
    named = dict(zip(_OF_NORM, node.args, strict=False)) | node.kwargs
    uses_batch = named.get("training", named.get("use_input_stats"))
    return [named.get("running_mean"), named.get("running_var")] if uses_batch is True else []


def _needs_gradients(node: fx.Node) -> bool:
    """Whether a call of a program needs autograd, or is under a transform that does."""
    if node.op not in ("call_function", "call_method"):
        return False
    return (
        node.target is enter_layer
        or getattr(node.target, "__name__", node.target) in _NEEDS_GRADIENTS
    )


def _is_meant(event: Event, gave: list[torch.Tensor]) -> bool:
    """Whether what is infinite is so because somebody put it there; see `Event`."""
    node, bad = event.node, event.bad
    if event.gave.nan or not all(one.is_meant for one in bad):
        return False
    if node.op in ("placeholder", "get_attr"):
        return all(is_mask(one, may_have_bias=node.op == "get_attr") for one in gave)
    return bool(bad) or _has_infinite(node.args, node.kwargs)


def _own(
    event: Event, gave: list[torch.Tensor], written: list[torch.Tensor], given: list[torch.Tensor]
) -> list[torch.Tensor | None]:
    """Which elements of what an op gave are not finite by itself; see `Event.own`."""
    if all(one.is_meant for one in event.bad):
        return [bad_elements(one) for one in gave]
    is_by_element = not written and len(gave) == 1 and _is_by_element(event.node)
    whole = bad_elements(gave[0]) if is_by_element else None
    if whole is None:
        return [None] * len(gave)
    for tensor in given:
        bad = bad_elements(tensor)
        if bad is not None:
            try:
                whole = whole & ~bad.expand(whole.shape)
            except RuntimeError:  # of another shape: not by element after all
                return [None]
    return [whole if bool(whole.any()) else None]


def _is_by_element(node: fx.Node) -> bool:
    """Whether each element that an op gives depends on the elements at its own place only."""
    name = getattr(node.target, "__name__", str(node.target))
    return name.strip("_") in _BY_ELEMENT


def _has_infinite(*arguments: Any) -> bool:
    """Whether an infinite number is written in the arguments of a call."""
    found: list[bool] = []

    def ask(value: Any) -> Any:
        found.append(isinstance(value, float) and math.isinf(value))
        return value

    fx.node.map_aggregate(arguments, ask)
    return any(found)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [one for part in value for one in _tensors(part)]
    if isinstance(value, dict):
        return [one for part in value.values() for one in _tensors(part)]
    return []


def _version(tensor: torch.Tensor) -> int:
    try:
        return version_of(tensor)
    except RuntimeError:  # made in inference mode
        return -1


def _memory(tensor: torch.Tensor) -> int:
    """What tensors have in common that are views of one memory."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):
        return id(tensor)


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """Switches autocast off; a program switches it where it was on."""
    with contextlib.ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
