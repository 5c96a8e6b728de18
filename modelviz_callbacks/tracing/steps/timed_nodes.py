"""Which torch call, or at least which module call, of a timed step made a node of autograd."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

from modelviz_callbacks.tracing.steps.backward_timer import NodeRun, Times
from modelviz_callbacks.tracing.steps.timed_step import Span, TimedNode


class Numbers(NamedTuple):
    """Autograd's numbers around something that ran.

    Attributes:
        first: Of the node made next when it began.
        last: Of the node made next when it ended.
        call: Number of the module call: the one it ran in, or the one that it is inside of.
        has_grad: Whether gradients were recorded in it.
    """

    first: int
    last: int
    call: int
    has_grad: bool = True


class _Places:
    """Finds what made a node by its number."""

    def __init__(self, ops: Sequence[Numbers], calls: Sequence[Numbers]) -> None:
        self._ops, self._calls = ops, calls
        self._firsts = [op.first for op in ops]
        self._lasts = [op.last for op in ops]
        self._entered = [call.first for call in calls]

    def of(self, run: NodeRun) -> tuple[int, int]:
        """The numbers of the module call and the torch call; -1 of the latter: out of sight."""
        at = bisect_right(self._lasts, run.sequence)
        if at < len(self._ops) and self._firsts[at] <= run.sequence:
            return self._ops[at].call, at
        if run.is_custom:
            at = self._end_of_custom(run.sequence)
            if at >= 0:
                return self._ops[at].call, at
        call = bisect_right(self._entered, run.sequence) - 1
        while call > 0 and run.sequence >= self._calls[call].last:
            call = self._calls[call].call
        return max(call, 0), -1

    def _end_of_custom(self, sequence: int) -> int:
        """The last torch call in the forward of a custom function; -1: it has none in sight.

        The function's node is made before that forward, which runs without gradients.
        """
        at, found = bisect_left(self._firsts, sequence + 1), -1
        while at < len(self._ops) and not self._ops[at].has_grad:
            if not self._firsts[at] == self._lasts[at] == sequence + 1:
                break
            found, at = at, at + 1
        return found


class StepClock:
    """Turns times into spans since the timed code began."""

    def __init__(self, begun: int, event: Any) -> None:
        """Begins with it.

        Args:
            begun: In nanoseconds of the host's clock.
            event: In the CUDA stream; ``None``: not measured.
        """
        self._begun, self._event = begun, event

    def span(self, times: Times) -> Span:
        """How long something took; waits for the CUDA stream to come to its end."""
        begun, ended, before, after = times
        host_us, begun_us = (ended - begun) / 1000, (begun - self._begun) / 1000
        if before is None or after is None:
            return Span(host_us, None, begun_us)
        after.synchronize()
        device_us = before.elapsed_time(after) * 1000
        try:
            since_us = None if self._event is None else self._event.elapsed_time(before) * 1000
        except (RuntimeError, ValueError):  # events of two devices have no clock in common
            since_us = None
        return Span(host_us, device_us, begun_us, since_us)


def timed_nodes(
    runs: Sequence[NodeRun], ops: Sequence[Numbers], calls: Sequence[Numbers], clock: StepClock
) -> tuple[TimedNode, ...]:
    """The runs of nodes by what made them.

    Args:
        runs: What autograd ran.
        ops: The torch calls in order.
        calls: The module calls in order of entry; the first is the timed code itself.
        clock: The step's.
    """
    places = _Places(ops, calls)
    threads: dict[int, int] = {}
    found = []
    for run in runs:
        thread = threads.setdefault(run.thread, len(threads))
        found.append(TimedNode(run.name, *places.of(run), thread, clock.span(run.times)))
    return tuple(found)
