"""A step that was looked into as a Markdown table, a row a module call."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.health import StepHealth
from modelviz_callbacks.view.note_lines import note_lines
from modelviz_callbacks.writers.markdown import escaped_markdown

# More rows nobody reads in a viewer; `health.csv` has all.
_MOST_ROWS = 300


def health_table(analysis: Analysis, health: StepHealth) -> str:
    """The modules that are told as one thing, with what was seen of them, after the notes.

    Args:
        analysis: The analysis of the model's graph; its notes come first.
        health: The step.

    Returns:
        Markdown.
    """
    notes = [f"- {escaped_markdown(line)}" for line in note_lines(analysis.notes)]
    rows = list(_rows(analysis, health))
    lines = [
        *notes,
        "",
        "| module | class | zeros in its output | gradient norm | update ratio |",
        "|---|---|---:|---:|---:|",
        *rows[:_MOST_ROWS],
    ]
    if len(rows) > _MOST_ROWS:
        lines += ["", f"{len(rows) - _MOST_ROWS} more rows are in health.csv."]
    return "\n".join(lines).lstrip("\n")


def _rows(analysis: Analysis, health: StepHealth) -> Iterator[str]:
    sums = health.of_calls(analysis.graph)
    for call in analysis.graph.modules:
        zeros, elements = health.zeros.get(call.name, (0, 0))
        weights = sums[call.name]
        is_seen = elements or weights.weight or weights.gradient
        if not call.called or not is_seen or not analysis.is_leaf(call):
            continue
        cells = (
            escaped_markdown(call.name),
            escaped_markdown(call.type_name),
            f"{zeros / elements:.0%}" if elements else "",
            f"{math.sqrt(weights.gradient):.3g}" if weights.gradient else "",
            f"{math.sqrt(weights.update / weights.weight):.2g}" if weights.weight else "",
        )
        yield "| " + " | ".join(cells) + " |"
