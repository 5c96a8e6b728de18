"""Room for the frames that recording adds to a forward that uses all the recursion it may."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

# With a hook a module call takes five frames instead of four, and an op takes a few more than
# none; a third more is enough for both.
_SHARE = 3
_MORE = 200


def make_room() -> Callable[[], None]:
    """Raises Python's recursion limit while something is recorded.

    A forward that just fits the limit fits it then, too; one that never ends still raises.

    Returns:
        Sets it back, unless somebody else has set it meanwhile.
    """
    before = sys.getrecursionlimit()
    raised = before + before // _SHARE + _MORE
    sys.setrecursionlimit(raised)

    def restore() -> None:
        if sys.getrecursionlimit() == raised:
            # Refused only where the stack is higher than the limit: then it was never kept.
            with contextlib.suppress(RecursionError):
                sys.setrecursionlimit(before)

    return restore
