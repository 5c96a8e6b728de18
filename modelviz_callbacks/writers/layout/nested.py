"""Boxes in nested groups, laid out by dagre: each group by itself, as one large box in its group.

All is reckoned across the way that edges run and along it, so that pictures from top to bottom and
from left to right are the same work. An edge that leaves a group goes through a gate at its end,
and one that enters it through a gate at its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from modelviz_callbacks.writers.layout.dagre import Dagre, Rows, in_deep_thread
from modelviz_callbacks.writers.layout.lines import (
    ENTRY,
    EXIT,
    INSIDE,
    EdgePiece,
    Inside,
    LineEnd,
    Slot,
    curve_through,
    leading_back,
)
from modelviz_callbacks.writers.layout.places import PictureLayout, Place, Point, Size
from modelviz_callbacks.writers.layout.thinning import thinned

_EDGE = 11.0  # between a frame and what is in it
_BELOW_HEADING = 15.0
_GATE = 2.0
# How straight edges are: to a gate's row, to the next box, further.
_PINNED, _NEXT, _FURTHER = 8, 6, 2
# With more lines than these and so many a box, the longest are drawn beside the rows.
_FEW, _DENSE = 20, 4


def lay_out(
    boxes: Mapping[str, Size],
    groups: Mapping[str, Size],
    edges: Sequence[tuple[str, str]],
    known: dict[str, Any],
    *,
    to_the_right: bool = False,
    loose: Sequence[tuple[str, str]] = (),
) -> PictureLayout:
    """Places boxes from top to bottom along their edges.

    Args:
        boxes: What room each box needs.
        groups: What room each group's heading needs; a group comes before those in it.
        edges: Pairs of names of boxes.
        known: What was answered before, by what was asked; gets the new answer. Modules that look
            alike need to be laid out once.
        to_the_right: From left to right instead.
        loose: Further edges, along which nothing is placed: they may lead back, or from a box to
            itself. They come after the others.

    Returns:
        Where they are.

    Raises:
        ImportError: There is no QuickJS.
        WriterError: It took too long, or failed.
    """

    def work() -> PictureLayout:
        nested = _Nested(boxes, groups, Dagre(known), to_the_right=to_the_right)
        return nested.layout(edges, loose)

    return in_deep_thread(work)


class _Nested:
    def __init__(
        self,
        boxes: Mapping[str, Size],
        groups: Mapping[str, Size],
        dagre: Dagre,
        *,
        to_the_right: bool,
    ) -> None:
        self.boxes, self.groups = boxes, groups
        self.sizes = {**groups, **boxes}
        self.dagre = dagre
        self.turned = to_the_right
        self.insides = {name: Inside() for name in ("", *groups)}
        for name, size in self.sizes.items():
            self.insides[size.group].members.append(name)

    def layout(
        self, edges: Sequence[tuple[str, str]], loose: Sequence[tuple[str, str]]
    ) -> PictureLayout:
        """Everything in its place."""
        ways = [list(self._way(source, target)) for source, target in edges]
        for group, line in (step for way in ways for step in way):
            self.insides[group].lines[line] = ()
        for name in reversed(self.insides):  # what is inside comes before what is around
            self._arrange(name)
        found = dict(self._placed("", 0.0, 0.0))
        curves = [self._curve(way, found) for way in ways]
        drawn = {name: found[name] for name in self.boxes}
        curves += leading_back([(found[one], found[other]) for one, other in loose], drawn)
        width = max(self.insides[""].width, *(x for curve in curves for x, _ in curve), 0.0)
        return PictureLayout(
            *self._turn(width, self.insides[""].length),
            {name: self._place(place) for name, place in drawn.items()},
            {name: (self._place(found[name]),) for name in self.groups},
            tuple(tuple(self._turn(*point) for point in curve) for curve in curves),
        )

    def _around(self, name: str) -> list[str]:
        """The groups around a box or group, the innermost first, the whole picture last."""
        found = [self.sizes[name].group]
        while found[-1]:
            found.append(self.sizes[found[-1]].group)
        return found

    def _way(self, source: str, target: str) -> Iterator[tuple[str, EdgePiece]]:
        """The lines of which an edge is made, each with the group it is in."""
        out, into = self._around(source), self._around(target)
        shared = next(group for group in out if group in into)
        here: LineEnd = (INSIDE, source)
        for group in out[: out.index(shared)]:
            yield group, (here, (EXIT, source), source)
            here = (INSIDE, group)
        entered = [target, *into[: into.index(shared) + 1]]
        for group, inner in pairwise(reversed(entered)):
            yield group, (here, (INSIDE, inner), source)
            here = (ENTRY, source)

    def _arrange(self, name: str) -> None:
        """Lays out one group, once all groups in it are."""
        inside = self.insides[name]
        ends = [(INSIDE, member) for member in inside.members]
        gates = [end for line in inside.lines for end in line[:2] if end[0] != INSIDE]
        ends += dict.fromkeys(gates)
        kept, rows = self._rows(inside, ends)
        for end, (across, along) in zip(ends, rows.middles, strict=False):
            if end[0] == INSIDE:
                width, length = self._size(end[1])
                corner = across - width / 2, along - length / 2
                inside.places[end[1]] = Slot(*corner, width, length)
            else:
                inside.gates[end] = across, along
        inside.find_bands()
        proposed = dict(zip(kept, (points[1:-1] for points in rows.edges), strict=False))
        passing = [point for points in proposed.values() for point in points]
        inside.straighten(proposed, self.insides)
        lanes = inside.lanes(proposed, passing)
        passing += [(at, 0.0) for at in lanes.values()]
        across, along = self._frame(name, inside, passing)
        inside.move(across, along)
        for line in inside.lines:
            if line in proposed:
                between = inside.at_rows([(x + across, y + along) for x, y in proposed[line]])
            else:
                between = inside.down_lane(line, lanes[line[2]] + across)
            inside.lines[line] = inside.points(line, between, self.insides)

    def _rows(self, inside: Inside, ends: Sequence[LineEnd]) -> tuple[list[EdgePiece], Rows]:
        """Asks dagre for the rows of a group: its members, its gates, and what pins the gates.

        With very many lines it is told of those only that say which box comes after which.
        """
        number = {end: at for at, end in enumerate(ends)}
        sizes = [self._size(name) if kind == INSIDE else (_GATE, _GATE) for kind, name in ends]
        lines = list(inside.lines)
        pairs = [(number[one], number[other]) for one, other, _ in lines]
        kept = thinned(pairs, len(ends), _FEW + _DENSE * len(ends))
        edges = [
            (one, other, _NEXT if other - one == 1 else _FURTHER)
            for one, other in (pairs[line] for line in kept)
        ]
        for kind, at in ((ENTRY, 1), (EXIT, 0)):
            gates = [number[end] for end in ends if end[0] == kind]
            led = {edge[at] for edge in edges}
            loose = [n for n, end in enumerate(ends) if end[0] == INSIDE and n not in led]
            if gates and len(gates) + len(loose) > 1:
                pin = len(sizes)
                sizes.append((1.0, 1.0))
                # What else has no edge there must not stand in the gates' way.
                pinned = [(n, _PINNED) for n in gates] + [(n, 0) for n in loose]
                edges += [(pin, n, weight) if at else (n, pin, weight) for n, weight in pinned]
        return [lines[line] for line in kept], self.dagre.rows(sizes, edges)

    def _size(self, name: str) -> tuple[float, float]:
        """Across and along."""
        if name in self.groups:
            inside = self.insides[name]
            return inside.width, inside.length
        return self._turn(self.boxes[name].width, self.boxes[name].height)

    def _frame(self, name: str, inside: Inside, passing: Sequence[Point]) -> Point:
        """Sets the size of a group; how far what is in it is to be moved into its frame."""
        left, top, right, bottom = inside.extent(passing)
        if not name:
            inside.width, inside.length = right - left, bottom - top
            return -left, -top
        heading = self.groups[name]
        above = heading.height + _BELOW_HEADING
        if self.turned:  # what is above is across
            inside.width = above + right - left + _EDGE
            inside.length = max(bottom - top, heading.width) + 2 * _EDGE
            return above - left, (inside.length - (bottom - top)) / 2 - top
        inside.heading = heading.height + _EDGE / 2
        inside.width = max(right - left, heading.width) + 2 * _EDGE
        inside.length = above + bottom - top + _EDGE
        return (inside.width - (right - left)) / 2 - left, above - top

    def _placed(self, name: str, across: float, along: float) -> Iterator[tuple[str, Slot]]:
        """All boxes and groups in a group whose corner is there."""
        inside = self.insides[name]
        inside.corner = across, along
        for member, place in inside.places.items():
            moved = place.moved(across, along)
            yield member, moved
            if member in self.groups:
                yield from self._placed(member, moved.across, moved.along)

    def _curve(
        self, way: Sequence[tuple[str, EdgePiece]], found: Mapping[str, Slot]
    ) -> tuple[Point, ...]:
        points: list[Point] = []
        for group, line in way:
            across, along = self.insides[group].corner
            moved = [(x + across, y + along) for x, y in self.insides[group].lines[line]]
            points += moved[1:] if points else moved
        if points[0][1] > points[-1][1]:  # one of a ring of edges must lead back
            (_, source), (_, target) = way[0][1][0], way[-1][1][1]
            ends = [(found[source], found[target])]
            return leading_back(ends, {name: found[name] for name in self.boxes})[0]
        return curve_through(points)

    def _place(self, place: Slot) -> Place:
        corner = self._turn(place.across, place.along)
        return Place(*corner, *self._turn(place.width, place.length))

    def _turn(self, across: float, along: float) -> Point:
        return (along, across) if self.turned else (across, along)
