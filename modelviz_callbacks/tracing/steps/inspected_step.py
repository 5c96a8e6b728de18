"""What was seen of the tensors of one training step, as plain data.

Nothing here holds a tensor or a module, so it can go to another process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class TensorHealth(NamedTuple):
    """What the elements of one tensor are like; of complex ones their magnitudes.

    Attributes:
        elements: How many there are.
        least: The smallest; NaN if one is NaN, as of the next three.
        most: The largest.
        mean: Their mean.
        std: Their standard deviation, with ``elements`` as the divisor.
        zeros: How many are zero.
        nans: How many are NaN.
        infs: How many are infinite.
    """

    elements: int
    least: float
    most: float
    mean: float
    std: float
    zeros: int
    nans: int
    infs: int

    @property
    def norm(self) -> float:
        """The square root of the sum of their squares."""
        return math.sqrt(self.elements) * math.hypot(self.mean, self.std)

    @property
    def zero_share(self) -> float:
        """Which part of them is zero, from 0 to 1."""
        return self.zeros / self.elements

    @property
    def is_finite(self) -> bool:
        """Whether none is NaN or infinite."""
        return not self.nans and not self.infs


class SeenOutput(NamedTuple):
    """One tensor that a module call gave.

    Attributes:
        path: The module's first qualified name; ``""``: the model itself.
        call_index: 0 for the first call of this module in the step, 1 for the second, ...
        place: Where in the output it is; ``""``: it is the output.
        dtype: ``float32``.
        shape: Its shape.
        is_again: Whether a module inside of this one gave the very same tensor before.
        health: What its elements are like; ``None``: it could not be looked at.
    """

    path: str
    call_index: int
    place: str
    dtype: str
    shape: tuple[int, ...]
    is_again: bool
    health: TensorHealth | None


class SeenParameter(NamedTuple):
    """One parameter that is trained.

    Attributes:
        name: Its first qualified name.
        dtype: ``float32``.
        shape: Its shape.
        has_gradient: Whether a gradient was there.
        gradient: What its elements are like; ``None``: there is none, or it cannot be looked at.
        weight_norm: Norm of the parameter before the optimizer's step; ``None``: not known.
        update_norm: Norm of what the optimizer's step changed in it; ``None``: not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    has_gradient: bool
    gradient: TensorHealth | None
    weight_norm: float | None = None
    update_norm: float | None = None

    @property
    def update_ratio(self) -> float | None:
        """The norm of the update over that of the weight; ``None``: not known, or no weight."""
        if self.update_norm is None or not self.weight_norm:
            return None
        return self.update_norm / self.weight_norm


@dataclass(frozen=True)
class InspectedStep:
    """One step that was looked into.

    Attributes:
        number: Of the step; 0 was recorded.
        outputs: What module calls gave, in the order in which these ended.
        parameters: In the model's order; those that are not trained are left out.
        aliases: The first qualified name of a module by each of its names.
        remarks: What a person should know about it, a sentence each.
    """

    number: int
    outputs: tuple[SeenOutput, ...] = ()
    parameters: tuple[SeenParameter, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
