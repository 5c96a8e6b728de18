"""What a frame of the running program tells."""

from __future__ import annotations

from types import FrameType
from typing import Any


def first_argument(frame: FrameType) -> Any:
    """What the function of a frame was called with first; ``None`` where it takes nothing.

    By its name: the order of the frame's variables is another one before Python 3.11.
    """
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
