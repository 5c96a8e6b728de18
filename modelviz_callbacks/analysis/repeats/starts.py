"""Where the body of a repeat begins: what comes again does so from any of its items on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.graph.model import ModuleCall

# Fewer copies than this are not preferred to more that begin elsewhere.
_FEWEST = 3


def starts_late(
    items: Sequence[Item], times: Callable[[int], int], start: int, period: int
) -> bool:
    """Whether as many repeats, begun a bit later, would begin where the author's do.

    Args:
        items: Those of a scope.
        times: How many copies there are from an item on, by its position.
        start: Where they may begin.
        period: Items of one copy.
    """
    if _mixes_entries(items[start : start + period]):
        fewest = max(times(start) - 1, _FEWEST)
        later = range(start + 1, start + period)
        return any(
            times(at) >= fewest and not _mixes_entries(items[at : at + period]) for at in later
        )
    if isinstance(items[start], ModuleCall):
        return False
    for at in range(start + 1, start + period):
        if isinstance(items[at], ModuleCall):
            return times(at) >= times(start)
    return False


def _mixes_entries(items: Sequence[Item]) -> bool:
    """Whether layers with one number and layers with another are from several containers.

    A body that goes through lists of layers side by side takes ``f.1``, ``g.1`` and ``k.1``, and
    not the last layers of one step with the first ones of the next.
    """
    numbers: dict[str, set[str]] = {}
    for item in items:
        container, dot, name = (getattr(item, "path", "") or "").rpartition(".")
        if isinstance(item, ModuleCall) and dot and name.isdigit():
            numbers.setdefault(container, set()).add(name)
    every = set().union(*numbers.values())
    return len(numbers) > 1 and len(every) > 1 and all(len(one) == 1 for one in numbers.values())
