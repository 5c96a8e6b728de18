"""A fault at any step of the recorder costs a part of the graph at most, and is said once."""

from __future__ import annotations

import pytest

from benchmarks.faults.recorder import outcome, places, trained

# Of some hundreds; the program runs all of them.
_EACH = 29


@pytest.mark.filterwarnings("ignore")
def test_a_fault_at_any_step_leaves_the_training_as_it_is_and_is_said_once() -> None:
    wanted, _ = trained(None)
    chosen = places()[::_EACH]
    found = [outcome(place, wanted) for place in chosen]
    assert sum(one.happened for one in found) > 0.9 * len(found)
    assert not [(str(p), one) for p, one in zip(chosen, found, strict=True) if one.wrong]


@pytest.mark.filterwarnings("ignore")
def test_what_was_recorded_before_a_fault_is_written_as_a_partial_graph() -> None:
    wanted, _ = trained(None)
    seen = [place for place in places() if place.name == "Recorder._append"]
    first, middle, last = [outcome(place, wanted) for place in seen]
    assert 0 <= first.ops < middle.ops < last.ops
    assert [one.wrong for one in (first, middle, last)] == [""] * 3
