"""What was timed in one step, as plain data.

Nothing here holds a tensor or a module, so it can go to another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from modelviz_callbacks.graph import Source


class Span(NamedTuple):
    """How long something took.

    Attributes:
        host_us: Microseconds of the calling thread.
        device_us: Microseconds of the CUDA stream; ``None``: not measured.
    """

    host_us: float
    device_us: float | None = None

    def on(self, device: str) -> float:
        """Microseconds on a torch device, ``cuda:0``."""
        if self.device_us is not None and device.startswith("cuda"):
            return self.device_us
        return self.host_us


class TimedCall(NamedTuple):
    """One call of a module.

    Attributes:
        parent: Number of the call around it; ``None`` for the first, the timed code itself.
        path: The module's first qualified name; ``None``: it is not part of the model.
        class_name: Its qualified class.
        call_index: 0 for the first call of this module, 1 for the second, ...
        span: How long it took; ``None`` if it did not come to its end.
    """

    parent: int | None
    path: str | None
    class_name: str
    call_index: int
    span: Span | None


class TimedOp(NamedTuple):
    """One torch call.

    Attributes:
        call: Number of the module call it ran in.
        target: Qualified name of the function, as in `modelviz_callbacks.graph.Node.target`.
        place: Where in the user's code, see `place_of`.
        span: How long it took.
    """

    call: int
    target: str
    place: str
    span: Span


@dataclass(frozen=True)
class TimedStep:
    """One timed step.

    Attributes:
        calls: The module calls in order of entry; the first is the timed code itself.
        ops: The torch calls in order.
        aliases: The first qualified name of a module by each of its names.
        remarks: What happened while timing.
    """

    calls: tuple[TimedCall, ...] = ()
    ops: tuple[TimedOp, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def place_of(source: Source | None) -> str:
    """A line of the user's code; without the file, whose path hangs on the working directory."""
    return "" if source is None else f"{source.function}:{source.line}"
