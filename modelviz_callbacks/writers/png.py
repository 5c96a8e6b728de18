"""A graph as a PNG picture on white ground, drawn by the Graphviz that pygraphviz carries."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from modelviz_callbacks.analysis import Analysis
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
from modelviz_callbacks.writers.picture_layout import run_graphviz

_DOTS_PER_INCH = 144
# Above this many dots to a side, image viewers refuse: the picture is made coarser then.
_MOST_DOTS = 16_000
_FONT = "sans-serif"


def render(analysis: Analysis, *, depth: int | None = None, direction: Direction = "auto") -> bytes:
    """Draws a graph: the same picture as the SVG in its light colours.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules to open; ``None``: as many as stay readable.
        direction: Which way it runs.

    Returns:
        PNG, 144 dots an inch, less for pictures that would be over 16,000 dots long.

    Raises:
        WriterError: Graphviz is not there or could not draw it.
    """
    drawn = picture(analysis, depth=depth, direction=direction)
    # Everything has its place already: nop2 only draws.
    return run_graphviz("\n".join(_dot(drawn)), "png", "nop2")


def _dot(drawn: Picture) -> Iterator[str]:
    longest = max(drawn.width, drawn.height)
    dots = min(_DOTS_PER_INCH, int(_MOST_DOTS * 72 / longest))
    yield "digraph {"
    yield f'dpi={dots}; bgcolor="{PAGE[0]}"; pad=0; margin=0; outputorder=edgesfirst;'
    yield f'node [label="", fontname="{_FONT}"]; edge [arrowsize=0.6];'
    middle = f"{drawn.width / 2:.2f},{drawn.height / 2:.2f}"
    size = f"width={drawn.width / 72:.4f}, height={drawn.height / 72:.4f}"
    yield f"page [shape=box, style=invis, {_fixed(middle, size)}];"
    for number, shape in enumerate(drawn.shapes):
        if isinstance(shape, Rectangle) and shape.role.startswith("group"):
            yield from _frame(number, shape, drawn.height)
        elif isinstance(shape, Rectangle):
            yield f"s{number} [{_rectangle(shape, drawn.height)}];"
        elif isinstance(shape, Text):
            yield f"s{number} [{_text(shape, drawn.height)}];"
        else:
            yield from _arrow(number, shape, drawn.height)
    yield "}"


def _frame(number: int, shape: Rectangle, height: float) -> Iterator[str]:
    """A group as a cluster: Graphviz draws those first, then edges, then nodes."""
    place, look = shape.place, LOOKS[shape.role]
    bottom, top = height - place.y - place.height, height - place.y
    box = f"{place.x:.2f},{bottom:.2f},{place.x + place.width:.2f},{top:.2f}"
    corner = f"{place.x + place.width / 2:.2f},{(bottom + top) / 2:.2f}"
    yield (
        f'subgraph cluster{number} {{ bb="{box}"; style="filled,rounded"; '
        f'fillcolor="{look.fill[0]}"; color="{look.stroke[0]}"; '
        f"s{number} [shape=point, style=invis, {_fixed(corner, 'width=0.01, height=0.01')}]; }}"
    )


def _fixed(position: str, size: str) -> str:
    return f'pos="{position}!", fixedsize=true, {size}'


def _rectangle(shape: Rectangle, height: float) -> str:
    place, look = shape.place, LOOKS[shape.role]
    middle = f"{place.x + place.width / 2:.2f},{height - place.y - place.height / 2:.2f}"
    size = f"width={place.width / 72:.4f}, height={place.height / 72:.4f}"
    if look.fill[0] == "none":
        return f"shape=box, style=invis, {_fixed(middle, size)}"
    style = "filled,rounded,dashed" if look.dashed else "filled,rounded"
    stroke = look.fill[0] if look.stroke[0] == "none" else look.stroke[0]
    colours = f'fillcolor="{look.fill[0]}", color="{stroke}"'
    return f'shape=box, style="{style}", {colours}, {_fixed(middle, size)}'


def _text(shape: Text, height: float) -> str:
    line, look = shape.line, LOOKS.get(shape.role)
    colour = look.text[0] if look is not None and look.text[0] else ""
    colour = colour or (MUTED if line.muted else TEXT)[0]
    # Graphviz centres text; text that starts at x is put into a table cell that starts there.
    middle = shape.x if shape.centred else shape.x + line.width / 2
    content = escape(_plain(line.text))
    content = f"<b>{content}</b>" if line.bold else content
    if not shape.centred:
        content = (
            f'<table border="0" cellborder="0" cellspacing="0" cellpadding="0"><tr>'
            f'<td fixedsize="false" width="{line.width:.0f}" align="left">{content}</td>'
            f"</tr></table>"
        )
    position = f"{middle:.2f},{height - shape.y + line.size * 0.33:.2f}"
    font = f'fontsize={line.size}, fontcolor="{colour}"'
    return f'shape=none, label=<{content}>, {font}, pos="{position}!", width=0, height=0, margin=0'


def _plain(text: str) -> str:
    """Text without the control characters that Graphviz would stop at."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _arrow(number: int, arrow: Arrow, height: float) -> Iterator[str]:
    *curve, tip = arrow.points
    points = " ".join(f"{x:.2f},{height - y:.2f}" for x, y in curve)
    pos = f"e,{tip[0]:.2f},{height - tip[1]:.2f} {points}"
    ends = (curve[0], tip)
    for end, (x, y) in enumerate(ends):
        yield (
            f"s{number}e{end} [shape=point, style=invis, width=0.001, height=0.001, "
            f'pos="{x:.2f},{height - y:.2f}!"];'
        )
    width = 1.7 if arrow.role == "skip" else 1.2
    look = LOOKS[arrow.role]
    style = f"style={'dashed' if look.dashed else 'solid'}, penwidth={width}"
    yield f's{number}e0 -> s{number}e1 [pos="{pos}", color="{look.stroke[0]}", {style}];'
