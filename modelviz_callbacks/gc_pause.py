"""Keeps Python's cyclic garbage collector from running over a growing graph."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

# Objects that may be made before the collector runs in a recorded step; Python's own is 700.
_SELDOM = 100_000

# The threshold belongs to the process: the first who wants it higher raises it, and the last, maybe
# in another thread, takes it back.
_lock = threading.Lock()
_waiting_to_restore = contextlib.ExitStack()
_users = 0


@contextlib.contextmanager
def slowed_collector() -> Iterator[None]:
    """Lets the collector run seldom until left, as `paused_collector` says why.

    For code of the user's: should it never be left, garbage is still collected.
    """
    global _users
    with _lock:
        if not _users:
            _waiting_to_restore.enter_context(_higher_threshold())
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _waiting_to_restore.close()


@contextlib.contextmanager
def _higher_threshold() -> Iterator[None]:
    before = gc.get_threshold()
    if before[0]:  # with 0 nothing is collected
        gc.set_threshold(max(before[0], _SELDOM), *before[1:])
    raised = gc.get_threshold()
    yield
    if gc.get_threshold() == raised:  # somebody else may have set another one
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
