"""How long the end of training waits for a store: while something arrives, and not much longer."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from modelviz_callbacks.jobs import in_worker
from modelviz_callbacks.jobs.sending import Sending, Sent, sent_of

FAILED, ARRIVED, BEGUN = (False, None), (True, 1000), (None, None)


class Handed:
    """Stands for a job that a worker has."""

    def __init__(self, place: Path) -> None:
        self.job = self
        self.place = place


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(in_worker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(in_worker, "UPLOAD_LIMIT_S", 5.0)
    return now


def waited_s(said: dict[float, Any], clock: list[float], place: Path, end: float = 60.0) -> float:
    """When a wait ends, where the store is heard of at those moments."""
    sending, uploads = Sending(place), in_worker._Uploads([Handed(place)])  # type: ignore[list-item]
    clock[0] = 1.0
    while not uploads.are_stuck(end) and clock[0] < 1000:
        clock[0] += 1.0
        if clock[0] in said:
            sending.heard(*said[clock[0]])
    return clock[0]


def test_a_dead_store_is_waited_for_5_s(tmp_path: Path, clock: list[float]) -> None:
    dead = {float(second): FAILED if second % 2 else BEGUN for second in range(2, 900)}
    assert waited_s(dead, clock, tmp_path) == 6.0


def test_a_slow_store_has_the_time_it_needs_as_long_as_files_arrive(
    tmp_path: Path, clock: list[float]
) -> None:
    slow = {float(second): ARRIVED for second in range(2, 120, 12)}
    assert waited_s(slow, clock, tmp_path) > 110.0


def test_a_store_that_dies_half_way_is_waited_for_5_s_from_its_last_answer(
    tmp_path: Path, clock: list[float]
) -> None:
    dies = {3.0: ARRIVED, 10.0: ARRIVED} | {float(second): FAILED for second in range(11, 900)}
    assert waited_s(dies, clock, tmp_path) == 15.0


def test_a_silent_store_is_waited_for_15_s(tmp_path: Path, clock: list[float]) -> None:
    assert waited_s({2.0: BEGUN}, clock, tmp_path) == 17.0


def test_a_worker_that_has_not_asked_yet_has_until_the_end(
    tmp_path: Path, clock: list[float]
) -> None:
    assert waited_s({}, clock, tmp_path) == 60.0


def test_nothing_that_arrives_is_waited_for_longer_than_the_worker_tries(
    tmp_path: Path, clock: list[float]
) -> None:
    for_ever = {float(second): ARRIVED for second in range(2, 1000)}
    assert waited_s(for_ever, clock, tmp_path) <= in_worker.PATIENCE_S + 1


def test_what_has_arrived_is_told_with_its_size(tmp_path: Path) -> None:
    sending = Sending(tmp_path)
    for size_bytes in (1_200_000, 300_000):
        sending.heard(None)
        sending.heard(True, size_bytes)
    sending.heard(True)
    sent = sent_of(tmp_path)
    assert sent == Sent(5, 3, 2, 1_500_000, False)
    assert str(sent) == "2 sent (1.5 MB)"
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1, 2, 3]", '["a", 1, 1, 1, 1]', "null"])
def test_what_is_no_such_figure_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "sending.json").write_text(text)
    assert sent_of(tmp_path) is None
