"""A graph as one interactive page that needs no network and no server.

The page holds one picture a module that can be looked into, laid out now, and what is known
of each box; its script (``assets/page.js``) only shows them. Repeats are laid out once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.graph.model import ModuleCall
from modelviz_callbacks.view.box import Box, Group
from modelviz_callbacks.view.formatting import count_text, module_label
from modelviz_callbacks.view.overview import Overview, overview
from modelviz_callbacks.writers.html_details import Details
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
from modelviz_callbacks.writers.svg import scheme_rules

# A page with more pictures would take minutes to lay out: what is deeper is not opened then.
MOST_VIEWS = 1000


def render(
    analysis: Analysis,
    *,
    depth: int | None = None,
    times_us: Mapping[str, float] | None = None,
    most_views: int = MOST_VIEWS,
) -> bytes:
    """Writes the page.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules each picture opens; ``None``: as many as stay readable.
        times_us: Microseconds by the names of its ops, if a step was timed: the page can show
            them as a colour then.
        most_views: How many modules can be looked into, the outer ones first.

    Returns:
        HTML 5, UTF-8; it loads nothing and sends nothing.

    Raises:
        WriterError: Graphviz is not there or could not lay it out.
    """
    data = _Page(analysis, depth, times_us or {}, most_views).data()
    # In a script element only "<" could end it; JSON has another way to write it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    assets = files("modelviz_callbacks.writers") / "assets"
    parts = {name: (assets / f"page.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    contents = {
        "TITLE": escape(analysis.graph.name),
        "STYLE": parts["css"] + _colours(),
        "SCRIPT": parts["js"],
        "DATA": text,
    }
    # In one go, so that no mark within a content is taken for one of the page's.
    page = re.sub(r"@@([A-Z]+)@@", lambda mark: contents[mark[1]], parts["html"])
    return page.encode(errors="replace")


def _colours() -> str:
    """The looks of the boxes, light and dark, and the page's own colours."""
    schemes = []
    for number in (0, 1):
        own = {"page": PAGE, "text": TEXT, "muted": MUTED, "line": LOOKS["group0"].stroke}
        own |= {"panel": LOOKS["group0"].fill, "accent": LOOKS["trainable"].stroke}
        words = "".join(f"--{name}:{pair[number]};" for name, pair in own.items())
        schemes.append(f":root{{{words}}}{scheme_rules(number)}")
    dashed = "".join(
        f"svg .{role}{{stroke-dasharray:4 2}}" for role, look in LOOKS.items() if look.dashed
    )
    return f"{dashed}{schemes[0]}@media(prefers-color-scheme:dark){{{schemes[1]}}}"


class _Page:
    def __init__(
        self,
        analysis: Analysis,
        depth: int | None,
        times_us: Mapping[str, float],
        most_views: int,
    ) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.outline = analysis.outline
        self.depth = depth
        self.most_views = most_views
        self.details = Details(analysis, times_us)
        self.items: dict[str, Item] = {
            item.name: item for items in self.outline.items.values() for item in items
        }

    def data(self) -> dict[str, Any]:
        weights = self.analysis.weights.total
        return {
            "name": self.graph.name,
            "facts": [
                self.graph.class_name,
                f"{count_text(weights.count)} parameters",
                f"{count_text(weights.trainable)} trainable",
                f"{count_text(len(self.graph.ops))} ops",
            ],
            "notes": [note.message for note in self.graph.notes],
            "meanings": {role: look.meaning for role, look in LOOKS.items() if look.meaning},
            "views": {scope: self._view(scope) for scope in self._scopes()},
        }

    def _scopes(self) -> list[str]:
        """What can be looked into, outer first, repeats once."""
        steps = self.analysis.steps(sizes=True)
        found = [""]
        for scope in found:
            for step in steps.of(scope):
                for item in step.items:
                    if isinstance(item, ModuleCall) and len(found) < self.most_views:
                        nodes = list(self.outline.calls_in(item))
                        if len(nodes) > 1 and nodes[0].name not in steps.stand_in:
                            found.append(item.name)
        self.opens = frozenset(found)
        return found

    def _view(self, scope: str) -> dict[str, Any]:
        view = overview(self.analysis, scope=scope, depth=self.depth)
        drawn = picture(self.analysis, scope=scope, depth=self.depth, framed=False)
        call = self.graph.module_by_name.get(scope)
        around = self.outline.scope_of(call) if call else ""
        return {
            "parent": around if call else None,
            "label": module_label(self.graph, call, around) if call else self.graph.name,
            "width": round(drawn.width, 1),
            "height": round(drawn.height, 1),
            "shapes": list(_shapes(drawn)),
            "boxes": dict(self._boxes(view)),
            "title": call.type_name if call else self.graph.name,
            "rows": self.details.of(call)["rows"] if call else [],
        }

    def _boxes(self, view: Overview) -> Iterator[tuple[str, dict[str, Any]]]:
        every: tuple[Box | Group, ...] = (*view.groups, *view.boxes)
        for box in every:
            item = self.items.get(box.name)
            about = self._about(box, item)
            if isinstance(item, ModuleCall) and box.name in self.opens:
                about["open"] = item.name
            yield box.name, about

    def _about(self, box: Box | Group, item: Item | None) -> dict[str, Any]:
        """What the page knows of a box: rows for its panel, and values for its colour."""
        about: dict[str, Any] = {
            "title": box.title + (f" ×{box.times}" if box.times > 1 else ""),
            "label": box.label,
            "rows": [],
        }
        if isinstance(box, Box) and box.is_inner_end:
            about["inner_end"] = True
        node = self.graph.by_name.get(box.name)
        if item is not None:
            about |= self.details.of(item, box.times)
            if box.unlike:
                every = [self.details.of(self.items[name]) for name in box.unlike]
                about |= {
                    key: sum(one[key] for one in every) for key in ("params", "flops", "time")
                }
        elif node is not None:
            about |= self.details.of_tensor(node)
        else:
            about["rows"] = [["output", box.made], ["details", box.details]]
        return about


def _shapes(drawn: Picture) -> Iterator[list[Any]]:
    """Shapes as short lists: ``b`` rectangle, ``t`` text, ``a`` arrow."""
    for shape in drawn.shapes:
        if isinstance(shape, Rectangle):
            place = shape.place
            sizes = [round(n, 1) for n in (place.x, place.y, place.width, place.height)]
            yield ["b", shape.name, shape.role, *sizes, round(shape.radius, 1)]
        elif isinstance(shape, Text):
            line = shape.line
            style = ("m" if shape.centred else "") + ("b" if line.bold else "")
            style += "u" if line.muted else ""
            at = [round(shape.x, 1), round(shape.y, 1)]
            yield ["t", shape.owner, shape.role, *at, line.size, style, line.text]
        elif isinstance(shape, Arrow):
            points = [round(number, 1) for point in shape.points for number in point]
            yield ["a", shape.source, shape.target, shape.role, points]
