"""The difference of two graphs as an SVG picture, for light and dark screens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from modelviz_callbacks.diff.diff import GraphDiff
from modelviz_callbacks.diff.diff_view import DiffView, diff_view
from modelviz_callbacks.writers.diff_text import lines
from modelviz_callbacks.writers.layout import Place
from modelviz_callbacks.writers.picture import Arrow, Picture, Rectangle, Text, compose, moved
from modelviz_callbacks.writers.picture_text import TextLine, cut
from modelviz_callbacks.writers.svg import svg_text

_MARGIN = 18.0
_TITLE_HEIGHT = 44.0
_LEGEND_HEIGHT = 30.0

# Fill and line, on light ground and on dark ground; what the legend says.
_LOOKS = {
    "added": (("#d6f5dd", "#1f8a3b"), ("#12381f", "#4cc26b"), "added"),
    "removed": (("#fde0e0", "#cf3a3a"), ("#451a1c", "#f0787a"), "removed"),
    "changed": (("#ffefc2", "#b87503"), ("#453208", "#e9b13b"), "changed"),
    "inside": (("#ffffff", "#b87503"), ("#20252c", "#e9b13b"), "differs inside"),
    "same": (("#f6f8fa", "#a3acb8"), ("#20252c", "#666f7b"), "the same"),
}
# Roles of the picture whose boxes are coloured by what happened; the others keep their look.
_QUIET = ("quiet", "flow", "skip")


def render(found: GraphDiff) -> bytes:
    """Draws both graphs in one picture: green was added, red removed, amber changed.

    Modules are opened where something differs, repeats that fared alike are drawn once. Each box
    is a ``g`` element with the name of its node or module call in ``data-name``.

    Args:
        found: What ``modelviz_callbacks.diff.diff.diff`` found.

    Returns:
        SVG, UTF-8; the same bytes for the same graphs.

    Raises:
        ImportError: There is nothing that lays it out.
        WriterError: It could not be laid out.
    """
    view = diff_view(found)
    drawn = compose(view.overview, framed=False)
    shapes = tuple(_coloured(shape, view) for shape in drawn.shapes)
    framed = _framed(replace(drawn, shapes=shapes), found, view)
    return svg_text(framed).replace("</style>", f"{_STYLE}</style>", 1).encode()


def _coloured(shape: Rectangle | Text | Arrow, view: DiffView) -> Rectangle | Text | Arrow:
    """The shape with what happened to it as its role."""
    if isinstance(shape, Arrow):
        ends = view.outcomes[shape.source], view.outcomes[shape.target]
        for outcome in ("removed", "added"):
            if outcome in ends:
                return replace(shape, role=outcome)
        return replace(shape, role="flow")
    owner = shape.name if isinstance(shape, Rectangle) else shape.owner
    outcome = view.outcomes.get(owner, "same")
    role = shape.role.rstrip("01")
    if role in ("group", "heading"):
        if outcome == "same" or not isinstance(shape, Rectangle):
            return shape
        return replace(shape, role=f"{role}-{outcome}")
    if outcome == "same" and role in (*_QUIET, "end", ""):
        return shape
    return replace(shape, role=outcome)


def _framed(drawn: Picture, found: GraphDiff, view: DiffView) -> Picture:
    """The picture with a title above and a legend below."""
    head = [line.text for line in lines(found)[:2]]
    title = [
        TextLine(cut(head[0], 70), 15.0, bold=True),
        TextLine(cut(head[1], 90), 10.5, muted=True),
    ]
    legend = list(_legend(set(view.outcomes.values())))
    needed = [line.width for line in title]
    needed += [shape.x + shape.line.width for shape in legend if isinstance(shape, Text)]
    width = max(drawn.width, *needed) + 2 * _MARGIN
    left, top = (width - drawn.width) / 2, _MARGIN + _TITLE_HEIGHT
    bottom = top + drawn.height + _LEGEND_HEIGHT
    shapes: list[Rectangle | Text | Arrow] = [
        Text(_MARGIN, _MARGIN + 14 + 17 * number, line, centred=False)
        for number, line in enumerate(title)
    ]
    shapes += [moved(shape, left, top) for shape in drawn.shapes]
    shapes += [moved(shape, _MARGIN, bottom) for shape in legend]
    name = f"{found.before.name} and {found.after.name}"
    return Picture(name, width, bottom + _MARGIN, tuple(shapes))


def _legend(outcomes: set[str]) -> Iterator[Rectangle | Text]:
    """What the colours mean, from the point 0, 0 to the right."""
    x = 0.0
    for outcome, (_, _, meaning) in _LOOKS.items():
        if outcome in outcomes:
            yield Rectangle(Place(x, -8.0, 15.0, 9.0), outcome, "", 2.0)
            line = TextLine(meaning, 9.0, muted=True)
            yield Text(x + 20, 0.0, line, centred=False)
            x += 36 + line.width


def _rules(scheme: int) -> str:
    rules = []
    for outcome, looks in _LOOKS.items():
        fill, stroke = looks[scheme][0], looks[scheme][1]
        rules.append(f".{outcome}{{fill:{fill};stroke:{stroke}}}")
        rules.append(f".group-{outcome}{{fill:{fill};fill-opacity:.45;stroke:{stroke}}}")
        rules.append(f".heading-{outcome}{{fill:{fill};stroke:none}}")
        rules.append(f"polygon.{outcome}{{fill:{stroke}}}path.line.{outcome}{{fill:none}}")
    return "".join(rules)


_STYLE = (
    ".inside,.removed{stroke-dasharray:4 2}polygon.removed{stroke-dasharray:none}"
    f"{_rules(0)}path.added,path.removed{{stroke-width:1.7}}"
    f"@media (prefers-color-scheme:dark){{{_rules(1)}}}"
)
