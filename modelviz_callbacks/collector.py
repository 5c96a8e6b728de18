"""Keeps Python's cyclic garbage collector from running over a growing graph."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

# Objects that may be made before the collector runs in a recorded step; Python's own is 700.
_SELDOM = 100_000


@contextlib.contextmanager
def slowed_collector() -> Iterator[None]:
    """Lets the collector run seldom until left, as `paused_collector` says why.

    For code of the user's: should it never be left, garbage is still collected.
    """
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], _SELDOM), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """Switches the collector off until left, if it was on.

    Recording and lowering make many small objects at once and no garbage; the collector, woken
    by their number, would walk over all of the process's objects again and again: a third of
    the time of lowering, two thirds of recording from 10,000 ops on.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
