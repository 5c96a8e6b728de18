"""The parts of a graph while it is being lowered, and what the tape's values become in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from modelviz_callbacks.graph import (
    Argument,
    Items,
    Node,
    PythonText,
    Ref,
    SliceValue,
    Source,
    TensorSpec,
)
from modelviz_callbacks.graph.shape_edges import with_shape_edges
from modelviz_callbacks.graph.values import refs
from modelviz_callbacks.tracing.capture.functorch_levels import Layer
from modelviz_callbacks.tracing.capture.pytree import Leaf, TreeSpec, python_text
from modelviz_callbacks.tracing.capture.tape import TensorRecord
from modelviz_callbacks.tracing.lowering.scopes import Scope


@dataclass
class NodeBuilder:
    """A node being made; writes through views may still add inputs and outputs."""

    name: str
    kind: Any
    op: str
    scope: Scope
    outputs: list[TensorSpec] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)
    target: str = ""
    path: str = ""
    aliases: tuple[str, ...] = ()
    source: Source | None = None
    writes: list[int] = field(default_factory=list)
    reads_value: bool = False
    function: Scope | None = None

    @property
    def within(self) -> Scope:
        """The innermost scope: the function it ran in, or ``scope``, which it is named after."""
        return self.function or self.scope

    def refs(self) -> tuple[Ref, ...]:
        """The tensors that it reads."""
        return tuple([ref for argument in self.arguments for ref in refs(argument.value)])

    def add_output(self, spec: TensorSpec, is_write: bool = False) -> Ref:
        """Gives the node one more output; a write is a new version of existing memory."""
        self.outputs.append(spec)
        if is_write:
            self.writes.append(len(self.outputs) - 1)
        return Ref(self.name, len(self.outputs) - 1)

    def freeze(self) -> Node:
        """The finished node."""
        return Node(
            self.name,
            self.kind,
            self.op,
            self.within.kept.name,
            tuple(self.outputs),
            with_shape_edges(self.target, self.arguments),
            self.target,
            self.path,
            self.aliases,
            self.source,
            tuple(self.writes),
            self.reads_value,
        )


def graph_value(value: Any, read: Callable[[TensorRecord], Ref]) -> Any:
    """An argument on the tape as an argument in a graph.

    Args:
        value: What the tape holds.
        read: Gives the reference for a tensor.

    Returns:
        A value as `modelviz_callbacks.graph` has them.
    """

    def again(inner: Any) -> Any:
        return graph_value(inner, read)

    if isinstance(value, TensorRecord):
        return read(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return PythonText(str(value))
    if isinstance(value, Layer):
        return value.level
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, (tuple, list)):
        return tuple([again(item) for item in value])
    if isinstance(value, dict):
        return Items(tuple((str(key), again(item)) for key, item in value.items()))
    if isinstance(value, slice):
        return SliceValue(again(value.start), again(value.stop), again(value.step))
    if isinstance(value, Leaf):
        return again(value.value)
    if isinstance(value, TreeSpec):
        return tuple([again(child) for child in value.children])
    return PythonText(python_text(value))


def spec_of(record: TensorRecord) -> TensorSpec:
    """The graph's description of a tensor version."""
    return _spec(record.sizes, record.dtype, record.device, record.requires_grad, record.layout)


@lru_cache(maxsize=4096)
def _spec(
    sizes: tuple[int, ...] | None,
    dtype: torch.dtype,
    device: torch.device,
    requires_grad: bool,
    layout: torch.layout,
) -> TensorSpec:
    # Tensors of one kind are many: they share a description.
    return TensorSpec(
        sizes,
        str(dtype).removeprefix("torch."),
        str(device),
        requires_grad,
        str(layout).removeprefix("torch."),
    )


def _number(value: float) -> int | float | PythonText:
    if value != value:  # not a number: equal to nothing, so no graph with it would equal itself
        return PythonText("nan")
    # Subclasses (symbolic sizes, enumerations, numpy's float64) become the plain number.
    return int(value) if isinstance(value, int) else float(value)
