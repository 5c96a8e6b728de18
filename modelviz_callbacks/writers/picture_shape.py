"""Which way a picture runs: down, in columns where it is too high, or to the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelviz_callbacks.writers.formats import Direction
from modelviz_callbacks.writers.layout import PictureLayout, Size, lay_out, mirrored
from modelviz_callbacks.writers.picture_columns import in_columns

# Width to height: below the first a picture is cut into columns until it has the second; above
# the third it is tried from left to right.
_HIGH, _ENOUGH, _WIDE = 0.37, 0.5, 2.4


def shaped(
    drawn: tuple[
        Mapping[str, Size],
        Mapping[str, Size],
        Sequence[tuple[str, str]],
        Sequence[tuple[str, str]],
    ],
    known: dict[str, Any],
    direction: Direction,
) -> PictureLayout:
    """Places boxes so that the whole can be looked at.

    Args:
        drawn: Boxes, groups, edges, and those that place nothing; see `lay_out`.
        known: What was laid out before.
        direction: ``down`` and ``right`` run that way however long it gets; ``auto`` keeps the
            width between a third of the height and three times the height, where that can be.

    Returns:
        Where they are.

    Raises:
        ImportError: There is nothing that lays it out.
        WriterError: It could not be laid out.
    """
    boxes, groups, edges, loose = drawn
    layout = lay_out(boxes, groups, edges, known, to_the_right=direction == "right", loose=loose)
    if direction != "auto":
        return layout
    if layout.width > _WIDE * layout.height:
        turned = lay_out(boxes, groups, edges, known, to_the_right=True, loose=loose)
        return turned if _is_better(turned, layout) else layout
    return in_columns(_first_on_the_left(layout), {**boxes, **groups}, _HIGH, _ENOUGH)


def _first_on_the_left(layout: PictureLayout) -> PictureLayout:
    """A layout, or its mirror image where what comes later is rather on the left.

    A layout does not care which of two branches is on which side; a reader begins on the left.
    """
    middles = [place.x + place.width / 2 for place in layout.boxes.values()]
    if len(middles) < 2 or _slope(middles) >= 0:
        return layout
    return mirrored(layout)


def _slope(values: Sequence[float]) -> float:
    """Above zero where the later of some numbers are the larger ones."""
    middle = (len(values) - 1) / 2
    return sum((at - middle) * value for at, value in enumerate(values))


def _is_better(one: PictureLayout, other: PictureLayout) -> bool:
    return _stretch(one) < _stretch(other)


def _stretch(layout: PictureLayout) -> float:
    ratio = max(layout.width, 1.0) / max(layout.height, 1.0)
    return max(ratio, 1 / ratio)
