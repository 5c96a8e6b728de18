"""``trace.json``: what Perfetto would drop is not in it."""

from __future__ import annotations

from modelviz_callbacks.artifacts import trace_file
from modelviz_callbacks.tracing.steps.timed_step import Span


def test_what_lies_inside_of_a_slice_still_does_when_its_ends_are_rounded() -> None:
    outer, inner = (
        trace_file._slice("a name", "op", 1, Span(length, None, begun), {})
        for begun, length in ((0.0004, 1.0012), (0.0006, 1.0009))
    )
    ends = [round(one["ts"] * 1000) + round(one["dur"] * 1000) for one in (outer, inner)]
    assert outer["ts"] <= inner["ts"]
    assert ends[1] <= ends[0]
