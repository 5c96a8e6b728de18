"""What a picture is made of: boxes, and groups around boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelviz_callbacks.analysis.weights import NO_WEIGHTS, Weights
from modelviz_callbacks.view.formatting import short_count

BoxKind = Literal["input", "output", "module", "op", "quiet", "held", "label", "part"]


@dataclass(frozen=True, slots=True)
class Box:
    """Something drawn as one box.

    Attributes:
        name: Unique among boxes and groups: the name of a node or module call in the graph.
        kind: ``module``, ``op``, ``quiet`` (only changes a tensor's layout), ``input``,
            ``output``, ``held`` (a parameter, buffer or constant that an op reads directly),
            ``label`` (bookkeeping that a box reads), ``part`` (many steps in one box).
        title: Its class or op, or what it is called.
        label: Its name within the group, where that says more than the title.
        details: Arguments, what varies between repeats.
        made: Shapes of what it hands on.
        weights: Its parameters.
        times: How often it is repeated.
        is_shared: Whether another box, or each repeat, uses the same parameters.
        group: The name of the group around it; ``""`` for none.
        unlike: The module calls that it repeats, where their sizes differ: ``weights`` are
            those of all of them then.
        is_inner_end: Whether it is a tensor that enters or leaves the module call whose inside is
            drawn: its name is no node's then.
    """

    name: str
    kind: BoxKind
    title: str
    label: str = ""
    details: str = ""
    made: str = ""
    weights: Weights = NO_WEIGHTS
    times: int = 1
    is_shared: bool = False
    group: str = ""
    unlike: tuple[str, ...] = ()
    is_inner_end: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A module, or a repeated pattern, drawn as a frame around boxes; fields as in `Box`."""

    name: str
    title: str
    label: str = ""
    details: str = ""
    made: str = ""
    weights: Weights = NO_WEIGHTS
    times: int = 1
    is_shared: bool = False
    group: str = ""
    unlike: tuple[str, ...] = ()


def parameters_text(box: Box | Group) -> str:
    """``12 × 85.1 k params frozen``; ``""`` if there are none."""
    if not box.weights.count:
        return ""
    each = box.times > 1 and not box.is_shared and not box.unlike
    times = f"{box.times} × " if each else ""
    frozen = {"frozen": " frozen", "mixed": " partly frozen"}.get(box.weights.training, "")
    return f"{times}{short_count(box.weights.count)} params{frozen}"
