"""Whether a loss is finite, found out without waiting for its device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function
from modelviz_callbacks.tracing.nonfinite.step import StepCall
from modelviz_callbacks.tracing.steps.tensor_statistics import is_captured, is_readable


class LossFlag:
    """One loss, and what led to it.

    Attributes:
        loss: What ``backward`` is called on.
        calls: The calls of what was recorded before it.
        number: Of the step.
        is_quick: Whether to ask for it waits for nothing.
    """

    def __init__(
        self,
        loss: torch.Tensor,
        calls: Sequence[StepCall],
        number: int,
        unscaled: torch.Tensor | None = None,
    ) -> None:
        """Begins to find out.

        Args:
            loss: A single number.
            calls: As the attribute.
            number: As the attribute.
            unscaled: What a gradient scaler has made the loss of: that is what must be finite.
        """
        looked_at = loss if unscaled is None else unscaled
        self.loss = loss
        self.calls = calls
        self.number = number
        self.is_quick = loss.device.type == "cpu"
        self._is_finite = True
        self._there: torch.Tensor | None = None
        self._event: torch.cuda.Event | None = None
        for call in () if self.is_quick else calls:
            call.settle()  # what it gave must not outlive the backward
        if not is_readable(looked_at) or is_captured():
            self.is_quick = True
            return
        with no_torch_function(), torch.no_grad():
            if self.is_quick:
                self._is_finite = math.isfinite(looked_at.item())
                return
            self._there = torch.isfinite(looked_at.detach()).all()
            if looked_at.is_cuda:
                host = torch.empty((), dtype=torch.bool, pin_memory=True)
                self._there = host.copy_(self._there, non_blocking=True)
                self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._event.record()

    def is_finite(self) -> bool:
        """Whether it is, as far as it can be looked at; waits for the forward on the device."""
        if self._there is None:
            return self._is_finite
        if self._event is not None:
            self._event.synchronize()
        return bool(self._there)
