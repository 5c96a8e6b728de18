"""Rows of nodes by dagre, the layout library of the interactive page, run by QuickJS.

Both are small and the same on every platform. The script is the build of
``writers/page/src/rows.js``.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.layout.places import Point

_T = TypeVar("_T")

# dagre walks along edges by recursion: a chain of a thousand boxes needs more than a thread has.
_STACK_BYTES = 256 << 20
_SCRIPT_STACK_BYTES = 192 << 20
_MOST_CPU_S = 30


@dataclass(frozen=True, slots=True)
class Rows:
    """Where nodes are, and the points of edges between them, in points, y downwards.

    Attributes:
        middles: Of the nodes.
        edges: From the border of the first node to that of the second; the points between are at
            the middles of the rows, and between rows.
    """

    middles: tuple[Point, ...]
    edges: tuple[tuple[Point, ...], ...]


class Dagre:
    """The script in a JavaScript engine; see `in_deep_thread`.

    Raises:
        ImportError: There is no QuickJS.
    """

    def __init__(self, known: dict[str, Any]) -> None:
        """Starts an engine.

        Args:
            known: What was answered before, by what was asked; gets new answers. Modules that
                look alike need to be laid out once.
        """
        import quickjs

        self._quickjs = quickjs
        self._known = known

    @functools.cached_property
    def _ask(self) -> Callable[[str], object]:
        """The script's function; read when it is needed: often everything is known."""
        context = self._quickjs.Context()
        context.set_max_stack_size(_SCRIPT_STACK_BYTES)
        context.set_time_limit(_MOST_CPU_S)
        script = files("modelviz_callbacks.writers") / "assets" / "rows.js"
        context.eval(script.read_text(encoding="utf-8"))
        ask: Callable[[str], object] = context.get("rowsOf")
        return ask

    def rows(
        self, sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int, int]]
    ) -> Rows:
        """Places nodes in rows from top to bottom along edges.

        Args:
            sizes: Width and height of each node, in points.
            edges: From which node to which, by number, and how straight it should be: the larger
                the straighter.

        Returns:
            Where they are.

        Raises:
            WriterError: It took too long, or failed.
        """
        asked = json.dumps({"nodes": sizes, "edges": edges})
        if asked not in self._known:
            self._known[asked] = json.loads(self._answer(asked, len(sizes)))
        found = self._known[asked]
        return Rows(
            tuple((x, y) for x, y in found["nodes"]),
            tuple(tuple((x, y) for x, y in points) for points in found["edges"]),
        )

    def _answer(self, asked: str, nodes: int) -> str:
        try:
            return str(self._ask(asked))
        except self._quickjs.JSException as error:
            raise WriterError(
                f"A picture with {nodes} boxes beside each other could not be laid out "
                f"({str(error).splitlines()[0]}). Ask for a smaller depth."
            ) from error


def in_deep_thread(work: Callable[[], _T]) -> _T:
    """Does something in a thread with much stack, and waits for it.

    Args:
        work: What to do; what it raises is raised here.

    Returns:
        What it returned.
    """
    done: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # raised again below
            failed.append(error)

    before = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="modelviz-layout")
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
