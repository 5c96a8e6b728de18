"""Outputs that are one structure (a cache of keys and values) as one output of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# A structure of fewer tensors is told by its tensors.
_FEWEST = 4

# A list of tensors that is the whole result is one structure from this number on.
_FEWEST_ALONE = 8

_STEP = re.compile(r"\.\w+|\[[^\]]*\]")


@dataclass(frozen=True)
class OutputGroup:
    """Tensors of the result that are one output.

    Attributes:
        name: The path of the tensor, or of the structure that they are all in.
        members: Which of the tensors.
    """

    name: str
    members: tuple[int, ...]


def output_groups(paths: Sequence[str]) -> Iterator[OutputGroup]:
    """The tensors of a result by the structures that they are in.

    Args:
        paths: Where each tensor stood: ``out.logits``, ``out.past_key_values[0][1]``.

    Returns:
        The groups in the order of their first tensors. A structure is what stands below the
        result itself and has four tensors or more in it; a list of eight tensors or more that
        is the whole result is one, too.
    """
    homes: dict[str, list[int]] = {}
    for index, path in enumerate(paths):
        homes.setdefault(_home(path), []).append(index)
    roots = {_root(path) for path in paths}
    numbered = all(re.fullmatch(r"\w+\[\d+\]", path) for path in paths)
    if len(roots) == 1 and numbered and len(paths) >= _FEWEST_ALONE:
        yield OutputGroup(roots.pop(), tuple(range(len(paths))))
        return
    for home, members in homes.items():
        if len(members) >= _FEWEST:
            yield OutputGroup(home, tuple(members))
        else:
            yield from (OutputGroup(paths[index], (index,)) for index in members)


def _root(path: str) -> str:
    return _STEP.split(path, maxsplit=1)[0]


def _home(path: str) -> str:
    """The part of the result that a tensor is in: its path up to the first step."""
    first = _STEP.search(path)
    return path if first is None else path[: first.end()]
