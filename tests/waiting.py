"""Waits for conditions, with more patience than any busy machine needs."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 600.0


def wait_for(condition: Callable[[], object]) -> None:
    """Returns when a condition holds.

    Raises:
        AssertionError: It does not within ten minutes.
    """
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_S:.0f} s"
        time.sleep(0.05)
