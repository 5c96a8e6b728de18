"""Where the first NaN or infinite number of a step came from, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["op", "data", "parameter", "buffer", "constant", "outside", "gradient"]

_HELD = {
    "data": "The data held {what}: {name}",
    "parameter": "The parameter {name} was not finite before the step: it held {what}",
    "buffer": "The buffer {name} was not finite before the step: it held {what}",
    "constant": "The constant {name} held {what}",
}
_BEFORE = (
    "The gradients that reached what was recorded held {what}: they became so in the backward of "
    "code that was not recorded"
)
_OUTSIDE = (
    "What was recorded gave finite numbers only: the loss became {what} after it, in code that "
    "was not recorded"
)


@dataclass(frozen=True, slots=True)
class TensorRange:
    """What the elements of one tensor are like; of complex ones their magnitudes.

    Attributes:
        name: The node that made it, the input's path or the parameter's name.
        dtype: ``float32``.
        shape: Its shape.
        least: The smallest of the finite elements; ``None``: there is none, or it is not known.
        most: The largest of them.
        finite_share: Which part of the elements is finite, from 0 to 1; ``None``: not known.
        nans: How many are NaN.
        infs: How many are infinite.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    least: float | None = None
    most: float | None = None
    finite_share: float | None = None
    nans: int = 0
    infs: int = 0

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape)) or "scalar"
        said = f"{self.name} ({size} {self.dtype})"
        if self.finite_share is None:
            return said
        if self.least is not None:
            said += f" from {self.least:.4g} to {self.most:.4g}"
        if self.finite_share < 1:
            said += f", {self.held}"
        return said

    @property
    def held(self) -> str:
        """Which numbers that are not finite are among them: ``3 NaN and 1 infinite``."""
        counts = [f"{self.nans:,} NaN"] * bool(self.nans)
        counts += [f"{self.infs:,} infinite"] * bool(self.infs)
        return " and ".join(counts) or "none that is not finite"


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """The first op on the way to the loss that made NaN or Inf of finite numbers, or what held it.

    Attributes:
        kind: ``"op"``: an op made it. ``"data"``, ``"parameter"``, ``"buffer"``, ``"constant"``:
            it was there before the forward. ``"outside"``: it was made after what is recorded.
            ``"gradient"``: the loss is finite, and the op's backward made it.
        name: The op's node in the graph, the input's path, or the parameter's name.
        op: The function of torch, such as ``torch.log``; ``""`` if it is no op; outside of what is
            recorded, the names of autograd's last functions.
        module: Qualified name of the module that called it; ``""``: the model itself.
        source: Where it was called, such as ``model.py:12``.
        function: The function around that line.
        made: What the op gave, or what was held; of a gradient what its backward gave.
        inputs: The tensors that the op was given, as they were.
        gradients: Those that its backward was given, if that is to blame.
        is_certain: Whether the loss is finite once only this is mended, and not finite without.
        why_possible: Why it is not certain, as a sentence; ``""``: it is.
        others: The names of what else made or held such numbers on the way to the loss.
    """

    kind: Kind
    name: str
    made: TensorRange
    op: str = ""
    module: str = ""
    source: str = ""
    function: str = ""
    inputs: tuple[TensorRange, ...] = ()
    gradients: tuple[TensorRange, ...] = ()
    is_certain: bool = False
    why_possible: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "gradient":
            said = self._told_gradient()
        elif self.kind == "outside":
            said = _OUTSIDE.format(what=self.made.held)
            said += f" (autograd's functions, the last one first: {self.op})" if self.op else ""
        elif self.kind != "op":
            said = _HELD[self.kind].format(name=self.name, what=self.made.held)
        else:
            said = self._told_op()
        likely = "" if self.is_certain else "possibly: "
        why = f" (not certain: {self.why_possible})" if self.why_possible else ""
        return f"{likely}{said}{why}."

    @property
    def is_outside(self) -> bool:
        """Whether it was made by code that was not recorded."""
        return self.kind == "outside" or (self.kind == "gradient" and self.name == "loss")

    def _told_gradient(self) -> str:
        if self.is_outside:
            said = _BEFORE.format(what=self.made.held)
            return said + (
                f" (autograd's functions, the last one first: {self.op})" if self.op else ""
            )
        if not self.op:
            return f"The gradient of {self.name} became NaN or infinite"
        grown = "; ".join(map(str, self.gradients)) or "none"
        given = "; ".join(map(str, self.inputs)) or "no tensor"
        return (
            f"the backward of {self._where()} made {self.made.held} of {grown}; in the forward "
            f"it was given {given}"
        )

    def _told_op(self) -> str:
        given = "; ".join(map(str, self.inputs)) or "no tensor"
        return f"{self._where()} made {self.made.held} of {given}"

    def _where(self) -> str:
        place = f" at {self.source}" if self.source else ""
        around = f" in {self.function}" if self.source and self.function else ""
        return f"{self.name} ({self.op}){place}{around}"
