"""Where boxes, groups and edges of a picture go."""

from __future__ import annotations

from modelviz_callbacks.writers.layout.nested import lay_out
from modelviz_callbacks.writers.layout.places import PictureLayout, Place, Point, Size, mirrored

__all__ = ["PictureLayout", "Place", "Point", "Size", "lay_out", "mirrored"]
