"""A graph as one interactive page that needs no network and no server.

The page holds what is known of the graph (``page_data``) and a script that lays out and draws what
is open. The script is the build of the modules in ``writers/page/src``. A content security policy
in the page lets that very script and style run, known by their hashes, and nothing else: whatever
a graph's names say, they are texts.
"""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.health import StepHealth
from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.writers.page_data import PageDifferences, page_data


@dataclass(frozen=True)
class PageGraph:
    """One of the graphs that a page shows.

    Attributes:
        analysis: The analysis of a sound graph.
        label: What it is called in the list of graphs.
        times_us: Microseconds by the names of its ops, if a step was timed: the page can show
            them as a colour then.
        health: A step that was looked into, if one was, for colours likewise.
        differences: If it is two graphs merged into one.
        measured: All that was measured, in the place of ``times_us``; ``None``: what the analysis
            has.
    """

    analysis: Analysis
    label: str = ""
    times_us: Mapping[str, float] | None = None
    health: StepHealth | None = None
    differences: PageDifferences | None = None
    measured: MeasuredCosts | None = None


def render(
    analysis: Analysis,
    *,
    depth: int | None = None,
    times_us: Mapping[str, float] | None = None,
    health: StepHealth | None = None,
    code: Mapping[str, Mapping[int, str]] | None = None,
) -> bytes:
    """Writes the page of one graph.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules are open at first; ``None``: as many as stay readable in
            the window.
        times_us: As for `PageGraph`.
        health: Likewise.
        code: As for `render_pages`.

    Returns:
        HTML 5, UTF-8; it loads nothing and sends nothing.
    """
    graph = PageGraph(analysis, times_us=times_us, health=health)
    return render_pages([graph], depth=depth, code=code)


def render_pages(
    graphs: Sequence[PageGraph],
    *,
    depth: int | None = None,
    code: Mapping[str, Mapping[int, str]] | None = None,
) -> bytes:
    """Writes a page of several graphs, with a switch between them.

    Args:
        graphs: At least one; the first one is shown first.
        depth: As for `render`.
        code: Lines of source by their numbers, by the name of the file: they are shown beside what
            comes from there.

    Returns:
        As `render`.
    """
    data = {
        "depth": depth,
        "code": {file: _blocks(lines) for file, lines in (code or {}).items()},
        "graphs": [
            page_data(
                one.analysis,
                one.measured or one.analysis.measured or MeasuredCosts(one.times_us or {}),
                one.label,
                one.differences,
                one.health,
            )
            for one in graphs
        ],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Names can hold half a surrogate pair, which no file can.
    packed = gzip.compress(text.encode(errors="replace"), compresslevel=9, mtime=0)
    parts = _assets()
    contents = {
        "TITLE": escape(graphs[0].analysis.graph.name),
        "STYLE": parts["css"],
        "STYLEHASH": _policy_hash(parts["css"]),
        "SCRIPT": parts["js"],
        "SCRIPTHASH": _policy_hash(parts["js"]),
        "DATA": b64encode(packed).decode(),
    }
    # In one go, so that no mark within a content is taken for one of the page's.
    page = re.sub(r"@@([A-Z]+)@@", lambda mark: contents[mark[1]], parts["html"])
    return page.encode(errors="replace")


def _blocks(lines: Mapping[int, str]) -> list[list[Any]]:
    """Lines that follow each other as one row: the number of the first, and their texts."""
    rows: list[list[Any]] = []
    last = 0
    for number, text in sorted(lines.items()):
        if rows and number == last + 1:
            rows[-1].append(text)
        else:
            rows.append([number, text])
        last = number
    return rows


@cache
def _assets() -> dict[str, str]:
    home = files("modelviz_callbacks.writers") / "assets"
    return {name: (home / f"page.{name}").read_text("utf-8") for name in ("html", "css", "js")}


def _policy_hash(text: str) -> str:
    """A script or style as a content security policy names it."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
