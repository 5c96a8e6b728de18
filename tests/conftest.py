"""What holds for every test."""

from __future__ import annotations

import pytest

from modelviz_callbacks.pipeline import Pipeline
from tests.zoo.switches import disregard_threads


@pytest.fixture(autouse=True)
def without_worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the files in place but for tests marked ``worker``: a process takes seconds."""
    disregard_threads()
    if request.node.get_closest_marker("worker") is None:
        monkeypatch.setattr(Pipeline, "_start_worker", lambda self, recording: None)
