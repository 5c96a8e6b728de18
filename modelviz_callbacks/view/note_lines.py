"""The notes of a graph as people are told them: each kind once, a few lines, what helps first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelviz_callbacks.graph.parts import Note

MOST_LINES = 10

# What a person can do something about comes first; how several notes of a kind are one.
_KINDS: dict[str, str] = {
    "partial": "",
    "not-finite-output": "",
    "not-finite-gradient": "",
    "no-gradient": "No gradient reached {count} parameters: {names}",
    "zero-gradient": "The gradients of {count} parameters were zero everywhere: {names}",
    "lost-update": "A step changed nothing in {count} parameters with a gradient: {names}",
    "large-update": "A step changed {count} parameters by a tenth of their norm or more: {names}",
    "zeros": "The outputs of {count} modules were zeros to nine tenths or more: {names}",
    "remark": "",
    "parameter-without-effect": "{count} parameters are used without effect on any result: {names}",
    "unused-parameter": "No op used {count} parameters: {names}",
    "module-never-called": "{count} modules were never called: {names}",
    "opaque": "{count} calls were computed out of sight, their insides are not shown: {names}",
    "value-read": "",
    "frozen": "",
    "unused-result": "Nobody uses the results of {count} ops: {names}",
}


def note_lines(notes: Iterable[Note]) -> list[str]:
    """Notes as at most ten sentences.

    Args:
        notes: In any order.

    Returns:
        Those of one kind as one, where there are several and it is one of those that come once
        for each subject; how many more there are, if there are too many.
    """
    of_kind: dict[str, list[Note]] = {kind: [] for kind in _KINDS}
    for note in notes:
        of_kind.setdefault(note.kind, []).append(note)
    lines: list[str] = []
    for kind, alike in of_kind.items():
        words = _KINDS.get(kind, "")
        if len(alike) > 1 and words:
            names = _names([note.subject for note in alike])
            lines.append(words.format(count=len(alike), names=names) + ".")
        else:
            lines += [note.message for note in alike]
    if len(lines) > MOST_LINES:
        more = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"{more} more notes are in graph.json."]
    return lines


def _names(names: Sequence[str]) -> str:
    """Names that differ in one number as one: ``h.0-11.attn.attn_dropout``."""
    runs: dict[tuple[str, ...], list[list[str]]] = {}
    for name in names:
        parts = name.split(".")
        shape = tuple("#" if part.isdigit() else part for part in parts)
        runs.setdefault(shape, []).append(parts)
    told = [_run(alike) for alike in runs.values()]
    return ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")


def _run(alike: Sequence[Sequence[str]]) -> str:
    found = []
    for column in zip(*alike, strict=True):
        numbers = sorted({int(part) for part in column if part.isdigit()})
        if len(numbers) > 1:
            found.append(f"{numbers[0]}-{numbers[-1]}")
        else:
            found.append(column[0])
    return ".".join(found)
