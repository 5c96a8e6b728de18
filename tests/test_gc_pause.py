"""Python's garbage collector is as it was once nobody records any longer."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from modelviz_callbacks.gc_pause import paused_collector, slowed_collector


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield gc.get_threshold()
    gc.set_threshold(*before)
    gc.enable()


def test_it_is_slowed_while_somebody_records(usual: tuple[int, int, int]) -> None:
    with slowed_collector():
        assert gc.get_threshold()[0] > 10_000
        assert gc.get_threshold()[1:] == usual[1:]
        assert gc.isenabled()
    assert gc.get_threshold() == usual


def test_two_recordings_that_overlap_leave_it_as_it_was(usual: tuple[int, int, int]) -> None:
    # As those of two threads do: the first to begin is the first to end.
    first, second = slowed_collector(), slowed_collector()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() != usual  # the other still records
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual


def test_an_error_leaves_it_as_it_was(usual: tuple[int, int, int]) -> None:
    with pytest.raises(KeyError), slowed_collector():
        raise KeyError
    assert gc.get_threshold() == usual


def test_a_threshold_that_the_recorded_code_sets_stays() -> None:
    with slowed_collector():
        gc.set_threshold(500, 5, 5)
    assert gc.get_threshold() == (500, 5, 5)


@pytest.mark.parametrize("own", [(0, 10, 10), (200_000, 10, 10)])
def test_a_collector_that_runs_seldom_or_never_is_left_alone(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    with slowed_collector():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


@pytest.mark.parametrize("was_on", [True, False])
def test_paused_it_is_switched_on_again_only_if_it_was_on(was_on: bool) -> None:
    if not was_on:
        gc.disable()
    with paused_collector():
        assert not gc.isenabled()
    assert gc.isenabled() is was_on
