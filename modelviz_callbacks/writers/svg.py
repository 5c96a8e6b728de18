"""A graph as an SVG picture, for light and dark screens (SVG 1.1 with CSS)."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape, quoteattr

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.writers.formats import Direction
from modelviz_callbacks.writers.picture import (
    LOOKS,
    MUTED,
    PAGE,
    TEXT,
    Arrow,
    Picture,
    Rectangle,
    Text,
    picture,
)

_ARROW_LENGTH = 6.0

# What XML 1.0 forbids even when escaped, and ``plain_text`` leaves.
_FORBIDDEN = {0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}


def render(analysis: Analysis, *, depth: int | None = None, direction: Direction = "auto") -> bytes:
    """Draws a graph.

    Nested boxes are modules; boxes carry class, name, arguments, output shapes and parameter
    counts. Each box is a ``g`` element with the name of its node or module call in
    ``data-name``. The picture follows the reader's colour scheme.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules to open; ``None``: as many as stay readable.
        direction: Which way it runs.

    Returns:
        SVG, UTF-8; the same bytes for the same graph.

    Raises:
        ImportError: There is nothing that lays it out.
        WriterError: It could not be laid out.
    """
    return svg_text(picture(analysis, depth=depth, direction=direction)).encode()


def svg_text(drawn: Picture) -> str:
    """A picture as SVG text."""
    width, height = _number(drawn.width), _number(drawn.height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{_text(drawn.title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    owner: str | None = None
    for shape in drawn.shapes:
        belongs = _owner(shape)
        if owner and belongs != owner:
            lines.append("</g>")
        if belongs and belongs != owner:
            lines.append(f'<g class="{_kind(shape)}" data-name={_attribute(belongs)}>')
            lines.append(f"<title>{_text(belongs)}</title>")
        owner = belongs
        lines.append(_shape(shape))
    if owner:
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _owner(shape: Rectangle | Text | Arrow) -> str:
    if isinstance(shape, Rectangle):
        return shape.name
    return shape.owner if isinstance(shape, Text) else ""


def _kind(shape: Rectangle | Text | Arrow) -> str:
    """``box``; of a group, which is drawn in two goes, ``group`` and ``heading``."""
    role = shape.role.rstrip("01")
    return role if role in ("group", "heading") else "box"


def _shape(shape: Rectangle | Text | Arrow) -> str:
    if isinstance(shape, Rectangle):
        place = shape.place
        return (
            f'<rect class="{shape.role}" x="{_number(place.x)}" y="{_number(place.y)}" '
            f'width="{_number(place.width)}" height="{_number(place.height)}" '
            f'rx="{_number(shape.radius)}"/>'
        )
    if isinstance(shape, Arrow):
        return _arrow(shape)
    line = shape.line
    classes = " ".join(
        word
        for word, is_so in (
            ("muted", line.muted),
            ("bold", line.bold),
            ("middle", shape.centred),
            (f"on-{shape.role}", bool(shape.role)),
        )
        if is_so
    )
    return (
        f'<text class="{classes}" x="{_number(shape.x)}" y="{_number(shape.y)}" '
        f'font-size="{_number(line.size)}">{_text(line.text)}</text>'
    )


def _arrow(arrow: Arrow) -> str:
    *curve, tip = arrow.points
    end = curve[-1]
    start, *rest = (f"{_number(x)},{_number(y)}" for x, y in curve)
    angle = math.atan2(tip[1] - end[1], tip[0] - end[0])
    back = (tip[0] - _ARROW_LENGTH * math.cos(angle), tip[1] - _ARROW_LENGTH * math.sin(angle))
    side = (0.42 * _ARROW_LENGTH * math.sin(angle), -0.42 * _ARROW_LENGTH * math.cos(angle))
    corners = (tip, (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1]))
    points = " ".join(f"{_number(x)},{_number(y)}" for x, y in corners)
    return (
        f'<path class="line {arrow.role}" d="M{start}C{" ".join(rest)}L{_number(back[0])},'
        f'{_number(back[1])}"/><polygon class="{arrow.role}" points="{points}"/>'
    )


def _number(value: float) -> str:
    """A coordinate with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _plain(text: str) -> str:
    return plain_text(text).translate(_FORBIDDEN)


def _text(text: str) -> str:
    return escape(_plain(text))


def _attribute(text: str) -> str:
    return quoteattr(_plain(text))


def scheme_rules(scheme: int) -> str:
    """The colours of one scheme: 0 is light, 1 is dark."""
    rules = [
        f".page{{fill:{PAGE[scheme]}}}",
        f"text{{fill:{TEXT[scheme]}}}",
        f".muted{{fill:{MUTED[scheme]}}}",
    ]
    for role, look in LOOKS.items():
        rules.append(f".{role}{{fill:{look.fill[scheme]};stroke:{look.stroke[scheme]}}}")
        if look.text[scheme]:
            rules.append(f".on-{role}{{fill:{look.text[scheme]}}}")
    return "".join(rules)


_STYLE = (
    "text{font-family:system-ui,sans-serif;white-space:pre}"
    ".bold{font-weight:bold}.middle{text-anchor:middle}"
    + "".join(f".{role}{{stroke-dasharray:4 2}}" for role, look in LOOKS.items() if look.dashed)
    + scheme_rules(0)
    + "path.line{fill:none;stroke-width:1.2}path.skip{stroke-width:1.7}"
    + f"@media (prefers-color-scheme:dark){{{scheme_rules(1)}path.line{{fill:none}}}}"
)
