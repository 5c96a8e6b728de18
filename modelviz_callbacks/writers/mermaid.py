"""A graph as a Mermaid flowchart, the text that code-hosting sites draw."""

from __future__ import annotations

from collections.abc import Iterator

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.view.box import Box, Group, parameters_text
from modelviz_callbacks.view.overview import Overview, overview
from modelviz_callbacks.writers.formats import Direction

# Sites that draw it lay out larger ones badly, or not at all.
MOST_IN_A_DIAGRAM = 40

# Mermaid's own way to write a character that would mean something: #NUMBER;
_MEANT = frozenset("\"#<>&`\\;{}[]()|'*_~@%")

# What a box of each kind is framed by, so that it is told apart without colours, too.
_FRAMES = {
    "input": ("([", "])"),
    "output": ("([", "])"),
    "module": ("[", "]"),
    "op": ("(", ")"),
    "quiet": ("[", "]"),
    "held": ("[(", ")]"),
    "label": ("[", "]"),
    "part": ("[[", "]]"),
}

# Colours that can be read on light and on dark pages, as they bring their own text colour.
_CLASSES = """\
classDef trainable fill:#dbeafe,stroke:#3b7ddd,color:#111827
classDef mixed fill:#eef4fd,stroke:#3b7ddd,color:#111827,stroke-dasharray:4 2
classDef frozen fill:#e8eaee,stroke:#6b7280,color:#111827,stroke-dasharray:4 2
classDef module fill:#ffffff,stroke:#a3acb8,color:#111827
classDef op fill:#fef3c7,stroke:#d08a12,color:#111827
classDef quiet fill:#f3f4f6,stroke:#f3f4f6,color:#57606a
classDef label fill:none,stroke:#c5cdd6,color:#57606a,stroke-dasharray:4 2
classDef held fill:#dcfce7,stroke:#2c9a52,color:#111827
classDef part fill:#ede9fe,stroke:#7c5cdb,color:#111827
classDef end_ fill:#1f2937,stroke:#1f2937,color:#ffffff"""


def render(analysis: Analysis, *, depth: int | None = None, direction: Direction = "auto") -> bytes:
    """Writes a graph as a Mermaid flowchart.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules to open; ``None``: as many as stay readable.
        direction: Which way it runs; ``auto`` is down.

    Returns:
        UTF-8, ending in a newline.
    """
    return (
        mermaid_text(overview(analysis, depth=depth, most=MOST_IN_A_DIAGRAM), direction) + "\n"
    ).encode()


def mermaid_text(view: Overview, direction: Direction = "auto") -> str:
    """An overview as a Mermaid flowchart, without a newline at the end."""
    ids = {box.name: f"n{number}" for number, box in enumerate(view.boxes)}
    ids |= {group.name: f"g{number}" for number, group in enumerate(view.groups)}
    lines = [f"flowchart {'LR' if direction == 'right' else 'TD'}", *_level(view, ids, "", "  ")]
    lines += [f"  {ids[edge.source]} --> {ids[edge.target]}" for edge in view.edges]
    lines += [f"  {ids[e.source]} -. next step .-> {ids[e.target]}" for e in view.carried]
    lines += [f"  {line}" for line in _CLASSES.splitlines()]
    return "\n".join(lines)


def _level(view: Overview, ids: dict[str, str], group: str, indent: str) -> Iterator[str]:
    for inner in view.groups:
        if inner.group == group:
            yield f'{indent}subgraph {ids[inner.name]}["{_heading(inner)}"]'
            yield from _level(view, ids, inner.name, indent + "  ")
            yield f"{indent}end"
    for box in view.boxes:
        if box.group == group:
            opening, closing = _FRAMES[box.kind]
            yield f'{indent}{ids[box.name]}{opening}"{_words(box)}"{closing}:::{_class(box)}'


def _class(box: Box) -> str:
    if box.kind in ("input", "output"):
        return "end_"
    if box.kind == "module" and box.weights.count:
        return box.weights.training
    return box.kind


def _heading(group: Group) -> str:
    return escaped_mermaid(" · ".join(_facts(group)))


def _words(box: Box) -> str:
    title, *facts = _facts(box)
    return "<br>".join(escaped_mermaid(text) for text in (title, " · ".join(facts)) if text)


def _facts(box: Box | Group) -> list[str]:
    times = f" ×{box.times}" if box.times > 1 else ""
    facts = [box.title + times, box.label, box.details]
    if isinstance(box, Box):
        facts.append(box.made)
    if not isinstance(box, Box) or box.kind != "held":
        facts.append(parameters_text(box))
    return [facts[0], *(fact for fact in facts[1:] if fact)]


def escaped_mermaid(text: str) -> str:
    """Text that Mermaid shows as it is, whatever is in it."""
    return "".join(
        f"#{ord(character)};" if character in _MEANT or not character.isprintable() else character
        for character in text
    )
