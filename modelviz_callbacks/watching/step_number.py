"""Which step a call of the model belongs to, and what a gradient scaler does to its loss.

A GAN's step calls a model several times, gradient accumulation too: a step is what leads to one
change of the model's weights. A scaler leaves the change out where the scaled loss or a gradient
overflows, which is its way to find the scale, and no fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch

from modelviz_callbacks.tracing import watch_method


class StepNumber:
    """Counts the steps of one model from the recorded one on, which is 0."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Nothing was trained yet.

        Args:
            model: Whose steps are counted.
        """
        self._model = model
        self._number = 0
        self._is_over = self._sees_updates = self._is_told = False
        # With the number of parameter groups: layers are unfrozen.
        self._trains: WeakKeyDictionary[torch.optim.Optimizer, tuple[int, bool]] = (
            WeakKeyDictionary()
        )
        self._scaled: list[tuple[Callable[[], torch.Tensor | None], torch.Tensor]] = []

    def at_call(self, is_step: bool) -> int:
        """The number of the step that a call of the model belongs to.

        Args:
            is_step: Whether the call is a whole step, as a trainer's.
        """
        if is_step or self._is_over:
            self._number += 1
        self._is_over, self._is_told = False, is_step
        return self._number

    def at_backward(self) -> None:
        """A loss had its backward: where no optimizer is seen to train the model, that is all."""
        self._is_over |= not self._sees_updates

    def at_failure(self) -> None:
        """A call of the model raised: if the loop goes on, it is with the next step."""
        self._is_over = True

    def at_update(self, optimizer: torch.optim.Optimizer) -> bool:
        """An optimizer has changed weights, or a scaler has kept it from it.

        Args:
            optimizer: Which one.

        Returns:
            Whether it trains the model.
        """
        groups = optimizer.param_groups
        known = self._trains.get(optimizer)
        if known is None or known[0] != len(groups):
            own = {id(parameter) for parameter in self._model.parameters()}
            trains = any(id(one) in own for group in groups for one in group["params"])
            known = self._trains[optimizer] = (len(groups), trains)
        if known[1]:
            if not (self._sees_updates or self._is_told):
                self._number = 0  # until now each backward counted, as of batches accumulated
            self._sees_updates = self._is_over = True
        return known[1]

    # --- a gradient scaler

    def watch_scaler(self) -> list[Callable[[], None]]:
        """Watches the gradient scalers of the process.

        Returns:
            What undoes it.
        """
        return [
            watch_method(torch.amp.GradScaler, "scale", self._around_scale),
            watch_method(torch.amp.GradScaler, "step", self._around_step),
        ]

    def unscaled(self, loss: torch.Tensor) -> torch.Tensor | None:
        """The loss that a scaler was given; ``None``: it made no such loss of it.

        Args:
            loss: What ``backward`` is called on.
        """
        found = [given for scaled, given in self._scaled if scaled() is loss]
        self._scaled = []
        return found[0] if found else None

    def _around_scale(self, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        given = [*args, *kwargs.values()][-1]
        pairs = [(result, given)]
        if isinstance(result, (list, tuple)) and isinstance(given, (list, tuple)):
            pairs = [*zip(result, given, strict=False)]
        self._scaled = [
            (ref(scaled), one.detach())  # its graph is not kept alive
            for scaled, one in pairs
            if isinstance(scaled, torch.Tensor) and isinstance(one, torch.Tensor)
            if one.numel() == 1  # no loss otherwise, and large maybe
        ]
        return result

    def _around_step(self, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        for one in (*args, *kwargs.values()):
            if isinstance(one, torch.optim.Optimizer):
                self.at_update(one)
        return result
