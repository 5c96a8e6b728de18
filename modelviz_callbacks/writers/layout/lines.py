"""The edges of a picture between boxes that have their places.

Sideways they go between rows of boxes only, so that none runs behind a box it does not belong to.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from modelviz_callbacks.writers.layout.places import Point

# A box or group by its name, or a gate by the box whose edges go through it.
LineEnd = tuple[str, str]
# From where to where, and the box at which the edge begins: those of one box are one line.
EdgePiece = tuple[LineEnd, LineEnd, str]

INSIDE, ENTRY, EXIT = "inside", "entry", "exit"

_ARROW = 6.0
_LANE = 9.0  # between lines beside each other
_MOST_LANES = 12
_CORNER = 14.0  # at the ends of a border no edge begins or ends
_SHARE = 0.3  # ... and not further from its middle than this share of it
_NEAR = 3.0  # as good as straight


@dataclass(frozen=True, slots=True)
class Slot:
    """The corner where both are least, and its size across and along the way that edges run."""

    across: float
    along: float
    width: float
    length: float

    @property
    def end(self) -> float:
        """Where it ends along the way."""
        return self.along + self.length

    @property
    def middle(self) -> float:
        """Its middle across the way."""
        return self.across + self.width / 2

    def moved(self, across: float, along: float) -> Slot:
        """The same elsewhere."""
        return replace(self, across=self.across + across, along=self.along + along)


@dataclass(slots=True)
class Inside:
    """What is in a group, as seen from its corner.

    Attributes:
        members: Boxes and groups right in it.
        lines: Pieces of edges, each with its points once it is laid out.
        places: Of the members.
        gates: Where edges enter and leave, and the row in which room was kept for them.
        width: Across the way.
        length: Along the way.
        heading: How far along its heading reaches.
        corner: Of the group in the picture.
        bands: The rows of members, each from where it begins to where it ends along the way.
    """

    members: list[str] = field(default_factory=list)
    lines: dict[EdgePiece, tuple[Point, ...]] = field(default_factory=dict)
    places: dict[str, Slot] = field(default_factory=dict)
    gates: dict[LineEnd, Point] = field(default_factory=dict)
    width: float = 0.0
    length: float = 0.0
    heading: float = 0.0
    corner: Point = (0.0, 0.0)
    bands: list[Point] = field(default_factory=list)

    def find_bands(self) -> None:
        """Finds the rows, once the members have their places along the way."""
        rows: dict[float, list[Slot]] = {}
        for place in self.places.values():
            rows.setdefault(round(place.along + place.length / 2, 1), []).append(place)
        self.bands = sorted(
            (min(one.along for one in row), max(one.end for one in row)) for row in rows.values()
        )

    def extent(self, passing: Sequence[Point]) -> tuple[float, float, float, float]:
        """From where to where its members, gates and lines are: across, along, across, along."""
        places = self.places.values()
        gates = [across for across, _ in (*self.gates.values(), *passing)]
        across = [*gates, *(place.across for place in places)]
        ends = [*gates, *(place.across + place.width for place in places)]
        along = [place.along for place in places]
        stops = [place.end for place in places]
        edges = min(across, default=0.0), min(along, default=0.0)  # a group may be empty
        return (*edges, max(ends, default=0.0), max(stops, default=0.0))

    def move(self, across: float, along: float) -> None:
        """Moves members, gates and rows."""
        self.bands = [(low + along, high + along) for low, high in self.bands]
        self.places = {name: place.moved(across, along) for name, place in self.places.items()}
        self.gates = {end: (x + across, y + along) for end, (x, y) in self.gates.items()}

    def straighten(
        self, proposed: Mapping[EdgePiece, Sequence[Point]], insides: Mapping[str, Inside]
    ) -> None:
        """Moves gates, and boxes with one line, to where that line ends, where there is room.

        dagre takes the middle of a group for the place at which lines reach it.

        Args:
            proposed: Where dagre has lines pass rows.
            insides: All groups, for the gates of those that are members.
        """
        passing = [point for points in proposed.values() for point in points]
        ends: dict[LineEnd, list[float]] = {}
        for line in self.lines:
            source, target, tensor = line
            way = [x for x, _ in self._between(line, self.at_rows(proposed.get(line, ())))]
            after = way[0] if way else self._anchor(target, (ENTRY, tensor), insides)
            before = way[-1] if way else self._anchor(source, (EXIT, tensor), insides)
            ends.setdefault(source, []).append(after)
            ends.setdefault(target, []).append(before)
        for end, (goal, *more) in ends.items():
            if more:
                continue
            if end[0] != INSIDE:
                self._move_gate(end, goal, passing)
            elif end[1] not in insides:
                self._move_box(end[1], goal, passing)

    def _move_gate(self, end: LineEnd, goal: float, passing: Sequence[Point]) -> None:
        row = self.gates[end][1]
        others = [at for gate, (at, _) in self.gates.items() if gate[0] == end[0] and gate != end]
        others += [x for x, y in passing if abs(y - row) < 1]
        beside = [one for one in self.places.values() if one.along <= row <= one.end]
        if all(abs(at - goal) >= _LANE for at in others) and not any(
            one.across - _LANE < goal < one.across + one.width + _LANE for one in beside
        ):
            self.gates[end] = goal, row

    def _move_box(self, name: str, goal: float, passing: Sequence[Point]) -> None:
        place = self.places[name]
        moved = place.moved(goal - place.middle, 0.0)
        low, high = moved.across - _LANE, moved.across + moved.width + _LANE
        others = [
            (one.across, one.across + one.width)
            for other, one in self.places.items()
            if other != name and one.along < place.end and one.end > place.along
        ]
        others += [(x, x) for x, y in passing if place.along < y < place.end]
        others += [(x, x) for x, y in self.gates.values() if place.along < y < place.end]
        if not any(start < high and stop > low for start, stop in others):
            self.places[name] = moved

    def lanes(self, kept: Container[EdgePiece], passing: Sequence[Point]) -> dict[str, float]:
        """Where beside the rows the lines go that dagre was not told of, those of a box in one.

        Args:
            kept: The lines that it was told of.
            passing: Where those pass rows.
        """
        sources = dict.fromkeys(line[2] for line in self.lines if line not in kept)
        edge = self.extent(passing)[2]
        return {
            source: edge + _LANE * (2 + number % _MOST_LANES)
            for number, source in enumerate(sources)
        }

    def at_rows(self, proposed: Sequence[Point]) -> list[Point]:
        """Points where a line passes rows: where each begins and where it ends.

        Args:
            proposed: Where dagre would have it pass rows, and the room between them.
        """
        return [
            (x, edge)
            for x, y in proposed
            for low, high in self.bands
            if low < y < high
            for edge in (low, high)
        ]

    def down_lane(self, line: EdgePiece, lane: float) -> list[Point]:
        """The points of a line that passes all rows at one place.

        Args:
            line: One of this group's.
            lane: Where across the way.
        """
        first, last = map(self._band, line[:2])
        return [
            (lane, edge)
            for low, high in self.bands
            if (first is None or low >= first[1]) and (last is None or high <= last[0])
            for edge in (low, high)
        ]

    def points(
        self, line: EdgePiece, between: Sequence[Point], insides: Mapping[str, Inside]
    ) -> tuple[Point, ...]:
        """Where a line goes.

        Args:
            line: One of this group's.
            between: Where it passes rows.
            insides: All groups, for the gates of those that are members.

        Returns:
            Its points; between two of them it goes sideways only where there are no boxes.
        """
        source, target, tensor = line
        own = self._band(source), self._band(target)
        between = self._between(line, between)
        goal = between[0][0] if between else self._anchor(target, (ENTRY, tensor), insides)
        start = self._at(source, (EXIT, tensor), goal, insides)
        goal = between[-1][0] if between else start
        end = self._at(target, (ENTRY, tensor), goal, insides)
        first = 0.0 if source[0] == ENTRY else self.places[source[1]].end
        last = self.length if target[0] == EXIT else self.places[target[1]].along
        past = [(start, self.heading)] if source[0] == ENTRY and self.heading else []
        past += [(start, own[0][1])] if own[0] and own[0][1] > first + 1 else []
        before = [(end, own[1][0])] if own[1] and own[1][0] < last - 1 else []
        return ((start, first), *past, *between, *before, (end, last))

    def _between(self, line: EdgePiece, way: Sequence[Point]) -> list[Point]:
        """A way without what lies in the rows at which it begins and ends."""
        own = [self._band(end) for end in line[:2]]
        return [point for point in way if not any(b and b[0] <= point[1] <= b[1] for b in own)]

    def _band(self, end: LineEnd) -> Point | None:
        if end[0] == INSIDE:
            place = self.places[end[1]]
            middle = place.along + place.length / 2
        else:
            middle = self.gates[end][1]
        return next((band for band in self.bands if band[0] <= middle <= band[1]), None)

    def _anchor(self, end: LineEnd, gate: LineEnd, insides: Mapping[str, Inside]) -> float:
        """Where across the way something is reached, if nothing speaks against it."""
        if end[0] != INSIDE:
            return self.gates[end][0]
        place, inside = self.places[end[1]], insides.get(end[1])
        return place.middle if inside is None else place.across + inside.gates[gate][0]

    def _at(self, end: LineEnd, gate: LineEnd, goal: float, insides: Mapping[str, Inside]) -> float:
        """Where a line begins or ends: at the border of a box as straight as it can be."""
        anchor = self._anchor(end, gate, insides)
        if end[0] != INSIDE or end[1] in insides or abs(goal - anchor) < _NEAR:
            return anchor
        width = self.places[end[1]].width
        room = max(0.0, min(width / 2 - _CORNER, width * _SHARE))
        return min(anchor + room, max(anchor - room, goal))


def curve_through(points: Sequence[Point]) -> tuple[Point, ...]:
    """A smooth way through points that lie along it, as Bezier pieces, and the arrow's tip.

    Args:
        points: At least two, the last one where the arrow ends.

    Returns:
        One point, three for each piece, and the tip.
    """
    *_, before, tip = points
    curve = [points[0]]
    stop = max(tip[1] - _ARROW, (before[1] + tip[1]) / 2)
    for (x, y), (goal, end) in pairwise([*points[:-1], (tip[0], stop)]):
        middle = (y + end) / 2
        curve += [(x, middle), (goal, middle), (goal, end)]
    return (*curve, tip)


def leading_back(
    ends: Sequence[tuple[Slot, Slot]], boxes: Mapping[str, Slot]
) -> list[tuple[Point, ...]]:
    """Edges that lead back, or from a box to itself: around what lies beside the way.

    Args:
        ends: Where each begins and ends.
        boxes: All boxes.

    Returns:
        A curve each, as `curve_through` returns.
    """
    found: list[tuple[Point, ...]] = []
    for number, (source, target) in enumerate(ends):
        begin, stop = source.along + source.length * 0.6, target.along + target.length * 0.4
        low, high = min(begin, stop), max(begin, stop)
        beside = [one for one in boxes.values() if one.along <= high and one.end >= low]
        edge = max(one.across + one.width for one in beside) + 2 * _LANE + _LANE * number
        start, tip = source.across + source.width, target.across + target.width
        there = (start, begin), (edge, begin), (edge, begin), (edge, (begin + stop) / 2)
        back = (edge, stop), (edge, stop), (tip + _ARROW, stop), (tip, stop)
        found.append((*there, *back))
    return found
