"""The difference of two graphs as lines of text, for a terminal or a review."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.diff.diff import Change, GraphDiff
from modelviz_callbacks.view.formatting import count_text, shortened
from modelviz_callbacks.view.layer_labels import LayerLabels

Role = Literal["title", "fact", "heading", "added", "removed", "changed", "follows", "ignored"]

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_HEADINGS = {
    "model": "Model",
    "module": "Modules",
    "op": "Ops",
    "parameter": "Parameters",
    "input": "Inputs",
    "output": "Outputs",
}
# Of what only follows, so many lines are told; the changes are always told in full.
_MOST_FOLLOWING = 6
_MOST_NAMES = 6
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line, and what it tells, for whoever gives it a colour."""

    role: Role
    text: str


def render(found: GraphDiff) -> bytes:
    """Writes what differs.

    Args:
        found: What ``modelviz_callbacks.diff.diff.diff`` found.

    Returns:
        Text, UTF-8, ending in a newline; the same bytes for the same graphs.
    """
    return ("\n".join(line.text for line in lines(found)) + "\n").encode()


def lines(found: GraphDiff) -> list[DiffLine]:
    """What differs, line by line: what was changed by module, op, parameter, input and output.

    Args:
        found: What ``modelviz_callbacks.diff.diff.diff`` found.

    Returns:
        Lines; ``+`` was added, ``-`` removed, ``~`` changed.
    """
    told = list(_head(found))
    for subject, heading in _HEADINGS.items():
        changes = [change for change in found.changes if change.subject == subject]
        if changes:
            told += [DiffLine("heading", ""), DiffLine("heading", heading)]
            told += _changes(changes, found)
    if found.follows and found.changes:
        following = list(_changes(found.follows, found))
        told += [DiffLine("heading", ""), DiffLine("heading", "What follows from it")]
        told += [DiffLine("follows", line.text) for line in following[:_MOST_FOLLOWING]]
        more = len(following) - _MOST_FOLLOWING
        if more > 0:
            told.append(DiffLine("follows", f"  ... and {more} more of that kind"))
    ignored = [one for one in found.ignored if one.kind in ("sizes", "names", "devices")]
    if ignored:
        told += [DiffLine("ignored", ""), DiffLine("ignored", "Not counted")]
        told += [DiffLine("ignored", f"  {one.text}") for one in ignored]
    return [DiffLine(line.role, _printable(line.text)) for line in told]


def _printable(text: str) -> str:
    """Text that cannot steer a terminal: a module may have any name."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _head(found: GraphDiff) -> Iterator[DiffLine]:
    before, after = found.before, found.after
    names = before.name if before.name == after.name else f"{before.name} and {after.name}"
    if found.are_equal:
        yield DiffLine("title", f"{names}: the same architecture")
    else:
        counts = [
            f"{count} {kind}"
            for kind in _SIGNS
            if (count := sum(change.kind == kind for change in found.changes))
        ]
        yield DiffLine("title", f"{names}: {', '.join(counts)}")
    facts = [
        _count("parameters", before.parameter_count, after.parameter_count),
        _count("trainable", before.trainable_count, after.trainable_count),
        _count("ops", len(before.ops), len(after.ops)),
    ]
    if before.parameter_count == before.trainable_count and after.parameter_count == (
        after.trainable_count
    ):
        del facts[1]
    yield DiffLine("fact", ", ".join(facts))


def _count(what: str, before: int, after: int) -> str:
    if before == after:
        return f"{what} {count_text(before)}"
    more = f"{after - before:+,}"
    return f"{what} {count_text(before)} -> {count_text(after)} ({more})"


def _changes(changes: Sequence[Change], found: GraphDiff) -> Iterator[DiffLine]:
    """Those that read alike on one line, in the place of the first."""
    alike: dict[tuple[object, ...], list[Change]] = {}
    for change in changes:
        same = change.was == change.now
        words = () if same and change.subject == "module" else (change.was, change.now)
        alike.setdefault((change.kind, change.subject, words, change.details), []).append(change)
    for group in alike.values():
        text = change_text(group[0]) if len(group) == 1 else _several(group, found)
        yield DiffLine(group[0].kind, f"  {_SIGNS[group[0].kind]} {text}")


def change_text(change: Change) -> str:
    """One change in a line: ``fc: Linear(128 -> 10) became Linear(128 -> 20)``."""
    name = change.name or change.old_name
    if change.kind == "changed" and change.old_name != change.name:
        name = f"{change.name} (was {change.old_name})"
    tail = name.rpartition(".")[2]
    what = _what(change).removeprefix(f"{tail}, ")
    return f"{name}: {what}" if what and what != tail else name


def _several(group: Sequence[Change], found: GraphDiff) -> str:
    first = group[0]
    names = [change.name or change.old_name for change in group]
    what = _what(first)
    if first.kind == "changed" and first.was == first.now and first.subject == "module":
        what = ", ".join(first.details)
        names = _outermost(group, found.matching.after)
    return f"{what} ({len(group)}): {', '.join(ranges(names))}"


def _outermost(group: Sequence[Change], analysis: Analysis) -> list[str]:
    """The modules of a group, whole ones in the place of all that have parameters in them."""
    graph, weights, labels = analysis.graph, analysis.weights, LayerLabels(analysis)
    found = {change.item for change in group}
    for call in reversed(graph.modules):
        inside = [child for child in graph.children[call.name] if weights.of(child).count]
        # Its parameters are all in modules that are in the group.
        own = weights.of(call).count - sum(weights.of(child).count for child in inside)
        if inside and own == 0 and all(child.name in found for child in inside):
            found = {name for name in found if not name.startswith(f"{call.name}/")} | {call.name}
    return [labels.name(call) for call in graph.modules if call.name in found]


def _what(change: Change) -> str:
    details = ", ".join(change.details)
    if change.kind != "changed":
        return change.now or change.was
    if change.was == change.now:
        return f"{change.now}, {details}" if change.now else details
    became = f"{change.was} became {change.now}"
    return f"{became}, {details}" if details else became


def ranges(names: Sequence[str]) -> list[str]:
    """Names that differ in one number as one: ``layer.0-11.fc``; at most a few in all."""
    forms: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        forms.setdefault(_NUMBER.sub("\0", name), []).append(tuple(_NUMBER.findall(name)))
    told = [_filled(form, run) for form, numbers in forms.items() for run in _runs(numbers)]
    return [shortened(told, _MOST_NAMES)] if len(told) > _MOST_NAMES else told


def _runs(numbers: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The numbers with the one that varies most as a range, or as a list with gaps."""
    if len(numbers) == 1 or not numbers[0]:
        yield from numbers
        return
    width = len(numbers[0])
    place = max(range(width), key=lambda place: len({entry[place] for entry in numbers}))
    alike: dict[tuple[str, ...], list[int]] = {}
    for entry in numbers:
        others = (*entry[:place], *entry[place + 1 :])
        alike.setdefault(others, []).append(int(entry[place]))
    for others, found in alike.items():
        is_run = found == list(range(found[0], found[0] + len(found)))
        text = f"{found[0]}-{found[-1]}" if is_run else f"[{','.join(map(str, found))}]"
        text = str(found[0]) if len(found) == 1 else text
        yield (*others[:place], text, *others[place:])


def _filled(form: str, numbers: Sequence[str]) -> str:
    parts = form.split("\0")
    return "".join(
        part + (numbers[place] if place < len(numbers) else "") for place, part in enumerate(parts)
    )
