"""Floating point operations of the recorded ops, by torch's own formulas.

Each call is made once more on meta tensors of the recorded shapes, under torch's
``FlopCounterMode``: no memory, no arithmetic, and outside the training step. Calls of the same
function on the same shapes are counted once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.op_facts import OpFact
from modelviz_callbacks.tracing.capture.pytree import Leaf, TreeSpec
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.capture.tape import OpEntry, TensorRecord
from modelviz_callbacks.tracing.lowering.to_graph import node_names
from modelviz_callbacks.tracing.op_facts import facts_of


def with_flops(graph: ModelGraph, recording: Recording) -> ModelGraph:
    """The graph with the floating point operations of each op filled in.

    Args:
        graph: As lowered from ``recording``.
        recording: Where the calls are.

    Returns:
        The same graph; ``flops`` is ``None`` where torch has no formula.
    """
    counter = _Counter()
    flops: dict[str, int] = {}
    names = node_names(recording)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for entry in recording.tape:
            # Others are not made again: their count would be zero, or nobody knows what they do.
            if isinstance(entry, OpEntry) and OpFact.COUNTED in facts_of(entry.func):
                name, count = names.get(id(entry)), counter.count(entry)
                if name is not None and count:
                    flops[name] = count
    nodes = tuple(
        dataclasses.replace(node, flops=flops[node.name]) if node.name in flops else node
        for node in graph.nodes
    )
    return dataclasses.replace(graph, nodes=nodes)


class _Counter:
    """Counts calls, remembering those of the same shapes."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int | None] = {}

    def count(self, entry: OpEntry) -> int | None:
        """Floating point operations of one call; ``None`` if it cannot be made on meta tensors."""
        key = (entry.func, _key(entry.args), _key(entry.kwargs or {}))
        if key not in self._known:
            self._known[key] = _count(entry)
        return self._known[key]


def _count(entry: OpEntry) -> int | None:
    args = [_meta(value) for value in entry.args]
    kwargs = {name: _meta(value) for name, value in (entry.kwargs or {}).items() if name != "out"}
    try:
        with FlopCounterMode(display=False) as counter:
            entry.func(*args, **kwargs)
    except Exception:
        return None  # not every kernel has a meta version
    return int(counter.get_total_flops())


def _meta(value: Any) -> Any:
    if isinstance(value, TensorRecord):
        return torch.empty(value.sizes or (), dtype=value.dtype, device="meta")
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)([_meta(item) for item in value])
    if isinstance(value, dict):
        return {key: _meta(item) for key, item in value.items()}
    if isinstance(value, Leaf):
        return value.value
    return value.rebuild(_meta) if isinstance(value, TreeSpec) else value


def _key(value: Any) -> Hashable:
    if isinstance(value, TensorRecord):
        return ("tensor", value.sizes, value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple([_key(item) for item in value])
    if isinstance(value, dict):
        return tuple([(key, _key(item)) for key, item in value.items()])
    if isinstance(value, TreeSpec):
        return _key(value.children)
    return (type(value), value) if isinstance(value, Hashable) else id(value)
