"""Function transforms as a program runs them again: the layers, and what goes in and out.

``torch.func`` runs a function with its tensors wrapped: ``vmap`` hides a dimension of them,
``grad``, ``vjp`` and ``jvp`` keep track of what happens to them. Each transform is one layer on
a stack that torch keeps for the thread, and wrapped tensors belong to a level of that stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.autograd import forward_ad

from modelviz_callbacks.tracing.capture.torch_internals import dual_level, functorch


@dataclass(frozen=True, eq=False)
class Layer:
    """One transform that ops ran under, from its beginning to its end.

    Attributes:
        kind: ``"vmap"``, ``"grad"`` (also vjp), ``"jvp"``, or ``"dual"`` for a level of
            `torch.autograd.forward_ad`.
        level: Its place on torch's stack when recorded, from 1; from 0 for ``"dual"``.
        batch_size: Of a vmap.
        randomness: Of a vmap: ``"error"``, ``"same"`` or ``"different"``.
        grad: Whether gradients were enabled around it.
    """

    kind: str
    level: int
    batch_size: int = 0
    randomness: str = "error"
    grad: bool = True


# How many transforms this thread is inside of.
depth: Callable[[], int] = functorch.get_dynamic_layer_stack_depth if functorch else int


# --- the calls a program makes; their arguments are named for people who look at the graph


@fx.node.has_side_effect
def enter_layer(kind: str, batch_size: int, randomness: str, grad: bool) -> int:
    """Begins a transform.

    Args:
        kind: As in `Layer`, like the others.
        batch_size: As in `Layer`.
        randomness: As in `Layer`.
        grad: As in `Layer`.

    Returns:
        The level that its tensors belong to.
    """
    if kind == "dual":
        return int(forward_ad.enter_dual_level())  # type: ignore[no-untyped-call]
    if kind == "vmap":
        return int(functorch.vmap_increment_nesting(batch_size, randomness))
    enter = functorch.grad_increment_nesting if kind == "grad" else functorch.jvp_increment_nesting
    with torch.set_grad_enabled(grad):
        return int(enter())


@fx.node.has_side_effect
def leave_layer(kind: str) -> None:
    """Ends the transform entered last, of this kind."""
    if kind == "dual":
        forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]
        return
    leave = {
        "vmap": functorch.vmap_decrement_nesting,
        "grad": functorch.grad_decrement_nesting,
        "jvp": functorch.jvp_decrement_nesting,
    }[kind]
    leave()


def add_batch_dim(input: torch.Tensor, in_dim: int, level: int) -> torch.Tensor:
    """What vmap does to an argument: hides the dimension ``in_dim``."""
    made: torch.Tensor = functorch.add_batch_dim(input, in_dim, level)
    return made


def remove_batch_dim(input: torch.Tensor, out_dim: int, level: int) -> torch.Tensor:
    """What vmap does to a result: shows the hidden dimension again, where it lies."""
    if not functorch.is_batchedtensor(input):
        return input
    # The size is for tensors that were never batched.
    made: torch.Tensor = functorch.remove_batch_dim(input, level, 0, out_dim)
    return made


def expand_batch_dims(
    input: torch.Tensor,
    sizes: tuple[int, ...],
    dims: tuple[int, ...],
) -> torch.Tensor:
    """What vmap does to a result that has no hidden dimension: repeats it.

    Args:
        input: The result.
        sizes: Of the new dimensions, which are put before its own.
        dims: The order that all of them are brought into then.

    Returns:
        A view.
    """
    with _layers_of(input):
        return input.expand(*sizes, *input.shape).permute(dims)


def permute(input: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """What vmap does to put a dimension where ``out_dims`` wants it."""
    with _layers_of(input):
        return input.permute(dims)


def as_strided(
    input: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...], storage_offset: int
) -> torch.Tensor:
    """`torch.as_strided` of a tensor that is in fewer transforms than are under way."""
    with _layers_of(input):
        return input.as_strided(size, stride, storage_offset)


@contextmanager
def _layers_of(tensor: torch.Tensor) -> Iterator[None]:
    """Sets the transforms aside that a tensor is in no wrapper of: they would add theirs."""
    level = functorch.maybe_get_level(tensor) or 0
    aside = []
    try:
        while depth() > max(level, 0):
            aside.append(functorch.pop_dynamic_layer_stack())
        yield
    finally:
        while aside:
            functorch.push_dynamic_layer_stack(aside.pop())


def wrap_for_grad(input: torch.Tensor, level: int) -> torch.Tensor:
    """What grad, vjp and jvp do to an argument: the same values, tracked at this level."""
    made: torch.Tensor = functorch.wrap_for_grad(input, level)
    return made


def unwrap_for_grad(input: torch.Tensor, level: int) -> torch.Tensor:
    """What grad, vjp and jvp do to a result: the same values without this level's tracking."""
    made: torch.Tensor = functorch.unwrap_for_grad(input, level)
    return made


def requires_grad_(input: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
    """The method of this name, which inside a transform only torch.func itself may call."""
    before = functorch.get_inplace_requires_grad_allowed()
    functorch.set_inplace_requires_grad_allowed(True)
    try:
        return input.requires_grad_(requires_grad)
    finally:
        functorch.set_inplace_requires_grad_allowed(before)


@contextmanager
def layers_left() -> Iterator[None]:
    """Leaves the layers that were entered inside and not left, as after an exception."""
    before, dual = depth(), dual_level()
    try:
        yield
    finally:
        while dual_level() > dual:
            forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]
        if depth() > before:
            functorch.pop_dynamic_layer_stack_and_undo_to_depth(before)


class LayeredProgram(fx.GraphModule):
    """A program with layers: leaves them also when one of its ops raises."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs it."""
        with layers_left():
            return super().__call__(*args, **kwargs)


class DraftProgram(fx.GraphModule):
    """A program that is read and never run: the code of it would take as long as all the rest."""

    def recompile(self) -> Any:
        """Writes no code."""


class LayerSwitch:
    """Writes into a program where its layers begin and end.

    Attributes:
        now: The layers that the end of the program, as it is so far, runs under.
        used: Whether there were any.
    """

    def __init__(self, graph: fx.Graph) -> None:
        """Starts outside of all transforms.

        Args:
            graph: Of the program.
        """
        self.now: tuple[Layer, ...] = ()
        self.used = False
        self._graph = graph
        self._levels: dict[Layer, fx.Node] = {}

    def to(self, wanted: tuple[Layer, ...]) -> None:
        """Leaves and enters layers, so that what comes next runs under those wanted."""
        shared = 0
        while self.now[shared : shared + 1] == wanted[shared : shared + 1] != ():
            shared += 1
        for layer in reversed(self.now[shared:]):
            self._graph.call_function(leave_layer, (layer.kind,))
        for layer in wanted[shared:]:
            facts = (layer.kind, layer.batch_size, layer.randomness, layer.grad)
            self._levels[layer] = self._graph.call_function(enter_layer, facts)
        self.now = wanted
        self.used = self.used or bool(wanted)

    def level(self, layer: Layer) -> fx.Node:
        """The node that gives the level of a layer that was entered."""
        return self._levels[layer]

    def make(self, attributes: dict[str, Any], name: str, is_draft: bool = False) -> fx.GraphModule:
        """The finished program; a draft is only read, unless it has layers."""
        plain = DraftProgram if is_draft else fx.GraphModule
        kind = LayeredProgram if self.used else plain
        return kind(attributes, self._graph, class_name=name)
