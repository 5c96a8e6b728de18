"""Which items of two lists belong together: the best pairing that keeps both orders.

The pairing has the largest sum of likenesses, so a block that was put in between shifts
nothing: its neighbours pair with themselves, whatever their numbers are now. Swapping the two
lists gives the same pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# How many pairs are weighed one by one; for longer lists equal items divide them first.
_MOST_WEIGHED = 120_000
# How many items of both lists together the search for those equal items leaves out.
_MOST_LEFT_OUT = 1000

IndexPair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """What is compared of one item.

    Attributes:
        exact: Equal for items that are the same but for their names and batch sizes.
        kind: Its class or its op, after ``m`` or ``o``: a module never pairs with an op.
        label: Its name in its scope.
        content: The kinds of all that is inside, and the shapes of its parameters.
        is_leaf: Whether nothing but ops is inside.
        sources: How many tensors it reads, parameters left out.
    """

    exact: str
    kind: str
    label: str
    content: Counter[str]
    is_leaf: bool
    sources: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What lists are sorted by, so that either order of them is weighed alike."""
        return (self.kind, self.label, self.exact)


def aligned(first: Sequence[ItemFeatures], second: Sequence[ItemFeatures]) -> list[IndexPair]:
    """Pairs the items of two lists.

    Args:
        first: One list.
        second: The other.

    Returns:
        Places in the first and the second list, both growing.
    """
    if [entry.key for entry in first] > [entry.key for entry in second]:
        return [(i, j) for j, i in aligned(second, first)]
    start = 0
    while start < min(len(first), len(second)) and _is_same(first[start], second[start]):
        start += 1
    end = 0
    most = min(len(first), len(second)) - start
    while end < most and _is_same(first[-1 - end], second[-1 - end]):
        end += 1
    rest = _weighed(first[start : len(first) - end], second[start : len(second) - end])
    pairs = [(place, place) for place in range(start)]
    pairs += [(i + start, j + start) for i, j in rest]
    pairs += [(len(first) - place, len(second) - place) for place in range(end, 0, -1)]
    return pairs


def _is_same(one: ItemFeatures, other: ItemFeatures) -> bool:
    """Whether two items can only belong together: equal, and not called anything else.

    Numbers are no names: they count the items before.
    """
    if one.exact != other.exact:
        return False
    return one.label == other.label or (_is_numbered(one.label) and _is_numbered(other.label))


def _is_numbered(label: str) -> bool:
    return label.rpartition(".")[2].rpartition("_")[2].isdigit()


def _weighed(first: Sequence[ItemFeatures], second: Sequence[ItemFeatures]) -> list[IndexPair]:
    if not first or not second:
        return []
    if len(first) * len(second) <= _MOST_WEIGHED:
        return _heaviest(first, second)
    anchors = _common([entry.exact for entry in first], [entry.exact for entry in second])
    if anchors:
        return _between(anchors, first, second)
    # Long and too different for a pairing of the whole: half by half.
    i, j = len(first) // 2, len(second) // 2
    rest = _weighed(first[i:], second[j:])
    return [*_weighed(first[:i], second[:j]), *((i + a, j + b) for a, b in rest)]


def _between(
    anchors: Sequence[IndexPair], first: Sequence[ItemFeatures], second: Sequence[ItemFeatures]
) -> list[IndexPair]:
    """The anchors, and the pairs of what lies between them."""
    pairs: list[IndexPair] = []
    i = j = 0
    for a, b in (*anchors, (len(first), len(second))):
        pairs += [(i + one, j + two) for one, two in _weighed(first[i:a], second[j:b])]
        pairs.append((a, b))
        i, j = a + 1, b + 1
    return pairs[:-1]


def _common(first: Sequence[str], second: Sequence[str]) -> list[IndexPair]:
    """The longest common subsequence, if few items are not in it (Myers' greedy search).

    The search walks along diagonals (a place in ``first`` less one in ``second``) and keeps for
    each how far it came with so many items left out.

    Returns:
        Pairs of places; none where too many items would be left out.
    """
    furthest = {1: 0}
    history: list[dict[int, int]] = []
    for left_out in range(min(_MOST_LEFT_OUT, (len(first) + len(second)) // 4) + 1):
        history.append(dict(furthest))
        for diagonal in range(-left_out, left_out + 1, 2):
            i = _next(furthest, diagonal, left_out)
            while (
                i < len(first) and i - diagonal < len(second) and first[i] == second[i - diagonal]
            ):
                i += 1
            furthest[diagonal] = i
            if i >= len(first) and i - diagonal >= len(second):
                return _walked_back(history, diagonal, i)
    return []


def _next(furthest: Mapping[int, int], diagonal: int, left_out: int) -> int:
    """How far one gets on a diagonal by leaving out one more item of either list."""
    down, right = furthest.get(diagonal + 1, -1), furthest.get(diagonal - 1, -1)
    if diagonal == -left_out or (diagonal != left_out and right < down):
        return down
    return right + 1


def _walked_back(history: Sequence[Mapping[int, int]], diagonal: int, i: int) -> list[IndexPair]:
    """The pairs on the way that the search took, from its end."""
    pairs: list[IndexPair] = []
    for left_out in range(len(history) - 1, -1, -1):
        start = _next(history[left_out], diagonal, left_out)
        while i > start:
            i -= 1
            pairs.append((i, i - diagonal))
        came_down = start == history[left_out].get(diagonal + 1, -1) and (
            diagonal == -left_out
            or (diagonal != left_out and history[left_out].get(diagonal - 1, -1) < start)
        )
        diagonal, i = (diagonal + 1, i) if came_down else (diagonal - 1, i - 1)
    return pairs[::-1]


def _heaviest(first: Sequence[ItemFeatures], second: Sequence[ItemFeatures]) -> list[IndexPair]:
    """The pairing with the largest sum of likenesses (dynamic programming)."""
    best = [[0.0] * (len(second) + 1) for _ in range(len(first) + 1)]
    weights = [[likeness(one, other) for other in second] for one in first]
    for i in range(len(first) - 1, -1, -1):
        row, below, weight = best[i], best[i + 1], weights[i]
        for j in range(len(second) - 1, -1, -1):
            row[j] = max(below[j], row[j + 1], below[j + 1] + weight[j])
    pairs: list[IndexPair] = []
    i = j = 0
    while i < len(first) and j < len(second):
        if weights[i][j] > 0 and best[i][j] == best[i + 1][j + 1] + weights[i][j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def likeness(one: ItemFeatures, other: ItemFeatures) -> float:
    """How well two items pair; 0: not at all."""
    if one.kind[0] != other.kind[0]:
        return 0.0
    named = one.label == other.label
    if one.exact == other.exact:
        return 11.0 + 2 * named
    inside = _overlap(one.content, other.content)
    if one.kind == other.kind:
        return 4.0 + 4 * inside + 2 * named
    if one.kind[0] == "o":
        # One op in the place of another: only if it takes as many tensors.
        return 0.5 + named if one.sources == other.sources else 0.0
    if named:
        return 2.0 + 2 * inside
    if one.is_leaf and other.is_leaf:
        return 0.5
    return 4 * inside if inside > 0.5 else 0.0


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    """The part that two contents share, from 0 to 1."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0
