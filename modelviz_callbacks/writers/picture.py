"""An overview as shapes on a plane: what the SVG and the PNG writer both draw.

Every shape has a role, and a palette says how a role looks, on light and on dark ground.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.view.box import Box, Group, parameters_text
from modelviz_callbacks.view.formatting import count_text
from modelviz_callbacks.view.overview import Edge, Overview, overview
from modelviz_callbacks.writers.formats import Direction
from modelviz_callbacks.writers.layout import Place, Size
from modelviz_callbacks.writers.picture_shape import shaped
from modelviz_callbacks.writers.picture_text import TextLine, cut, cut_apart

_PADDING = 9.0
_MARGIN = 18.0
_LEADING = 1.32  # from one line to the next, in sizes of the font
_HEADING_HEIGHT = 17.0
_LEGEND_HEIGHT = 26.0


@dataclass(frozen=True, slots=True)
class Look:
    """How a role looks; colours as ``#rrggbb``, ``none`` for nothing.

    Attributes:
        fill: Inside, on light ground and on dark ground.
        stroke: The line around it, likewise.
        text: Its text, likewise; ``""``: the ordinary colour.
        dashed: Whether the line is dashed.
        meaning: What the legend says of it; ``""``: it is not in the legend.
    """

    fill: tuple[str, str]
    stroke: tuple[str, str]
    text: tuple[str, str] = ("", "")
    dashed: bool = False
    meaning: str = ""


PAGE = ("#ffffff", "#15181e")
TEXT = ("#111827", "#e6edf3")
MUTED = ("#57606a", "#9da7b3")

LOOKS: dict[str, Look] = {
    "trainable": Look(("#dbeafe", "#1c3557"), ("#3b7ddd", "#6aa8ff"), meaning="trainable"),
    "mixed": Look(
        ("#eef4fd", "#1b2a3f"), ("#3b7ddd", "#6aa8ff"), dashed=True, meaning="partly frozen"
    ),
    "frozen": Look(("#e8eaee", "#33383f"), ("#6b7280", "#a4acb8"), dashed=True, meaning="frozen"),
    "module": Look(("#ffffff", "#20252c"), ("#a3acb8", "#666f7b"), meaning="no parameters"),
    "op": Look(("#fef3c7", "#453410"), ("#d08a12", "#e8a93a"), meaning="op"),
    "quiet": Look(("none", "none"), ("none", "none")),
    "end": Look(("#1f2937", "#dfe5ec"), ("#1f2937", "#dfe5ec"), ("#ffffff", "#15181e")),
    "held": Look(("#dcfce7", "#143a22"), ("#2c9a52", "#55c27c"), meaning="parameter"),
    "buffer": Look(
        ("#f3f4f6", "#262b32"), ("#8b949e", "#8b949e"), dashed=True, meaning="buffer or constant"
    ),
    "label": Look(("none", "none"), ("#c5cdd6", "#444c57"), MUTED, dashed=True),
    "part": Look(("#ede9fe", "#322a52"), ("#7c5cdb", "#a48cf2"), meaning="many steps"),
    "group0": Look(("#f6f8fa", "#1b1f26"), ("#c5cdd6", "#444c57")),
    "group1": Look(("#fcfdfe", "#20252d"), ("#c5cdd6", "#444c57")),
    "heading0": Look(("#f6f8fa", "#1b1f26"), ("none", "none")),
    "heading1": Look(("#fcfdfe", "#20252d"), ("none", "none")),
    "flow": Look(("#6b7684", "#9aa5b1"), ("#6b7684", "#9aa5b1")),
    "beside": Look(("#c5cdd6", "#444c57"), ("#c5cdd6", "#444c57"), dashed=True),
    "skip": Look(("#d97706", "#f0a732"), ("#d97706", "#f0a732"), meaning="skips ahead"),
    "carried": Look(
        ("#0f766e", "#4fd1c5"), ("#0f766e", "#4fd1c5"), dashed=True, meaning="to the next step"
    ),
}


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rounded rectangle; ``name`` is what it stands for in the graph."""

    place: Place
    role: str
    name: str
    radius: float


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; x is its middle, or its left end, y its baseline.

    Attributes:
        role: Of the box it is written on.
        owner: The name of the box or group it belongs to; ``""``: the picture itself.
    """

    x: float
    y: float
    line: TextLine
    centred: bool
    role: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Arrow:
    """A Bezier curve (one point, then three for each piece), then the tip of its arrow."""

    points: tuple[tuple[float, float], ...]
    role: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Shapes in the order in which they are drawn, in points, y downwards."""

    title: str
    width: float
    height: float
    shapes: tuple[Rectangle | Text | Arrow, ...]


def picture(
    analysis: Analysis,
    *,
    scope: str = "",
    depth: int | None = None,
    framed: bool = True,
    direction: Direction = "auto",
) -> Picture:
    """What to draw of a graph, or of the inside of one of its module calls, and where.

    Each scope and depth is laid out once for all pictures of them.

    Args:
        analysis: The analysis of a sound graph.
        scope: A module call that ran; ``""`` for the whole graph.
        depth: How many levels of modules to open; ``None``: as many as stay readable.
        framed: Whether to add a title above and a legend below.
        direction: Which way the edges run: ``down`` or ``right``, or ``auto``: so that the
            picture is neither three times as high as wide nor three times as wide as high.

    Returns:
        The shapes.

    Raises:
        ImportError: There is nothing that lays it out.
        WriterError: It could not be laid out.
    """
    composer = analysis.once(_composed, scope, depth, direction)
    return composer.framed() if framed else composer.bare()


def _composed(analysis: Analysis, scope: str, depth: int | None, direction: Direction) -> _Composer:
    view = overview(analysis, scope=scope, depth=depth)
    return _Composer(view, analysis.once(_layouts), direction)


def _layouts(_analysis: Analysis) -> dict[str, Any]:
    """What was laid out for pictures of this graph; see `lay_out`."""
    return {}


def compose(view: Overview, *, framed: bool = True) -> Picture:
    """Places an overview's boxes.

    Args:
        view: What to draw.
        framed: Whether to add a title above and a legend below.

    Returns:
        The shapes.

    Raises:
        ImportError: There is nothing that lays it out.
        WriterError: It could not be laid out.
    """
    composer = _Composer(view, {})
    return composer.framed() if framed else composer.bare()


def moved(shape: Rectangle | Text | Arrow, left: float, top: float) -> Rectangle | Text | Arrow:
    """A shape elsewhere.

    Args:
        shape: Any.
        left: How far to the right.
        top: How far down.
    """
    if isinstance(shape, Rectangle):
        place = replace(shape.place, x=shape.place.x + left, y=shape.place.y + top)
        return replace(shape, place=place)
    if isinstance(shape, Text):
        return replace(shape, x=shape.x + left, y=shape.y + top)
    return replace(shape, points=tuple((x + left, y + top) for x, y in shape.points))


def _box_lines(box: Box, shown: str) -> list[TextLine]:
    times = f" ×{box.times}" if box.times > 1 else ""
    title = shown + times
    if box.kind == "quiet":
        return [TextLine(f"{title}  {box.made}", 9.0, muted=True)]
    if box.kind == "label":
        return [TextLine(title, 9.0, muted=True)]
    lines = [TextLine(title, 11.5, bold=True)]
    about = [text for text in (cut(box.label, 34), cut(box.details, 44)) if text]
    if len(" · ".join(about)) > 44:
        lines += [TextLine(text, 9.5, muted=True) for text in about]
    elif about:
        lines.append(TextLine(" · ".join(about), 9.5, muted=True))
    facts = [text for text in (cut(box.made, 40), parameters_text(box)) if text]
    if box.kind == "held":
        facts = facts[:1]
    if facts:
        lines.append(TextLine(" · ".join(facts), 9.5))
    return lines


def _heading(group: Group, shown: str) -> TextLine:
    times = f" ×{group.times}" if group.times > 1 else ""
    parts = [cut(group.label, 34), cut(group.details, 72), parameters_text(group)]
    title = shown + times
    return TextLine(" · ".join(part for part in (title, *parts) if part), 10.0, bold=True)


def _box_size(box: Box, lines: Sequence[TextLine]) -> Size:
    padding = 3.0 if box.kind == "quiet" else 6.0 if box.kind == "label" else _PADDING
    width = max(line.width for line in lines) + 2 * padding
    height = sum(line.size * _LEADING for line in lines) + (4 if box.kind == "quiet" else 9)
    return Size(max(width, 30.0), height, box.group)


def _role(box: Box) -> str:
    if box.kind in ("input", "output"):
        return "end"
    if box.kind == "held":
        return "held" if box.weights.count else "buffer"
    if box.kind == "module":
        training = box.weights.training
        return "module" if training == "none" else training
    return box.kind


class _Composer:
    """An overview with its layout; makes pictures of it, with a frame and without."""

    def __init__(
        self, view: Overview, known: dict[str, Any], direction: Direction = "auto"
    ) -> None:
        self.view = view
        shown = cut_apart([box.title for box in view.boxes], 34)
        self.texts = {box.name: _box_lines(box, shown[box.title]) for box in view.boxes}
        shown = cut_apart([group.title for group in view.groups], 48)
        self.headings = {group.name: _heading(group, shown[group.title]) for group in view.groups}
        boxes = {box.name: _box_size(box, self.texts[box.name]) for box in view.boxes}
        groups = {
            group.name: Size(self.headings[group.name].width, _HEADING_HEIGHT, group.group)
            for group in view.groups
        }
        edges = [(edge.source, edge.target) for edge in view.edges]
        carried = [(edge.source, edge.target) for edge in view.carried]
        self.layout = shaped((boxes, groups, edges, carried), known, direction)
        self.roles = {box.name: _role(box) for box in view.boxes}
        ends = {box.name for box in view.boxes if box.kind == "output"}
        skipping = {edge for edge in skipping_edges(view.edges) if edge.target not in ends}
        self.edge_roles = [
            "beside"
            if self.roles[edge.source] == "label"
            else "skip"
            if edge in skipping
            else "flow"
            for edge in view.edges
        ] + ["carried"] * len(carried)
        self.left = self.top = 0.0

    def bare(self) -> Picture:
        """The boxes alone."""
        self.left = self.top = 0.0
        size = self.layout.width, self.layout.height
        return Picture(self.view.graph.name, *size, tuple(self._boxes()))

    def framed(self) -> Picture:
        """The boxes with a title and a legend."""
        self.left, self.top = _MARGIN, _MARGIN + 40
        title = self._title_lines()
        legend = list(self._legend({*self.roles.values(), *self.edge_roles}))
        needed = [line.width for line in title]
        needed += [text.x + text.line.width - _MARGIN for text in legend if isinstance(text, Text)]
        width = max(self.layout.width, *needed) + 2 * _MARGIN
        self.left += (width - 2 * _MARGIN - self.layout.width) / 2
        shapes: list[Rectangle | Text | Arrow] = [
            Text(_MARGIN, _MARGIN + 14 + 17 * number, line, centred=False)
            for number, line in enumerate(title)
        ]
        shapes += [*self._boxes(), *legend]
        height = self.top + self.layout.height + _LEGEND_HEIGHT + _MARGIN
        return Picture(self.view.graph.name, width, height, tuple(shapes))

    def _boxes(self) -> Iterator[Rectangle | Text | Arrow]:
        frames, headings = self._groups()
        yield from frames
        edges = (*self.view.edges, *self.view.carried)
        drawn = zip(edges, self.edge_roles, self.layout.edges, strict=True)
        for edge, role, points in drawn:
            moved = tuple((x + self.left, y + self.top) for x, y in points)
            yield Arrow(moved, role, edge.source, edge.target)
        yield from headings  # after the arrows, which would run through the words
        for box in self.view.boxes:
            yield from self._box(box, self.roles[box.name])

    def _title_lines(self) -> list[TextLine]:
        graph, weights = self.view.graph, self.view.weights
        facts = [f"{count_text(weights.count)} parameters", f"{count_text(len(graph.ops))} ops"]
        if weights.training in ("frozen", "mixed"):
            facts.insert(1, f"{count_text(weights.trainable)} trainable")
        if graph.partial:
            facts.append("partial: the forward ended early")
        return [
            TextLine(cut(graph.name, 60), 15.0, bold=True),
            TextLine(" · ".join(facts), 10.5, muted=True),
        ]

    def _groups(self) -> tuple[list[Rectangle], list[Rectangle | Text]]:
        """The frames of the groups, and their headings, each on a ground of its own."""
        depths = {"": -1}
        frames: list[Rectangle] = []
        headings: list[Rectangle | Text] = []
        for group in self.view.groups:
            depths[group.name] = depths[group.group] + 1
            shade = depths[group.name] % 2
            for number, piece in enumerate(self.layout.groups[group.name]):
                place = self._moved(piece)
                frames.append(Rectangle(place, f"group{shade}", group.name, 8.0))
                line = self.headings[group.name]
                if number:
                    line = replace(line, text=f"… {line.text}", bold=False, muted=True)
                ground = Place(place.x + 6, place.y + 5, line.width + 8, 16)
                headings.append(Rectangle(ground, f"heading{shade}", group.name, 3.0))
                at = place.x + 10, place.y + 17
                headings.append(Text(*at, line, centred=False, owner=group.name))
        return frames, headings

    def _box(self, box: Box, role: str) -> Iterator[Rectangle | Text]:
        place = self._moved(self.layout.boxes[box.name])
        radius = place.height / 2 if box.kind in ("op", "input", "output") else 5.0
        yield Rectangle(place, role, box.name, min(radius, 14.0))
        lines = self.texts[box.name]
        y = place.y + (place.height - sum(line.size * _LEADING for line in lines)) / 2
        for line in lines:
            baseline = y + line.size * (_LEADING + 0.72) / 2
            middle = place.x + place.width / 2
            yield Text(middle, baseline, line, centred=True, role=role, owner=box.name)
            y += line.size * _LEADING

    def _moved(self, place: Place) -> Place:
        return Place(place.x + self.left, place.y + self.top, place.width, place.height)

    def _legend(self, roles: set[str]) -> Iterator[Rectangle | Text]:
        x, y = _MARGIN, self.top + self.layout.height + _LEGEND_HEIGHT
        for role, look in LOOKS.items():
            if role not in roles or not look.meaning:
                continue
            height = 2.0 if role in ("skip", "carried") else 9.0
            yield Rectangle(Place(x, y - 4 - height / 2, 15, height), role, "", 2.0)
            line = TextLine(look.meaning, 9.0, muted=True)
            yield Text(x + 20, y, line, centred=False)
            x += 36 + line.width


def skipping_edges(edges: Sequence[Edge]) -> frozenset[Edge]:
    """The edges that go past other boxes: there is a longer way to the same end, too."""
    following: dict[str, list[str]] = {}
    for edge in edges:
        following.setdefault(edge.source, []).append(edge.target)
    found = set()
    for edge in edges:
        seen = {target for target in following[edge.source] if target != edge.target}
        stack = list(seen)
        while stack and edge.target not in seen:
            for target in following.get(stack.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
        if edge.target in seen:
            found.add(edge)
    return frozenset(found)
