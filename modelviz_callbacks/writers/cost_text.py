"""What the parts of a model cost in memory and time, as a table below the tree of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.view.formatting import bytes_text, time_text
from modelviz_callbacks.view.text_columns import shortened_to
from modelviz_callbacks.writers.table import LayerRow, layers

# More rows nobody reads; graph.csv has all.
_MOST_ROWS = 24
_DEEPEST = 4
_LEAST_NAME = 18

# A column: its head, and its cell of a row; ``""``: nothing to say.
_Column = tuple[str, Callable[[LayerRow], str]]


def cost_lines(analysis: Analysis, width: int | None = None) -> list[str]:
    """The parts of a model with their memory and, if a step was timed, their times.

    As many levels of modules as make a table of a page. A part that costs nothing has no row, a
    column in which nothing is known is left out.

    Args:
        analysis: The analysis of a sound graph.
        width: How many characters a line has at most; names are shortened to that.

    Returns:
        Lines; none where neither memory nor times are known.
    """
    if not analysis.costs.total.kept_bytes and analysis.measured is None:
        return []
    rows = [row for row in _rows(analysis) if any(cell(row) for _, cell in _COLUMNS)]
    columns = [column for column in _COLUMNS if any(column[1](row) for row in rows)]
    if not rows or not columns:
        return []
    shown, left = rows[:_MOST_ROWS], len(rows) - _MOST_ROWS
    cells = [[_name(analysis, row), *(cell(row) for _, cell in columns)] for row in shown]
    cells.append(["in all", *_totals(analysis, rows, columns)])
    lines = list(_aligned([["costs", *(head for head, _ in columns)], *cells], width))
    if left > 0:
        lines.append(f"{left} more rows are in graph.csv.")
    return lines


def _rows(analysis: Analysis) -> Sequence[LayerRow]:
    found = layers(analysis, depth=1)
    for depth in range(2, _DEEPEST + 1):
        deeper = layers(analysis, depth=depth)
        if len(deeper) > _MOST_ROWS:
            break
        found = deeper
    return found


def _name(analysis: Analysis, row: LayerRow) -> str:
    """The module's path, else the node's name."""
    call = analysis.graph.module_by_name.get(row.name)
    if call is None or not call.path:
        return row.name
    return f"{call.path} ({call.call_index + 1})" if call.call_index else call.path


def _totals(
    analysis: Analysis, rows: Sequence[LayerRow], columns: Sequence[_Column]
) -> Iterator[str]:
    total = analysis.costs.total
    optimizer = sum(row.optimizer_bytes or 0 for row in rows)
    known = {
        "kept": _size(total.kept_bytes),
        "peak": _size(total.peak_bytes),
        "parameters": _size(sum(row.parameter_bytes for row in rows)),
        "gradients": _size(sum(row.gradient_bytes for row in rows)),
        "optimizer": _size(optimizer),
        "forward": _time(total.forward_us),
        "backward": _time(total.backward_us),
    }
    for head, _ in columns:
        yield known.get(head, "")


def _size(size_bytes: int | None) -> str:
    return bytes_text(size_bytes) if size_bytes else ""


def _time(time_us: float | None) -> str:
    return time_text(time_us) if time_us else ""


_COLUMNS: tuple[_Column, ...] = (
    ("kept", lambda row: _size(row.kept_bytes)),
    ("peak", lambda row: _size(row.peak_bytes)),
    ("parameters", lambda row: _size(row.parameter_bytes)),
    ("gradients", lambda row: _size(row.gradient_bytes)),
    ("optimizer", lambda row: _size(row.optimizer_bytes)),
    ("forward", lambda row: _time(row.forward_us)),
    ("backward", lambda row: _time(row.backward_us)),
)


def _aligned(cells: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Names to the left, figures to the right."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    if width is not None:
        room = width - sum(widths[1:]) - 2 * (len(widths) - 1)
        widths[0] = min(widths[0], max(room, _LEAST_NAME))
    for name, *figures in cells:
        told = "\ufffd".join(plain_text(name).splitlines())
        start = f"{shortened_to(told, widths[0]):<{widths[0]}}"
        rest = "".join(f"  {one:>{wide}}" for one, wide in zip(figures, widths[1:], strict=True))
        yield f"{start}{rest}".rstrip()
