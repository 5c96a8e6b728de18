"""A graph as an SVG picture that shows where one of its nodes is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.view.way_to_node import way_to_node
from modelviz_callbacks.writers.picture import Arrow, Picture, Rectangle, Text, compose, moved
from modelviz_callbacks.writers.picture_text import TextLine, cut
from modelviz_callbacks.writers.svg import svg_text

_MARGIN = 18.0
_LINE_HEIGHT = 17.0
# Fill and line, on light ground and on dark ground.
_LOOKS = (("#fde0e0", "#cf3a3a"), ("#451a1c", "#f0787a"))
_MOST_LETTERS, _MOST_LINES = 96, 6


def render(analysis: Analysis, name: str, title: str, said: Sequence[str] = ()) -> bytes:
    """Draws a graph as far as a node, whose box is red.

    Args:
        analysis: The analysis of a sound graph.
        name: The node's name, or that of a module call.
        title: What stands above.
        said: Sentences below the title.

    Returns:
        SVG, UTF-8; the same bytes for the same graph.

    Raises:
        ImportError: There is nothing that lays it out.
        WriterError: The node is not in the picture, or it could not be laid out.
    """
    view, box = way_to_node(analysis, name)
    if not box:
        raise WriterError(f"{name} stands in no picture of {analysis.graph.name}.")
    drawn = compose(view, framed=False)
    shapes = tuple([_marked(shape, box) for shape in drawn.shapes])
    head = [TextLine(cut(title, _MOST_LETTERS), 14.0, bold=True)]
    lines = [line for one in said for line in textwrap.wrap(plain_text(one), _MOST_LETTERS)]
    head += [TextLine(line, 10.5, muted=True) for line in lines[:_MOST_LINES]]
    framed = _framed(replace(drawn, shapes=shapes), head, analysis.graph.name)
    return svg_text(framed).replace("</style>", f"{_STYLE}</style>", 1).encode()


def _marked(shape: Rectangle | Text | Arrow, box: str) -> Rectangle | Text | Arrow:
    """The box itself with a role of its own; of a group the frame."""
    if isinstance(shape, Rectangle) and shape.name == box:
        is_group = shape.role.rstrip("01") in ("group", "heading")
        return replace(shape, role="suspect-group" if is_group else "suspect")
    if isinstance(shape, Text) and shape.owner == box and shape.role:
        return replace(shape, role="suspect")
    return shape


def _framed(drawn: Picture, head: Sequence[TextLine], name: str) -> Picture:
    width = max(drawn.width, *(line.width for line in head)) + 2 * _MARGIN
    top = _MARGIN + 12 + _LINE_HEIGHT * len(head)
    shapes: list[Rectangle | Text | Arrow] = [
        Text(_MARGIN, _MARGIN + 12 + _LINE_HEIGHT * number, line, centred=False)
        for number, line in enumerate(head)
    ]
    left = (width - drawn.width) / 2
    shapes += [moved(shape, left, top) for shape in drawn.shapes]
    return Picture(name, width, top + drawn.height + _MARGIN, tuple(shapes))


def _rules(scheme: int) -> str:
    fill, stroke = _LOOKS[scheme]
    return (
        f".suspect{{fill:{fill};stroke:{stroke};stroke-width:2.5}}"
        f".suspect-group{{fill:{fill};fill-opacity:.45;stroke:{stroke}}}"
        f".on-suspect{{fill:{'#20252c' if not scheme else '#f6f8fa'}}}"
    )


_STYLE = f"{_rules(0)}@media (prefers-color-scheme:dark){{{_rules(1)}}}"
