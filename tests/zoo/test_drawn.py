"""The zoo's check of drawings can fail."""

from __future__ import annotations

import pytest

from tests.writers.graphs_by_hand import GraphByHand, two_branches
from tests.zoo.drawn import assert_drawn


def test_a_graph_that_is_drawn_well_passes() -> None:
    assert_drawn(two_branches())


def test_a_graph_inside_one_box_does_not_pass() -> None:
    build = GraphByHand()
    everything = build.module("", "everything", "everything", "container.Sequential")
    build.op(everything, "relu", build.op(everything, "randn"))

    with pytest.raises(AssertionError, match="one box holds everything"):
        assert_drawn(build.graph())
