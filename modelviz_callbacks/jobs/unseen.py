"""Work in the training process that no profiler and no mode of the user's sees."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from modelviz_callbacks.tracing import has_modes

T = TypeVar("T")


def unseen(action: Callable[[], T]) -> T:
    """Does something as if nobody watched this thread.

    The user's function and dispatch modes would see all that torch is asked to make a file. And
    torch's profiler, where it keeps stacks, remembers code by its address: what an import runs is
    freed at once, and the names of such calls cannot be read any more (``profile.events()``
    raises `UnicodeDecodeError`). Both belong to a thread, so it is another one that works then.

    Args:
        action: What to do.

    Returns:
        What it returns.

    Raises:
        BaseException: What it raises.
    """
    if sys.getprofile() is None and not has_modes():
        return action()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:  # raised where it is waited for
            errors.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="modelviz", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the program ends: Python 3.12 begins no thread any more
        return action()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
