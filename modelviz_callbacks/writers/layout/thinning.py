"""Which of very many lines between nodes have a say in where the nodes go."""

from __future__ import annotations

from collections.abc import Sequence


def thinned(lines: Sequence[tuple[int, int]], nodes: int, most: int) -> list[int]:
    """Chooses lines that tell the order of the nodes, the shortest first.

    Args:
        lines: From which node to which, by number.
        nodes: How many nodes there are.
        most: How many lines to choose.

    Returns:
        The numbers of the chosen lines, in order; more than ``most`` where fewer would not tell
        for each pair of joined nodes which comes first.
    """
    if len(lines) <= most:
        return list(range(len(lines)))
    shortest = sorted(range(len(lines)), key=lambda line: abs(lines[line][1] - lines[line][0]))
    chosen: set[int] = set()
    below = [0] * nodes  # the nodes after each one, a bit each
    for line in shortest:
        source, target = lines[line]
        if below[source] >> target & 1:
            continue
        chosen.add(line)
        new = below[target] | 1 << target
        for node in range(nodes):
            if node == source or below[node] >> source & 1:
                below[node] |= new
    for line in shortest:
        if len(chosen) >= most:
            break
        chosen.add(line)
    return sorted(chosen)
