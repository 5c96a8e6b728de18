"""Boxes and groups of given sizes, and where a layout puts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Across and down, in points.
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle: its left upper corner and its size, in points, y downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Size:
    """What room something needs, in points; for a group that of its heading."""

    width: float
    height: float
    group: str = ""


@dataclass(frozen=True, slots=True)
class PictureLayout:
    """Where everything is, in points, y downwards.

    Attributes:
        width: Of the whole.
        height: Of the whole.
        boxes: By the boxes' names.
        groups: By the groups' names; several places where the picture was cut into columns.
        edges: For each edge in the order given: the points of a Bezier curve (one, then
            three for each piece) and at last the tip of its arrow.
    """

    width: float
    height: float
    boxes: Mapping[str, Place]
    groups: Mapping[str, tuple[Place, ...]]
    edges: tuple[tuple[Point, ...], ...]


def mirrored(layout: PictureLayout) -> PictureLayout:
    """A layout with left and right changed."""

    def turned(place: Place) -> Place:
        return Place(layout.width - place.x - place.width, place.y, place.width, place.height)

    return PictureLayout(
        layout.width,
        layout.height,
        {name: turned(place) for name, place in layout.boxes.items()},
        {name: tuple(map(turned, places)) for name, places in layout.groups.items()},
        tuple(tuple((layout.width - x, y) for x, y in curve) for curve in layout.edges),
    )
