"""Runs a program with autograd, and its backward, and notes where gradients stop being finite.

Each node of autograd belongs to the op of the program that made it, known by autograd's numbers.
What an op's backward makes can be mended, so that a second run shows whether a gradient depends on
it. Parameters stand for themselves by aliases, so that no hook of the user's runs and no gradient
of theirs is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from modelviz_callbacks.tracing.capture.functorch_levels import layers_left
from modelviz_callbacks.tracing.capture.torch_internals import (
    next_sequence_number,
    no_torch_function,
    sequence_number,
    set_grad_enabled,
)
from modelviz_callbacks.tracing.lowering.to_program import Program
from modelviz_callbacks.tracing.nonfinite.finiteness import bad_elements, look, range_of
from modelviz_callbacks.tracing.nonfinite.found import TensorRange
from modelviz_callbacks.tracing.nonfinite.watched_replay import no_autocast

# What takes the place of a gradient that is not finite.
_FILL = 0.0


@dataclass
class Fault:
    """An op whose backward made numbers that are not finite of finite gradients.

    Attributes:
        node: The op.
        function: Autograd's name of what made them.
        made: The gradient that it gave.
        given: The gradients that it was given.
    """

    node: fx.Node
    function: str
    made: TensorRange
    given: tuple[TensorRange, ...]


class BackwardReplay(fx.Interpreter):
    """One run of a program and of its backward.

    Attributes:
        outputs: What the program gave.
        faults: Where gradients stopped being finite, in the order in which the backward ran.
        bad: Names of the parameters and inputs whose gradients are not finite.
    """

    def __init__(self, program: Program, mended: Collection[fx.Node] = ()) -> None:
        """Nothing runs yet.

        Args:
            program: A recorded stretch.
            mended: In what the backward of these makes, zeros take the place of what is not
                finite, as far as they are given finite gradients.
        """
        super().__init__(program.module)
        self.extra_traceback = False
        self._program = program
        self._mended = set(mended)
        self._ops: list[tuple[int, int, fx.Node]] = []
        self._aliases: dict[str, torch.Tensor] = {}
        self.outputs: tuple[torch.Tensor, ...] = ()
        self.faults: dict[fx.Node, Fault] = {}
        self.bad: list[str] = []

    def run_on(
        self, tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]
    ) -> None:
        """Runs it on copies of some tensors, and its backward.

        Args:
            tensors: One for each of the program's inputs.
            gradients: Of the loss with respect to each of its outputs; ``None``: there is none.

        Raises:
            Exception: What an op, or its backward, raises.
        """
        copies = [one.detach().clone().requires_grad_(one.requires_grad) for one in tensors]
        before, first = torch.is_grad_enabled(), next_sequence_number()
        with layers_left(), no_autocast():
            try:
                set_grad_enabled(True)
                self.outputs = self.run(*copies, enable_io_processing=False)
                roots = [
                    (output, gradient)
                    for output, gradient in zip(self.outputs, gradients, strict=True)
                    if gradient is not None and output.requires_grad
                ]
                self._backward(roots, copies, first)
            finally:
                set_grad_enabled(before)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A parameter's alias, or what else a program refers to."""
        value = super().get_attr(target, args, kwargs)
        if not (isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf):
            return value
        if target not in self._aliases:
            with no_torch_function():
                self._aliases[target] = value.detach().requires_grad_()
        return self._aliases[target]

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node and notes which of autograd's nodes it made."""
        first = next_sequence_number()
        result = super().run_node(n)
        last = next_sequence_number()
        if last > first:
            self._ops.append((first, last, n))
        return result

    def _backward(
        self,
        roots: Sequence[tuple[torch.Tensor, torch.Tensor]],
        copies: Sequence[torch.Tensor],
        first: int,
    ) -> None:
        named = [(self._program.state.get(name, name), one) for name, one in self._aliases.items()]
        named += [
            (path, one)
            for path, one in zip(self._program.inputs, copies, strict=True)
            if one.requires_grad
        ]
        if not roots or not named:
            return
        for node in _nodes_of([output for output, _ in roots], first):
            op = self._op_of(sequence_number(node))
            if op is not None:
                self._watch(node, op)
        found = torch.autograd.grad(
            [output for output, _ in roots],
            [one for _, one in named],
            [gradient.to(output.dtype) for output, gradient in roots],
            allow_unused=True,
        )
        self.bad = [
            name
            for (name, _), one in zip(named, found, strict=True)
            if one is not None and look(one).is_bad
        ]

    def _op_of(self, sequence: int) -> fx.Node | None:
        for first, last, node in self._ops:
            if first <= sequence < last:
                return node
        return None

    def _watch(self, node: Any, op: fx.Node) -> None:
        def after(made: Any, given: Any) -> Any:
            with no_torch_function():
                return self._after(op, str(node.name()), made, given)

        node.register_hook(after)

    def _after(self, op: fx.Node, function: str, made: Any, given: Any) -> Any:
        """Notes a fault; what its backward is to give instead, if it is mended."""
        if any(look(one).is_bad for one in given if one is not None):
            return None
        bad = [one for one in made if one is not None and look(one).is_bad]
        if not bad:
            return None
        self.faults.setdefault(
            op,
            Fault(
                op,
                function,
                range_of("a gradient", bad[0]),
                tuple(range_of("a gradient", one) for one in given if one is not None),
            ),
        )
        if op not in self._mended:
            return None
        return tuple([None if one is None else _whole(one) for one in made])


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    mask = bad_elements(tensor)
    return tensor if mask is None else tensor.masked_fill(mask, _FILL)


def _nodes_of(tensors: Sequence[torch.Tensor], first: int) -> list[Any]:
    """Autograd's nodes behind some tensors, those that were made since a number."""
    order = [one.grad_fn for one in tensors if one.grad_fn is not None]
    seen = set(order)
    for node in order:
        for following, _ in node.next_functions:
            if following is None or following in seen or sequence_number(following) < first:
                continue
            seen.add(following)
            order.append(following)
    return order
