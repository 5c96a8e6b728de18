"""What nobody has closed is closed when the program ends, so that its files are made."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing import util
from weakref import WeakMethod, finalize

from modelviz_callbacks.run import Run

_open: list[WeakMethod[Callable[[BaseException | None], None]]] = []
_left: list[Run] = []


def close_at_exit(close: Callable[[BaseException | None], None], run: Run) -> None:
    """Sees to it that a run ends with the program at the latest.

    The model is not kept alive for it: of what is thrown away unclosed only the run stays, if it
    has a recording.

    Args:
        close: A method of what has the run. It is called with what ended the program, if anything
            was raised, also where it was called before.
        run: What ends if its owner is thrown away before.
    """
    _open.append(WeakMethod(close, _open.remove))
    finalize(close.__self__, _keep, run).atexit = False  # type: ignore[attr-defined]
    # Called before what was registered earlier: a tracker's own end among them.
    if multiprocessing.parent_process() is None:
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    else:  # such a process ends without calling what atexit knows
        util.Finalize(None, _close_all, exitpriority=100)


def _keep(run: Run) -> None:
    if run.has_recordings and not run.is_finished:
        _left.append(run)


def _forget() -> None:
    """In a process that was forked: what is open is the original's to close."""
    _open.clear()
    _left.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _close_all() -> None:
    error = getattr(sys, "last_value", None)
    while _open or _left:
        try:
            if not _open:
                _left.pop().finish("", may_raise=False)
            elif (close := _open.pop()()) is not None:
                close(error)
        except Exception:
            traceback.print_exc()  # of on_error="raise": nobody else would hear of it
