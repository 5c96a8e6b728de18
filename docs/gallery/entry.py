"""What an entry of the gallery is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from modelviz_callbacks import Trace, trace
from tests.zoo.cases import seed_everything

Built = tuple[nn.Module, dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One model of the gallery.

    Attributes:
        file: The picture's name, without ``.svg``.
        title: What people call the model.
        idea: What the figure of the model's own paper tells, in one line.
        build: Makes the model and the arguments of its forward, by name.
    """

    file: str
    title: str
    idea: str
    build: Callable[[], Built]

    def trace(self) -> Trace:
        """Records one forward; the same to the bit each time."""
        seed_everything(0)
        model, given = self.build()
        return trace(model, **given)
