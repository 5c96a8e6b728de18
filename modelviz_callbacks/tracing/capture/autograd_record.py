"""Reads autograd's graph right after a forward: what a backward pass will do, as plain data.

This runs inside the training step, so it only reads: no tensor is unpacked, recomputed, kept
alive or given a gradient, and nothing is looked up that can wait. What comes out holds text
and numbers only and can go to another process; `modelviz_callbacks.tracing.to_backward_graph`
makes a graph of it there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.tracing.capture.backward_record import (
    BackwardRecord,
    GradSpec,
    SavedSpec,
)
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import TensorRecord
from modelviz_callbacks.tracing.capture.torch_internals import (
    no_torch_function,
    node_readers,
    saved_names,
    saved_value,
    storage_address,
)
from modelviz_callbacks.tracing.capture.value_copies import DroppedValues

# torch gives every node that Python has looked at an object that lives as long as the node, and
# frees a chain of such nodes by recursion: 35,000 of them overflow a stack of 8 MiB (2.13).
MOST_NODES = 20_000
# Other threads than the first may have a sixteenth of its stack.
_MOST_NODES_IN_A_THREAD = 1_000

_LEAF = "torch::autograd::AccumulateGrad"
# The class of nodes that have names of their own.
_OF_ANY_NAME = "CppFunction"
_PLAIN = (torch.nn.Parameter, torch.Tensor)
# How many nodes of a class are asked for hooks on what they keep: it is blocks that have them.
_ASKED_FOR_HOOKS = 3
# The number of what autograd runs as soon as it can.
_LAST = 2**63 - 1
_IS_LOSS = re.compile(r"(\A|\W)loss(_\d+)?\b")


def record_backward(recording: Recording, *, saved: bool = False) -> BackwardRecord | None:
    """Reads the backward pass that a recorded forward has prepared.

    It begins at the loss, where the code recorded calls one of its outputs so, and else at every
    output that gradients flow to. To be called while the outputs are alive; what a backward has
    freed is told without its saved tensors. Of a training step that called ``backward`` itself
    it is what was read then, each time, without saved tensors.

    Args:
        recording: As `Capture.finish` gives it.
        saved: Whether to describe the tensors that are kept for the backward.

    Returns:
        The record; ``None`` if no output takes part in autograd.
    """
    if recording.backward is not None:
        return recording.backward
    roots = []
    for path, record in recording.output_records():
        tensor = record.ref()
        if tensor is not None:
            roots.append((path, tensor))
    inputs = living_inputs(recording.input_records())
    return read_backward(roots, recording.state, inputs, saved=saved)


def living_inputs(inputs: Iterable[tuple[str, TensorRecord]]) -> dict[int, str]:
    """The paths of those input tensors that are alive, by their ``id``; the first of each."""
    found: dict[int, str] = {}
    for path, record in inputs:
        tensor = record.ref()
        if tensor is not None:
            found.setdefault(id(tensor), path)
    return found


def read_backward(
    outputs: Sequence[tuple[str, torch.Tensor]],
    state: StateNames,
    inputs: Mapping[int, str],
    *,
    saved: bool = False,
) -> BackwardRecord | None:
    """As `record_backward`, from given tensors.

    Args:
        outputs: Tensors with their paths.
        state: Names of the parameters and buffers.
        inputs: Paths of the input tensors, by their ``id``; they must be alive.
        saved: Whether to describe the tensors that are kept for the backward.

    Returns:
        The record; ``None`` if no output takes part in autograd, or torch does not tell of it.
    """
    with no_torch_function(), paused_collector():
        found = [(path, tensor, tensor.grad_fn) for path, tensor in outputs]
        roots = [(path, tensor, node) for path, tensor, node in found if node is not None]
        losses = [root for root in roots if _IS_LOSS.search(root[0]) and root[1].numel() == 1]
        if not roots or node_readers(type(roots[0][2]))[1] is None:
            return None
        return _Reader(state, inputs, saved).read(losses or roots)


def most_nodes_here() -> int:
    """How many nodes of autograd this thread may look at, see `MOST_NODES`."""
    is_main = threading.current_thread() is threading.main_thread()
    return MOST_NODES if is_main else _MOST_NODES_IN_A_THREAD


class _Kind(NamedTuple):
    """What is the same for all nodes of a class.

    Attributes:
        name: The number of their name.
        is_leaf: Whether gradients end there.
        sequence: Gives a node's number.
        taken: Gives descriptions of the gradients that a node takes.
    """

    name: int
    is_leaf: bool
    sequence: Callable[[Any], int]
    taken: Callable[[Any], Any]


class _Reader:
    """Walks one graph of autograd, without recursion: it may be very deep."""

    def __init__(self, state: StateNames, inputs: Mapping[int, str], saved: bool) -> None:
        self._state = state
        self._inputs = inputs
        self._saved = saved
        self._repacked = 0
        self._has_hooks = False
        self._names: dict[str, int] = {}
        self._kinds: dict[type[Any], _Kind] = {}
        self._specs: dict[Any, int] = {}  # few
        self._described: list[GradSpec] = []
        self._attributes: dict[type[Any], list[str]] = {}
        self._asked: dict[type[Any], int] = {}
        self._memory: dict[tuple[Any, ...], int] = {}

    def read(self, roots: Sequence[tuple[str, torch.Tensor, Any]]) -> BackwardRecord:
        # Node objects are made when asked for; they are equal only while they are kept.
        order: list[Any] = list(dict.fromkeys(node for _, _, node in roots))
        places: dict[Any, int] = {node: place for place, node in enumerate(order)}
        numbers: list[int] = []
        leaves: list[tuple[str, str]] = []
        saved: dict[int, tuple[SavedSpec, ...]] = {}
        is_cut = False
        most = most_nodes_here()
        kinds, known, specs = self._kinds, places.get, self._specs
        for node in order:
            kind = kinds.get(node.__class__) or self._kind(node)
            if kind.is_leaf:
                leaf, spec = self._leaf(node, kind)
                numbers += (kind.name, _LAST, len(leaves), 0, 1, spec)
                leaves.append(leaf)
                continue
            ways, takes = node.next_functions, kind.taken(node)
            sequence = kind.sequence(node)
            numbers += (kind.name, min(sequence, _LAST), -1, len(ways), len(takes))
            for following, number in ways:
                place = -1 if following is None else known(following)
                if place is None and len(order) >= most:
                    is_cut, place = True, -1
                elif place is None:
                    place = places[following] = len(order)
                    order.append(following)
                numbers += (place, number if following is not None else 0)
            for taken in takes:
                try:
                    numbers.append(specs[(*taken.shape, taken.dtype, taken.device)])
                except (LookupError, RuntimeError, TypeError, AttributeError):
                    numbers.append(self._spec(taken))
            if self._saved or self._asked.get(node.__class__, 0) < _ASKED_FOR_HOOKS:
                kept = self._kept_by(node)
                if self._saved and kept:
                    saved[places[node]] = kept
        starts = tuple((path, places[node], tensor.output_nr) for path, tensor, node in roots)
        return BackwardRecord(
            starts,
            numbers,
            [*self._names],
            self._described,
            leaves,
            saved,
            self._repacked,
            is_cut,
            self._has_hooks or self._repacked > 0,
        )

    def _kind(self, node: Any) -> _Kind:
        """What the nodes of a class have in common."""
        cls, name = type(node), node.name()
        number = self._names.setdefault(name, len(self._names))
        sequence, taken = node_readers(cls)
        assert taken is not None  # nothing is read otherwise
        kind = _Kind(number, name == _LEAF, sequence, taken)
        if cls.__name__ != _OF_ANY_NAME:
            self._kinds[cls] = kind
        return kind

    def _spec(self, tensor: Any) -> int:
        """The number of the description of a tensor, or of what autograd knows of one."""
        try:
            key = (*tensor.shape, tensor.dtype, tensor.device)
            known = self._specs.get(key)
        except (RuntimeError, TypeError, AttributeError):  # none, or a symbol
            return self._add_spec(None, tensor)
        if known is None:
            known = self._specs[key] = self._add_spec(tuple(tensor.shape), tensor)
        return known

    def _add_spec(self, sizes: Any, tensor: Any) -> int:
        self._described.append(_spec(sizes, tensor.dtype, tensor.device))
        return len(self._described) - 1

    def _leaf(self, node: Any, kind: _Kind) -> tuple[tuple[str, str], int]:
        """What a gradient ends at, and the number of its description."""
        variable = node.variable
        is_plain = variable.__class__ in _PLAIN
        spec = self._spec(variable if is_plain else kind.taken(node)[0])  # it may run code if asked
        known = self._state.find(variable)
        if known is not None:
            return (known.kind, known.name), spec
        path = self._inputs.get(id(variable))
        return (("constant", "") if path is None else ("input", path)), spec

    def _kept_by(self, node: Any) -> tuple[SavedSpec, ...]:
        """What a node keeps for its backward; none where that was not asked for.

        Either way it is found out whether hooks have replaced it.
        """
        kind, found = type(node), list[SavedSpec]()
        self._asked[kind] = self._asked.get(kind, 0) + 1
        if kind not in self._attributes:
            self._attributes[kind] = saved_names(kind)
        for name in self._attributes[kind]:
            try:
                kept = saved_value(node, name)
            except RuntimeError:
                break  # a backward has freed them
            several = isinstance(kept, (tuple, list))
            for number, one in enumerate(kept if several else [kept]):
                # With hooks of somebody's, only running these could tell what was saved.
                hook = getattr(one, "unpack_hook", None)
                if hook is not None and not isinstance(hook, DroppedValues):
                    self._has_hooks = True
                    self._repacked += self._saved
                    continue
                tensor = getattr(one, "data", None) if self._saved else None
                if isinstance(tensor, torch.Tensor):
                    part = f"{name}[{number}]" if several else name
                    found.append(self._saved_tensor(part, tensor))
        return tuple(found)

    def _saved_tensor(self, name: str, tensor: torch.Tensor) -> SavedSpec:
        known = self._state.find(tensor)
        try:
            key: tuple[Any, ...] = (
                storage_address(tensor),
                tensor.storage_offset(),
                tensor.shape,
                tensor.stride(),
            )
        except (RuntimeError, NotImplementedError):
            key = (len(self._memory),)  # without strides there is nothing to compare
        memory = self._memory.setdefault(key, len(self._memory))
        return SavedSpec(
            name, self._described[self._spec(tensor)], memory, known.name if known else ""
        )


def _spec(sizes: Any, dtype: torch.dtype, device: torch.device) -> GradSpec:
    try:
        shape = None if sizes is None else tuple([int(size) for size in sizes])
    except (RuntimeError, TypeError, AttributeError):  # a symbol, a size of a nested tensor
        shape = None
    return GradSpec(shape, str(dtype).removeprefix("torch."), str(device))
