"""The difference of two graphs as an interactive page: both in one, and a list to step through."""

from __future__ import annotations

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.diff.diff import GraphDiff
from modelviz_callbacks.diff.merged_graph import merge
from modelviz_callbacks.writers.diff_text import change_text
from modelviz_callbacks.writers.html import PageGraph, render_pages
from modelviz_callbacks.writers.page_data import PageDifference, PageDifferences


def render(found: GraphDiff) -> bytes:
    """Writes the page: what was added, removed and changed, opened where something differs.

    The graphs themselves are in the page, too, behind its switch.

    Args:
        found: What ``modelviz_callbacks.diff.diff.diff`` found.

    Returns:
        HTML 5, UTF-8; it loads nothing and sends nothing.
    """
    merged = merge(found)
    here = {old: new for new, old in merged.old_names.items()}
    entries = tuple(
        PageDifference(
            change.kind, change_text(change), change.item or here.get(change.old_item, "")
        )
        for change in found.changes
    )
    was = {
        change.item: ", ".join([*([f"was {change.was}"] if change.was else []), *change.details])
        for change in found.changes
        if change.item and change.kind == "changed"
    }
    differences = PageDifferences(entries, merged.status, was)
    before, after = found.matching.before, found.matching.after
    names = [before.graph.name, after.graph.name]
    if names[0] == names[1]:
        names = [f"{name}, {when}" for name, when in zip(names, ("before", "after"), strict=True)]
    return render_pages(
        [
            PageGraph(Analysis(merged.graph), "differences", differences=differences),
            PageGraph(before, names[0]),
            PageGraph(after, names[1]),
        ]
    )
