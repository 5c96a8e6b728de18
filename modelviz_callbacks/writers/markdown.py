"""A graph as a Markdown page: facts, a diagram and a table (GitHub-flavoured)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph, Node
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.graph.values import (
    TensorSpec,
)
from modelviz_callbacks.view.formatting import (
    bytes_text,
    count_text,
    flops_text,
    shape_text,
    shortened,
)
from modelviz_callbacks.view.note_lines import note_lines
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.writers.formats import Direction
from modelviz_callbacks.writers.mermaid import MOST_IN_A_DIAGRAM, mermaid_text
from modelviz_callbacks.writers.table import LayerRow, layers

# Punctuation that Markdown could take for its own, escaped with a backslash.
_MEANT = frozenset("\\`*_{}[]<>#|~&!$@")
# What is made a link although nobody asked for one, and where to put a backslash.
# What begins a list, a rule or an underline where a line begins with it.
_BLOCK = re.compile(r"\A(\d{0,9})([-+=.)~])")
_LINK = re.compile(r"(?i)\b(www|mailto|xmpp|ftp|https?)([.:])")
# A page shows this many rows; the whole table is what the CSV is for.
_MOST_ROWS = 200
_MOST_ENDS = 12


def render(analysis: Analysis, *, depth: int | None = None, direction: Direction = "auto") -> bytes:
    """Writes a graph as a page that code-hosting sites show with its diagram.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules the diagram opens; ``None``: as many as stay
            readable. The table has a row a layer in any case, repeats once.
        direction: Which way the diagram runs; ``auto`` is down.

    Returns:
        UTF-8, ending in a newline.
    """
    graph = analysis.graph
    lines = [
        f"# {escaped_markdown(graph.name)}",
        "",
        *_facts(analysis),
        "",
        "```mermaid",
        mermaid_text(overview(analysis, depth=depth, most=MOST_IN_A_DIAGRAM), direction),
        "```",
        "",
        *_table(layers(analysis, folded=True)),
        "",
    ]
    if graph.notes:
        lines += [
            "## Notes",
            "",
            *(f"- {escaped_markdown(line)}" for line in note_lines(graph.notes)),
            "",
        ]
    return "\n".join(lines).encode()


def layer_table(analysis: Analysis) -> str:
    """The table of `render` alone: a row a layer, repeats once."""
    return "\n".join(_table(layers(analysis, folded=True)))


def escaped_markdown(text: str) -> str:
    """Text in one line that Markdown shows as it is."""
    line = plain_text(" ".join(text.split()))
    told = "".join(f"\\{character}" if character in _MEANT else character for character in line)
    return _BLOCK.sub(r"\g<1>\\\g<2>", _LINK.sub(r"\g<1>\\\g<2>", told))


def _facts(analysis: Analysis) -> Iterator[str]:
    graph = analysis.graph
    total, trainable = graph.parameter_count, graph.trainable_count
    yield f"- class: {escaped_markdown(graph.class_name)}"
    yield f"- inputs: {_ends(graph.of_kind('input'), graph)}"
    yield f"- outputs: {_ends(graph.of_kind('output'), graph)}"
    yield f"- parameters: {count_text(total)}, of which {count_text(trainable)} trainable"
    yield f"- ops: {count_text(len(graph.ops))}"
    cost = analysis.costs.total
    if cost.flops is not None:
        told = flops_text(cost.flops, at_least=cost.uncounted > 0)
        yield f"- FLOPs of one forward: {told}"
    if cost.kept_bytes is not None and cost.peak_bytes is not None:
        bound = "at least " if cost.unmeasured else ""
        yield f"- memory kept for the backward: {bound}{bytes_text(cost.kept_bytes)}"
        yield f"- most memory of the forward's tensors: {bound}{bytes_text(cost.peak_bytes)}"
    if graph.partial:
        yield "- partial: the forward ended early; this is what ran until then"


def _ends(nodes: Iterable[Node], graph: ModelGraph) -> str:
    texts = []
    for node in nodes:
        spec = node.outputs[0] if node.outputs else graph.spec(node.inputs[0])
        texts.append(escaped_markdown(f"{node.path or node.label} {shape_text(spec)} {spec.dtype}"))
    return shortened(texts, _MOST_ENDS) or "none"


def _table(rows: tuple[LayerRow, ...]) -> Iterator[str]:
    yield "| layer | class | input | output | parameters | FLOPs | share of parameters |"
    yield "|---|---|---|---|---:|---:|---:|"
    total = sum(row.parameters * row.times for row in rows)
    for row in rows[:_MOST_ROWS]:
        times = f" ×{row.times}" if row.times > 1 else ""
        part = row.parameters * row.times / total if total else 0.0
        cells = (
            escaped_markdown(row.name) + times,
            escaped_markdown(row.kind),
            _shapes(row.inputs),
            _shapes(row.outputs),
            count_text(row.parameters) if row.parameters else "",
            "" if row.flops is None else flops_text(row.flops, row.at_least),
            f"{part:.1%}" if row.parameters else "",
        )
        yield "| " + " | ".join(cells) + " |"
    if len(rows) > _MOST_ROWS:
        yield ""
        yield f"{len(rows) - _MOST_ROWS} more rows are in the CSV table."


def _shapes(specs: tuple[TensorSpec, ...]) -> str:
    return shortened([shape_text(spec) for spec in specs], 3)
