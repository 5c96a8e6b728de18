"""Which of several recordings of a model is handed on: the best one that comes."""

from __future__ import annotations

from enum import IntEnum

import torch

from modelviz_callbacks.tracing import Recording, record_backward

_WITHOUT_GRADIENTS = (
    "Recorded without gradients: no forward with gradients enabled came, so this is the first one "
    "in training mode."
)
_IN_EVAL_MODE = "Recorded in eval mode, with gradients enabled: no forward in training mode came."


class Worth(IntEnum):
    """How much a recording is worth: a better one takes its place."""

    NOTHING = 0
    NO_GRADIENTS = 1
    STRETCH = 2  # what the model's own modules ran, where nobody called it
    EVAL_MODE = 3
    BEST = 4

    @staticmethod
    def now(model: torch.nn.Module) -> Worth:
        """Of a recording that begins now."""
        if torch.is_grad_enabled():
            return Worth.BEST if model.training else Worth.EVAL_MODE
        return Worth.NO_GRADIENTS if model.training else Worth.NOTHING


class BestRecording:
    """Keeps a recording for the case that no better one comes.

    Attributes:
        worth: Of the one that it keeps, or kept last.
    """

    def __init__(self) -> None:
        """Keeps none."""
        self.worth = Worth.NOTHING
        self._kept: Recording | None = None

    def keep(self, recording: Recording, worth: Worth) -> None:
        """Keeps a recording, in the place of what it kept before."""
        recording.backward = record_backward(recording)  # while its outputs are alive
        if worth is Worth.EVAL_MODE:
            recording.remarks.append(_IN_EVAL_MODE)
        elif worth is Worth.NO_GRADIENTS:
            recording.remarks.append(_WITHOUT_GRADIENTS)
        self._kept, self.worth = recording, worth

    def take_out(self) -> Recording | None:
        """The recording, which it keeps no longer; ``None``: there is none."""
        kept, self._kept = self._kept, None
        return kept
