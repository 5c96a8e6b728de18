"""Floating point operations of the recorded ops: of all that multiplies matrices or the like.

Each call is made once more on meta tensors of the recorded shapes, under torch's
``FlopCounterMode``: no memory, no arithmetic, and outside the training step. What cannot be made
so has a formula in `flop_formulas`. Calls of the same function on the same shapes are counted once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.op_facts import OpFact
from modelviz_callbacks.tracing.capture.functorch_levels import (
    Layer,
    add_batch_dim,
    remove_batch_dim,
)
from modelviz_callbacks.tracing.capture.pytree import Leaf, TreeSpec
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import OpEntry, TensorRecord, flat_records
from modelviz_callbacks.tracing.capture.torch_internals import OpOverload, OpOverloadPacket
from modelviz_callbacks.tracing.lowering.flop_formulas import (
    ATEN_FORMULAS,
    FORMULAS,
    LIBRARY_FORMULAS,
    has_sparse,
    sparse_product,
)
from modelviz_callbacks.tracing.lowering.to_graph import node_names
from modelviz_callbacks.tracing.op_facts import facts_of, op_of, torch_name


def with_flops(graph: ModelGraph, recording: Recording) -> ModelGraph:
    """The graph with the floating point operations of each op filled in.

    Args:
        graph: As lowered from ``recording``.
        recording: Where the calls are.

    Returns:
        The same graph; ``flops`` is ``None`` where nothing is multiplied, and where no formula is
        known of what is (see `modelviz_callbacks.analysis.costs.is_uncounted`).
    """
    counter = _Counter()
    batches = _Batches()
    flops: dict[str, int] = {}
    names = node_names(recording)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for entry in recording.tape:
            if not isinstance(entry, OpEntry):
                continue
            times = batches.of(entry)
            # Others are not made again: nothing is multiplied, or nobody knows what they do.
            counted = OpFact.COUNTED in facts_of(entry.func) or _library_formula(entry.func)
            name = names.get(id(entry)) if counted else None
            count = counter.count(entry) if name is not None else None
            if name is not None and count is not None:
                flops[name] = count * times
    nodes = tuple(
        dataclasses.replace(node, flops=flops[node.name]) if node.name in flops else node
        for node in graph.nodes
    )
    return dataclasses.replace(graph, nodes=nodes)


class _Batches:
    """How often an op is made below ``vmap``, which hides a dimension of its tensors."""

    def __init__(self) -> None:
        self._hidden: dict[TensorRecord, frozenset[Layer]] = {}

    def of(self, entry: OpEntry) -> int:
        """The product of the dimensions hidden from this call; calls come in their order."""
        hides = entry.func is add_batch_dim
        if not self._hidden and not hides:
            return 1
        given = (*flat_records(entry.args), *flat_records(entry.kwargs or {}))
        layers = frozenset().union(*[self._hidden.get(record, frozenset()) for record in given])
        named = [value for value in entry.args if isinstance(value, Layer)]
        if hides:
            layers = layers.union(named)
        elif entry.func is remove_batch_dim:
            layers = layers.difference(named)
        if layers:
            for record in (*flat_records(entry.result), *entry.writes):
                self._hidden[record] = layers
        return math.prod(layer.batch_size for layer in layers if layer.kind == "vmap")


def _library_formula(func: Any) -> Callable[[OpEntry], int | None] | None:
    """The formula of an op of one of torch's libraries beside ATen."""
    if not isinstance(func, (OpOverload, OpOverloadPacket)):
        return None
    return LIBRARY_FORMULAS.get(op_of(func))


class _Counter:
    """Counts calls, remembering those of the same shapes."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int | None] = {}

    def count(self, entry: OpEntry) -> int | None:
        """Floating point operations of one call; ``None`` if no formula is known."""
        key = (
            entry.func,
            call_key(entry.args, _shape_of),
            call_key(entry.kwargs or {}, _shape_of),
        )
        if key not in self._known:
            try:
                self._known[key] = _count(entry)
            except Exception:  # not every kernel has a meta version, nor every call its formula
                self._known[key] = None
        return self._known[key]


def _count(entry: OpEntry) -> int | None:
    name = torch_name(entry.func)
    formula = _library_formula(entry.func) or FORMULAS.get(name)
    if formula is not None:
        count = formula(entry)
        if count is not None or formula is not FORMULAS.get(name):
            return count
    elif has_sparse(entry):
        return sparse_product(name, entry)
    args = [filled(value, _meta) for value in entry.args]
    given = (entry.kwargs or {}).items()
    kwargs = {name: filled(value, _meta) for name, value in given if name != "out"}
    with FlopCounterMode(display=False, custom_mapping=ATEN_FORMULAS) as counter:
        entry.func(*args, **kwargs)
    return int(counter.get_total_flops()) * _real_products(entry)


def _real_products(entry: OpEntry) -> int:
    """How many real products one of its own is; a convolution comes down to real ones."""
    given = (*flat_records(entry.args), *flat_records(entry.kwargs or {}))
    is_complex = any(record.dtype.is_complex for record in given)
    return 4 if is_complex and OpFact.CHANNELS not in facts_of(entry.func) else 1


def filled(value: Any, make: Callable[[TensorRecord], torch.Tensor]) -> Any:
    """A recorded argument with tensors in place of the records.

    Args:
        value: Any argument of an entry of the tape.
        make: Gives the tensor for a record.

    Raises:
        ValueError: There is no such tensor.
    """
    if isinstance(value, TensorRecord):
        return make(value)
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)([filled(item, make) for item in value])
    if isinstance(value, dict):
        return {key: filled(item, make) for key, item in value.items()}
    if isinstance(value, Leaf):
        return value.value
    if isinstance(value, TreeSpec):
        return value.rebuild(lambda item: filled(item, make))
    return value


def call_key(value: Any, describe: Callable[[TensorRecord], Hashable]) -> Hashable:
    """What is equal for arguments that are alike.

    Args:
        value: Any argument of an entry of the tape.
        describe: What of a tensor must be equal.
    """
    if isinstance(value, TensorRecord):
        return ("tensor", describe(value))
    if isinstance(value, (tuple, list)):
        return tuple([call_key(item, describe) for item in value])
    if isinstance(value, dict):
        return tuple([(key, call_key(item, describe)) for key, item in value.items()])
    if isinstance(value, TreeSpec):
        return call_key(value.children, describe)
    if isinstance(value, slice):  # has no hash before Python 3.12
        return (slice, call_key((value.start, value.stop, value.step), describe))
    return (type(value), value) if isinstance(value, Hashable) else id(value)


def _meta(record: TensorRecord) -> torch.Tensor:
    if record.sizes is None:
        raise ValueError("a tensor without a shape")  # nested or jagged
    return torch.empty(record.sizes, dtype=record.dtype, device="meta")


def _shape_of(record: TensorRecord) -> Hashable:
    return (record.sizes, record.dtype, record.layout, record.stored)
