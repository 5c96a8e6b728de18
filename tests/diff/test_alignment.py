"""Pairs of two lists: in order, each item once, the best there are, the same both ways round."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from modelviz_callbacks.diff import alignment
from modelviz_callbacks.diff.alignment import ItemFeatures, aligned, likeness

words = st.lists(st.sampled_from("abcdxyz"), max_size=30)


def entries(kinds: list[str]) -> list[ItemFeatures]:
    """Ops of these kinds; x, y and z are the same op with other arguments."""
    return [
        ItemFeatures(kind, f"o {kind if kind < 'x' else 'w'}", str(place), Counter(), True, 1)
        for place, kind in enumerate(kinds)
    ]


def common_length(one: list[str], two: list[str]) -> int:
    """The length of the longest common subsequence, by the book."""
    lengths = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            best = max(lengths[i][j + 1], lengths[i + 1][j])
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if a == b else best
    return lengths[-1][-1]


@given(words, words)
@settings(max_examples=200, deadline=None)
def test_pairs_grow_on_both_sides_and_turn_round(one: list[str], two: list[str]) -> None:
    pairs = aligned(entries(one), entries(two))
    for side in (0, 1):
        places = [pair[side] for pair in pairs]
        assert places == sorted(set(places))
    assert aligned(entries(two), entries(one)) == [(j, i) for i, j in pairs]


@given(words)
@settings(max_examples=50, deadline=None)
def test_a_list_pairs_with_itself_item_by_item(kinds: list[str]) -> None:
    assert aligned(entries(kinds), entries(kinds)) == [(n, n) for n in range(len(kinds))]


@given(words, words)
@settings(max_examples=200, deadline=None)
def test_the_search_for_long_lists_finds_a_longest_common_subsequence(
    one: list[str], two: list[str]
) -> None:
    found = alignment._common(one, two)
    assert all(one[i] == two[j] for i, j in found)
    assert found == sorted(set(found))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(found))
    longest = common_length(one, two)
    left_out = len(one) + len(two) - 2 * longest
    if left_out <= (len(one) + len(two)) // 4:
        assert len(found) == longest
    else:
        assert found == []


def test_long_lists_pair_around_what_was_put_in_and_taken_out() -> None:
    kinds = [f"{n * n % 997}" for n in range(1500)]
    changed = ["new", *kinds[:700], *kinds[720:], "new", "newer"]
    pairs = aligned(entries(kinds), entries(changed))
    expected = [(n, n + 1) for n in range(700)] + [(n, n - 19) for n in range(720, 1500)]
    assert pairs == expected


def test_long_lists_with_little_in_common_end_in_pairs_all_the_same() -> None:
    one, two = [f"a{n}" for n in range(900)], [f"b{n}" for n in range(700)]
    for kinds in (two, one[::-1]):
        pairs = aligned(entries(one), entries(kinds))
        assert [i for i, _ in pairs] == sorted({i for i, _ in pairs})
        assert [j for _, j in pairs] == sorted({j for _, j in pairs})


def test_equal_items_outweigh_names_and_names_outweigh_kinds() -> None:
    def features(exact: str, kind: str, label: str) -> ItemFeatures:
        return ItemFeatures(exact, kind, label, Counter([kind]), True, 1)

    item = features("1", "m Linear", "fc")
    equal = features("1", "m Linear", "head")
    named = features("2", "m Linear", "fc")
    alike = features("2", "m Linear", "head")
    renewed = features("3", "m Conv2d", "fc")
    other = features("3", "m Conv2d", "head")
    op = features("3", "o linear", "fc")
    weights = [likeness(item, it) for it in (equal, named, alike, renewed, other, op)]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == len(weights)
    assert weights[-1] == 0
