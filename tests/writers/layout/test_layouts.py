"""Where a layout puts things: nothing lies on another, and edges lead from box to box."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.layout import PictureLayout, Place, Size, lay_out
from modelviz_callbacks.writers.layout import dagre as dagre_module
from modelviz_callbacks.writers.layout.thinning import thinned
from modelviz_callbacks.writers.picture import Arrow, Rectangle, picture
from tests.networks import NETWORKS, graph_of

Edges = list[tuple[str, str]]
HEADING = 17.0


def nested_at_random(seed: int) -> tuple[dict[str, Size], dict[str, Size], Edges]:
    """Boxes in up to three levels of groups, edges from earlier boxes to later ones."""
    chosen = Random(seed)
    groups: dict[str, Size] = {}
    boxes: dict[str, Size] = {}
    here = [""]
    for number in range(chosen.randint(8, 26)):
        if len(here) < 4 and chosen.random() < 0.3:
            name = f"g{number}"
            groups[name] = Size(chosen.uniform(40, 180), HEADING, here[-1])
            here.append(name)
            boxes[f"b{number}_"] = Size(60, 30, name)  # no group is empty
        elif len(here) > 1 and chosen.random() < 0.3:
            here.pop()
        boxes[f"b{number}"] = Size(chosen.uniform(30, 160), chosen.uniform(18, 60), here[-1])
    names = list(boxes)
    edges = [(a, b) for a, b in pairwise(names) if chosen.random() < 0.85]
    for _ in range(len(names) // 3):
        start = chosen.randrange(len(names) - 1)
        edges.append((names[start], names[chosen.randrange(start + 1, len(names))]))
    return boxes, groups, list(dict.fromkeys(edges))


def around(name: str, sizes: dict[str, Size]) -> list[str]:
    found = []
    while name:
        name = sizes[name].group
        found.append(name)
    return found


def bezier(curve: tuple[tuple[float, float], ...]) -> Iterator[tuple[float, float]]:
    """Points along a curve, and its tip."""
    *points, tip = curve
    for at in range(0, len(points) - 1, 3):
        a, b, c, d = points[at : at + 4]
        for step in range(9):
            t = step / 8
            yield tuple(  # type: ignore[misc]
                (1 - t) ** 3 * a[k]
                + 3 * t * (1 - t) ** 2 * b[k]
                + 3 * t * t * (1 - t) * c[k]
                + t**3 * d[k]
                for k in (0, 1)
            )
    yield tip


def is_in(point: tuple[float, float], place: Place, by: float) -> bool:
    return (
        place.x + by < point[0] < place.x + place.width - by
        and place.y + by < point[1] < place.y + place.height - by
    )


def holds(outer: Place, inner: Place, top: float = 0.0) -> bool:
    return (
        outer.x - 0.1 <= inner.x
        and outer.y + top - 0.1 <= inner.y
        and inner.x + inner.width <= outer.x + outer.width + 0.1
        and inner.y + inner.height <= outer.y + outer.height + 0.1
    )


def apart(one: Place, other: Place) -> bool:
    return (
        one.x + one.width <= other.x + 0.1
        or other.x + other.width <= one.x + 0.1
        or one.y + one.height <= other.y + 0.1
        or other.y + other.height <= one.y + 0.1
    )


def faults(
    layout: PictureLayout, boxes: dict[str, Size], groups: dict[str, Size], edges: Edges
) -> list[str]:
    """What is not as it should be."""
    sizes = {**boxes, **groups}
    places = {**layout.boxes, **{name: only for name, (only,) in layout.groups.items()}}
    whole = Place(0, 0, layout.width, layout.height)
    found = [f"{name} lies outside" for name in places if not holds(whole, places[name])]
    for name in sizes:
        group = sizes[name].group
        if group and not holds(places[group], places[name], HEADING):
            found.append(f"{name} is not in {group}")
        for other in sizes:
            if (
                other > name
                and sizes[other].group == group
                and not apart(places[name], places[other])
            ):
                found.append(f"{name} and {other} lie on each other")
    for (source, target), curve in zip(edges, layout.edges, strict=True):
        if len(curve) % 3 != 2:
            found.append(f"{source} -> {target} is no curve")
        if not touches(curve[0], places[source]) or not touches(curve[-1], places[target]):
            found.append(f"{source} -> {target} does not lead from one to the other")
        ends = {source, target, *around(source, sizes), *around(target, sizes)}
        crossed = [
            n
            for n in places
            if n not in ends
            if any(is_in(p, places[n], 1.5) for p in bezier(curve))
        ]
        found += [f"{source} -> {target} runs through {name}" for name in crossed]
    return found


def touches(point: tuple[float, float], place: Place) -> bool:
    """Whether it is on the border, give or take a line's width."""
    grown = Place(place.x - 2, place.y - 2, place.width + 4, place.height + 4)
    return is_in(point, grown, 0) and not is_in(point, place, 2)


@pytest.mark.alike
@pytest.mark.parametrize("to_the_right", [False, True])
@pytest.mark.parametrize("seed", range(15))
def test_random_nested_boxes_are_laid_out_without_a_fault(seed: int, to_the_right: bool) -> None:
    boxes, groups, edges = nested_at_random(seed)
    layout = lay_out(boxes, groups, edges, {}, to_the_right=to_the_right)
    assert faults(layout, boxes, groups, edges) == []
    for name, size in boxes.items():
        place = layout.boxes[name]
        assert (place.width, place.height) == pytest.approx((size.width, size.height), abs=0.01)
    for source, target in edges:
        one, other = layout.boxes[source], layout.boxes[target]
        assert (one.x < other.x) if to_the_right else (one.y < other.y)
    again = lay_out(boxes, groups, edges, {}, to_the_right=to_the_right)
    assert again == layout


@pytest.mark.parametrize("direction", ["down", "right"])
@pytest.mark.parametrize("name", NETWORKS)
def test_in_pictures_of_networks_no_edge_runs_behind_a_box(name: str, direction: Any) -> None:
    drawn = picture(Analysis(graph_of(name)), direction=direction)
    places = {
        shape.name: shape.place
        for shape in drawn.shapes
        if isinstance(shape, Rectangle)
        and shape.name
        and not shape.role.startswith(("group", "head"))
    }
    arrows = [shape for shape in drawn.shapes if isinstance(shape, Arrow)]
    assert len(arrows) >= 3
    for arrow in arrows:
        others = [n for n in places if n not in (arrow.source, arrow.target)]
        assert not [
            n for n in others if any(is_in(point, places[n], 1.5) for point in bezier(arrow.points))
        ]


def test_nothing_and_empty_groups_have_places_too() -> None:
    nothing = lay_out({}, {}, [], {})
    assert (nothing.boxes, nothing.groups, nothing.edges) == ({}, {}, ())
    groups = {"full": Size(50, HEADING), "empty": Size(80, HEADING, "full")}
    boxes = {"a": Size(60, 30, "full")}
    layout = lay_out(boxes, groups, [], {})
    assert faults(layout, boxes, groups, []) == []
    assert layout.groups["empty"][0].width >= 80


def test_an_edge_that_leads_back_goes_around() -> None:
    boxes = {name: Size(80, 30) for name in "abcd"}
    edges = [("a", "b"), ("b", "c"), ("c", "d")]
    loose = [("d", "b"), ("c", "c")]
    layout = lay_out(boxes, {}, edges, {}, loose=loose)
    assert [layout.boxes[name].y for name in "abcd"] == sorted(p.y for p in layout.boxes.values())
    assert faults(layout, boxes, {}, edges + loose) == []
    assert len(layout.edges) == 5


def test_a_ring_of_edges_is_laid_out_with_one_that_leads_back() -> None:
    groups = {"g": Size(50, HEADING)}
    boxes = {"a": Size(60, 30, "g"), "out": Size(60, 30), "b": Size(60, 30, "g")}
    # Through what is outside, back into the group: g -> out -> g.
    edges = [("a", "out"), ("out", "b"), ("a", "b")]
    layout = lay_out(boxes, groups, edges, {})
    assert faults(layout, boxes, groups, edges) == []


def test_what_looks_alike_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = dagre_module.Dagre._answer

    def counted(self: Any, question: str, nodes: int) -> str:
        asked.append(question)
        return real(self, question, nodes)

    monkeypatch.setattr(dagre_module.Dagre, "_answer", counted)
    groups = {name: Size(50, HEADING) for name in ("one", "two", "three")}
    boxes = {f"{group}{n}": Size(60, 30, group) for group in groups for n in range(3)}
    names = list(boxes)
    edges = list(pairwise(names))
    known: dict[str, Any] = {}
    lay_out(boxes, groups, edges, known)
    # The first, the middle and the last one have other gates; the fourth is the whole.
    assert len(asked) == 4
    lay_out(boxes, groups, edges, known)
    assert len(asked) == 4


def test_a_picture_of_many_boxes_in_a_row_is_laid_out() -> None:
    boxes = {str(n): Size(60, 30) for n in range(400)}
    edges = [(str(n), str(n + 1)) for n in range(399)]
    layout = lay_out(boxes, {}, edges, {})
    assert layout.height > 400 * 30
    assert layout.width < 100


def test_what_takes_too_long_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagre_module, "_MOST_CPU_S", 0.05)
    chosen = Random(0)
    boxes = {str(n): Size(60, 30) for n in range(60)}
    pairs = [sorted(chosen.sample(range(60), 2)) for _ in range(240)]
    edges = [(str(a), str(b)) for a, b in pairs]
    with pytest.raises(WriterError, match=r"60 boxes.*could not.*Ask for a smaller depth\."):
        lay_out(boxes, {}, edges, {})


@pytest.mark.parametrize("to_the_right", [False, True])
def test_of_very_many_edges_the_long_ones_go_beside_the_boxes(to_the_right: bool) -> None:
    boxes = {str(n): Size(100, 40) for n in range(26)}
    edges = [(str(a), str(b)) for a in range(26) for b in range(a + 1, 26)]
    layout = lay_out(boxes, {}, edges, {}, to_the_right=to_the_right)
    assert faults(layout, boxes, {}, edges) == []
    places = [(place.x if to_the_right else place.y) for place in layout.boxes.values()]
    assert places == sorted(places)


@pytest.mark.alike
@pytest.mark.parametrize("seed", range(20))
def test_the_chosen_lines_tell_the_same_order_as_all(seed: int) -> None:
    chosen = Random(seed)
    nodes = chosen.randint(5, 30)
    order = chosen.sample(range(nodes), nodes)
    pairs = [sorted(chosen.sample(range(nodes), 2)) for _ in range(nodes * 6)]
    lines = list({(order[a], order[b]) for a, b in pairs})
    few = thinned(lines, nodes, nodes * 2)
    assert len(few) < len(lines)
    assert few == sorted(set(few))
    assert after([lines[line] for line in few], nodes) == after(lines, nodes)
    assert thinned(lines, nodes, len(lines)) == list(range(len(lines)))


def after(lines: Edges | list[tuple[int, int]], nodes: int) -> list[set[int]]:
    """What can be reached from each node."""
    found = [set[int]() for _ in range(nodes)]
    for _ in range(nodes):
        for source, target in lines:
            found[int(source)] |= {int(target)} | found[int(target)]
    return found
