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
        begun_us: When it began, in microseconds of the host since the timed code did.
        device_begun_us: The same by the CUDA stream's clock; ``None``: not measured.
    """

    host_us: float
    device_us: float | None = None
    begun_us: float = 0.0
    device_begun_us: float | None = None

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
        is_compiled: Whether it ran as compiled code, of whose inside nothing is known.
    """

    parent: int | None
    path: str | None
    class_name: str
    call_index: int
    span: Span | None
    is_compiled: bool = False


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


class TimedNode(NamedTuple):
    """One run of a node of autograd, in the backward of what was timed.

    Attributes:
        name: As autograd has it: ``AddmmBackward0``.
        call: Number of the module call in which it was made.
        op: Number of the torch call that made it; -1: it was made out of sight.
        thread: 0 for the first thread that ran such a node, 1 for the second, ...
        span: How long it took.
    """

    name: str
    call: int
    op: int
    thread: int
    span: Span


@dataclass(frozen=True)
class TimedStep:
    """One timed step.

    Attributes:
        calls: The module calls in order of entry; the first is the timed code itself.
        ops: The torch calls in order.
        aliases: The first qualified name of a module by each of its names.
        remarks: What happened while timing.
        backward: What autograd ran of it, in the order in which it ended.
        threads: How many threads torch computes an op with on the CPU.
    """

    calls: tuple[TimedCall, ...] = ()
    ops: tuple[TimedOp, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    backward: tuple[TimedNode, ...] = ()
    threads: int = 1


def place_of(source: Source | None) -> str:
    """A line of the user's code; without the file, whose path hangs on the working directory."""
    return "" if source is None else f"{source.function}:{source.line}"
