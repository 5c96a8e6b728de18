"""Looks at the gradients that a backward has left, for ``find_nonfinite``, on the CPU.

On a GPU it would have to be waited for. Small gradients are looked at whole, of a large one an
element of each row: what is not finite in what a layer gave is so in a whole row of its weight's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.utils.hooks import RemovableHandle

from modelviz_callbacks.tracing import StepCall, is_finite, no_torch_function

# Gradients of up to so many elements are looked at whole, and so many rows of larger ones.
_MOST_ELEMENTS = 2**14
_MOST_ROWS = 2**16


class GradientWatch:
    """The gradients of a model's parameters after each backward."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Looks at the parameters that are there now.

        Args:
            model: Whose parameters.
        """
        self._model = model
        self._parameters = [one for one in model.parameters() if one.device.type == "cpu"]
        self._handles: list[RemovableHandle] = []
        self.calls: Sequence[StepCall] = ()

    def before(self, calls: Sequence[StepCall]) -> None:
        """A backward begins: keeps the gradients that reach what was recorded, until it is over.

        Args:
            calls: What led to it.
        """
        self.calls = calls
        for call in calls:
            self._handles += call.watch_gradients()

    def after(self) -> list[str]:
        """The backward is over.

        Returns:
            Names of the parameters whose gradients are not finite.
        """
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        with no_torch_function(), torch.no_grad():
            if self._seem_finite():
                return []
            return [
                name
                for name, one in self._model.named_parameters(remove_duplicate=False)
                if one.grad is not None and not is_finite(one.grad)
            ]

    def _seem_finite(self) -> bool:
        total = 0.0
        for parameter in self._parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.layout is torch.strided:
                total += float(_part(gradient).sum(dtype=torch.float32))
        return math.isfinite(total)


def _part(gradient: torch.Tensor) -> torch.Tensor:
    if gradient.numel() <= _MOST_ELEMENTS or gradient.dim() < 2:
        return gradient
    if gradient.shape[0] == 1:
        return gradient[..., 0]
    while gradient.dim() > 1:
        gradient = gradient.select(-1, 0)
    return gradient[:_MOST_ROWS]
