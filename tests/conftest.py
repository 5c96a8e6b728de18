"""What holds for every test."""

from __future__ import annotations

import signal

import pytest

from modelviz_callbacks.jobs.queue import JobQueue
from modelviz_callbacks.run import Run
from tests.zoo.switches import disregard_threads

# A shell starts what it runs in the background deaf to Ctrl-C, and so would be the programs that
# tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def without_worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the files in place but for tests marked ``worker``: a process takes seconds."""
    disregard_threads()
    if request.node.get_closest_marker("worker") is None:
        monkeypatch.setattr(Run, "_hand_over", lambda self, recording: False)
        monkeypatch.setattr(JobQueue, "hold", lambda self, holder: None)
