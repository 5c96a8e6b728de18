"""A picture that is too high for its width, cut into columns side by side, as a newspaper is.

Cuts go between boxes, where few edges cross. An edge that crosses a cut runs on, below its column
and up the gutter, into the next one; a frame that is cut has its heading again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from modelviz_callbacks.writers.layout import PictureLayout, Place, Point, Size

Curve = tuple[Point, ...]

_LANE = 7.0  # between edges beside each other
_ROOM = 12.0  # between a column and the first of them
_HEADING = 22.0  # a heading that is said again
_EDGE = 11.0  # between a frame and what is in it
_MOST_COLUMNS = 8
# What makes a cut a bad one: a part of a column further from an equal share counts as much as an
# edge that crosses it, or half a frame that is cut in two.
_FURTHER, _CUT_FRAME = 0.12, 2.0
# A picture that can be looked at as it is, though it is high, is not cut through so many edges.
_TANGLE, _JUST_ENOUGH = 6, 0.36


def in_columns(
    layout: PictureLayout, sizes: Mapping[str, Size], lowest: float, best: float
) -> PictureLayout:
    """A layout in as many columns as bring it near to a ratio.

    Args:
        layout: From top to bottom, in one column.
        sizes: Of its boxes and groups, as they were asked for.
        lowest: The ratio of width to height from which on nothing is cut.
        best: The ratio that is enough.

    Returns:
        The same boxes, groups and edges; groups that were cut have several places.
    """
    if layout.width >= lowest * layout.height:
        return layout
    found = layout
    extents = _extents(layout, sizes)
    for columns in range(2, _MOST_COLUMNS + 1):
        cuts = _cuts(layout, extents, columns)
        if len(cuts) + 1 < columns:
            break
        crossing = max(_edges_across(layout, cut) for cut in cuts)
        if crossing >= _TANGLE and layout.width >= _JUST_ENOUGH * layout.height:
            break
        found = _Columns(layout, sizes, cuts).layout()
        if found.width >= best * found.height:
            break
    return found


Extents = Mapping[str, tuple[float, float]]


def _extents(layout: PictureLayout, sizes: Mapping[str, Size]) -> Extents:
    """From where the heading of each group is to where its last box ends."""
    found: dict[str, tuple[float, float]] = {}
    for name, place in layout.boxes.items():
        _widen(found, sizes[name].group, place.y, place.y + place.height)
    for name, (place, *_) in reversed(list(layout.groups.items())):
        if name in found:
            found[name] = place.y, found[name][1]
            _widen(found, sizes[name].group, *found[name])
    return found


def _cuts(layout: PictureLayout, extents: Extents, columns: int) -> list[float]:
    """Where to cut, from top to bottom; fewer where nothing can be cut."""
    gaps = _gaps(layout)
    crossings = [_crossings(layout, extents, gap) for gap in gaps]
    share = layout.height / columns
    found: list[float] = []
    for number in range(1, columns):
        after = found[-1] if found else 0.0
        costs = [
            (abs(gap - share * number) / (share * _FURTHER) + crossing, gap)
            for gap, crossing in zip(gaps, crossings, strict=True)
            if gap > after + share * 0.3 and gap < layout.height - share * 0.3
        ]
        if costs:
            found.append(min(costs)[1])
    return found


def _gaps(layout: PictureLayout) -> list[float]:
    """The heights at which there is neither a box nor a heading."""
    spans = [(place.y, place.y + place.height) for place in layout.boxes.values()]
    spans += [(pieces[0].y, pieces[0].y + _HEADING) for pieces in layout.groups.values()]
    found: list[float] = []
    end = 0.0
    for low, high in sorted(spans):
        if low > end + 6:
            found.append((low + end) / 2)
        end = max(end, high)
    return found


def _crossings(layout: PictureLayout, extents: Extents, height: float) -> float:
    frames = sum(low < height < high for name, (low, high) in extents.items() if name)
    return _edges_across(layout, height) + _CUT_FRAME * frames


def _edges_across(layout: PictureLayout, height: float) -> int:
    ends = ((curve[0][1], curve[-1][1]) for curve in layout.edges)
    return sum(min(pair) < height < max(pair) for pair in ends)


@dataclass
class _Column:
    """One column: what it shows of the layout, and where it goes."""

    top: float
    bottom: float
    left: float = 0.0
    right: float = 0.0
    x: float = 0.0  # of its left end
    y: float = 0.0  # of its top, below lanes and headings
    entering: int = 0
    leaving: int = 0
    cut_groups: list[str] = field(default_factory=list)

    @property
    def end(self) -> float:
        return self.y + self.bottom - self.top

    def moved(self, point: Point) -> Point:
        return point[0] - self.left + self.x, point[1] - self.top + self.y


class _Columns:
    def __init__(
        self, layout: PictureLayout, sizes: Mapping[str, Size], cuts: Sequence[float]
    ) -> None:
        self.whole = layout
        self.sizes = sizes
        self.cuts = list(cuts)
        self.columns = [
            _Column(top, bottom)
            for top, bottom in zip([0.0, *cuts], [*cuts, layout.height], strict=True)
        ]
        self.pieces = [list(self._cut(curve)) for curve in layout.edges]
        depths = _depths(layout.groups, sizes)
        for name, (low, high) in _extents(layout, sizes).items():
            for column in self.columns[1:]:
                if name and low < column.top < high:
                    column.cut_groups.append(name)
        for column in self.columns:
            column.cut_groups.sort(key=depths.__getitem__)
        self._tight = [self._spans(column) for column in self.columns]
        self._place_columns()

    def _spans(self, column: _Column) -> dict[str, tuple[float, float]]:
        """The left and right end of each group's piece in a column, no wider than needed."""
        found: dict[str, tuple[float, float]] = {}
        for name, place in self.whole.boxes.items():
            if column.top <= place.y + place.height / 2 < column.bottom:
                _widen(found, self.sizes[name].group, place.x, place.x + place.width)
        for name in reversed(list(self.whole.groups)):
            place = self.whole.groups[name][0]
            if not (place.y < column.bottom and place.y + place.height > column.top):
                continue
            is_whole = column.top <= place.y and place.y + place.height <= column.bottom
            if not is_whole and name not in found:
                continue  # nothing but its edge
            low, high = place.x, place.x + place.width
            if not is_whole:
                low, high = found[name][0] - _EDGE, found[name][1] + _EDGE
                needed = self.sizes[name].width + 3 * _EDGE
                low = max(place.x, min(low, high - needed))
                high = min(place.x + place.width, max(high, low + needed))
            found[name] = low, high
            _widen(found, self.sizes[name].group, low, high)
        return {name: span for name, span in found.items() if name in self.whole.groups}

    def layout(self) -> PictureLayout:
        boxes = {name: self._box(place) for name, place in self.whole.boxes.items()}
        groups = {
            name: tuple(self._group(name, place)) for name, (place, *_) in self.whole.groups.items()
        }
        lanes = self._lanes()
        edges = [self._edge(number, lanes) for number in range(len(self.pieces))]
        last = self.columns[-1]
        height = max(c.end + _ROOM + _LANE * c.leaving for c in self.columns)
        return PictureLayout(last.x + last.right - last.left, height, boxes, groups, tuple(edges))

    def _column_at(self, height: float) -> int:
        return bisect_right(self.cuts, height)

    def _cut(self, curve: Curve) -> Iterator[tuple[int, Curve]]:
        """The pieces of an edge, each with its column; all but the last end at a cut."""
        *rest, tip = curve
        column, last = self._column_at(curve[0][1]), self._column_at(tip[1])
        if last < column:  # back to an earlier column, across what is between
            yield column, (curve[0],)
            return
        while column < last:
            before, rest = _split(rest, self.cuts[column])
            yield column, tuple(before)
            column += 1
        yield column, (*rest, tip)

    def _place_columns(self) -> None:
        whole = self.whole
        for number, column in enumerate(self.columns):
            spans = [
                (place.x, place.x + place.width)
                for place in whole.boxes.values()
                if place.y < column.bottom and place.y + place.height > column.top
            ]
            spans += self._tight[number].values()
            spans += [
                (x, x)
                for pieces in self.pieces
                for at, piece in pieces
                if at == number
                for x, _ in piece
            ]
            column.left = min((low for low, _ in spans), default=0.0)
            column.right = max((high for _, high in spans), default=0.0)
        for pieces in self.pieces:
            for at, _ in pieces[:-1]:
                self.columns[at].leaving += 1
                self.columns[at + 1].entering += 1
        x = 0.0
        for column in self.columns:
            lanes = column.entering * _LANE + 2 * _ROOM if column.entering else 0.0
            column.x = x + lanes
            column.y = len(column.cut_groups) * _HEADING
            column.y += column.entering * _LANE + _ROOM if column.entering else 0.0
            x = column.x + column.right - column.left + _ROOM

    def _box(self, place: Place) -> Place:
        column = self.columns[self._column_at(place.y + place.height / 2)]
        x, y = column.moved((place.x, place.y))
        return Place(x, y, place.width, place.height)

    def _group(self, name: str, place: Place) -> Iterator[Place]:
        end = place.y + place.height
        for column, spans in zip(self.columns, self._tight, strict=True):
            if name not in spans:
                continue
            left, right = spans[name]
            x, y = column.moved((left, max(place.y, column.top)))
            bottom = column.moved((0.0, min(end, column.bottom)))[1]
            if name in column.cut_groups:
                y -= _HEADING * (len(column.cut_groups) - column.cut_groups.index(name))
            yield Place(x, y, right - left, bottom - y)

    def _lanes(self) -> dict[tuple[int, int], int]:
        """The lane of each edge that leaves a column, the rightmost one inside."""
        leaving: dict[int, list[tuple[float, int]]] = {}
        for number, pieces in enumerate(self.pieces):
            for at, piece in pieces[:-1]:
                leaving.setdefault(at, []).append((-piece[-1][0], number))
        return {
            (at, number): lane
            for at, found in leaving.items()
            for lane, (_, number) in enumerate(sorted(found))
        }

    def _edge(self, number: int, lanes: Mapping[tuple[int, int], int]) -> Curve:
        points: list[Point] = []
        curve = self.whole.edges[number]
        if len(self.pieces[number][0][1]) == 1:
            start = self.columns[self._column_at(curve[0][1])].moved(curve[0])
            tip = self.columns[self._column_at(curve[-1][1])].moved(curve[-1])
            return (start, *_line(start, _towards(tip, start, 6.0)), tip)
        for at, piece in self.pieces[number]:
            column = self.columns[at]
            moved = [column.moved(point) for point in piece]
            if points:
                lane = lanes[at - 1, number]
                before = self.columns[at - 1]
                down = before.end + _ROOM + _LANE * lane
                across = column.x - _ROOM - _LANE * (column.entering - 1 - lane)
                up = column.y - len(column.cut_groups) * _HEADING
                up -= _ROOM / 2 + _LANE * (column.entering - 1 - lane)
                (x, _), (goal, _) = points[-1], moved[0]
                corners = [(x, down), (across, down), (across, up), (goal, up), moved[0]]
                points += _rounded([points[-1], *corners])
                moved = moved[1:]
            points += moved
        return tuple(points)


def _widen(spans: dict[str, tuple[float, float]], name: str, low: float, high: float) -> None:
    before = spans.get(name, (low, high))
    spans[name] = min(before[0], low), max(before[1], high)


def _depths(groups: Mapping[str, object], sizes: Mapping[str, Size]) -> dict[str, int]:
    depths = {"": 0}
    for name in groups:
        depths[name] = depths[sizes[name].group] + 1
    return depths


def _split(curve: Sequence[Point], height: float) -> tuple[list[Point], list[Point]]:
    """A Bezier curve's part down to a height, and the rest."""
    for at in range(0, len(curve) - 1, 3):
        piece = curve[at : at + 4]
        if piece[-1][1] >= height:
            low, high = 0.0, 1.0
            for _ in range(30):
                middle = (low + high) / 2
                if _divided(piece, middle)[0][-1][1] < height:
                    low = middle
                else:
                    high = middle
            first, second = _divided(piece, low)
            return [*curve[:at], *first], [*second, *curve[at + 4 :]]
    # The arrow's tip alone is below.
    end = (curve[-1][0], height)
    return [*curve, curve[-1], end, end], [end, end, end, end]


def _divided(piece: Sequence[Point], share: float) -> tuple[list[Point], list[Point]]:
    rows = [list(piece)]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append(
            [(a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share) for a, b in pairwise(row)]
        )
    return [row[0] for row in rows], [row[-1] for row in reversed(rows)]


def _rounded(corners: Sequence[Point]) -> list[Point]:
    """Straight lines with round corners as Bezier pieces, without the first point."""
    found: list[Point] = []
    here = corners[0]
    for corner, following in pairwise(corners[1:]):
        before = _towards(corner, here, 6.0)
        after = _towards(corner, following, 6.0)
        found += [*_line(here, before), corner, corner, after]
        here = after
    return found + _line(here, corners[-1])


def _line(start: Point, end: Point) -> list[Point]:
    return [_between(start, end, 1 / 3), _between(start, end, 2 / 3), end]


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _towards(corner: Point, goal: Point, most: float) -> Point:
    length = abs(goal[0] - corner[0]) + abs(goal[1] - corner[1])
    return _between(corner, goal, min(0.5, most / length)) if length else corner
