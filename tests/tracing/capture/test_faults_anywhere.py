"""A fault at any step of the recorder costs a part of the graph at most, and is said once."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType

import pytest

from benchmarks.faults import recorder
from benchmarks.faults.recorder import outcome, places, qualified_names, trained

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


@pytest.mark.skipif(sys.version_info < (3, 11), reason="only newer code knows what it is called")
def test_the_names_of_functions_are_those_that_newer_pythons_keep_with_their_code() -> None:
    def compare(code: CodeType) -> None:
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                assert names[inner.co_name, inner.co_firstlineno] == inner.co_qualname
                compare(inner)

    names = qualified_names(recorder.__file__)
    assert "Net.forward" in names.values()
    compare(compile(Path(recorder.__file__).read_text(encoding="utf-8"), "recorder.py", "exec"))
