"""``trace.json``: the step that was timed on a time line, for Perfetto and ``chrome://tracing``.

The format is Chrome's trace events. One row has the module calls with the ops inside of them, one
for each thread of autograd's what it ran, with an arrow from each op to its backward, and a
counter has what is alive. What ran on a GPU stands once more in rows of the device's own clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.graph import ModelGraph, Node
from modelviz_callbacks.graph.names import plain_text
from modelviz_callbacks.tracing.steps.timed_step import Span, TimedCall, TimedStep
from modelviz_callbacks.view.formatting import shape_text

_PROCESS = 1
# The rows, in their order on the page; autograd's second thread is one below its first.
_FORWARD, _DEVICE_FORWARD, _DEVICE_BACKWARD, _BACKWARD = 1, 2, 3, 10

Event = dict[str, Any]


def write_trace(maker: Maker, products: Products) -> None:
    """Writes the time line of the step that was timed.

    Args:
        maker: Where it goes.
        products: Has a graph and the times of a step.

    Raises:
        SinkError: It cannot be written.
    """
    graph, step = products.graph, products.measured.timed
    assert graph is not None
    assert step is not None
    title = f"{graph.name}, step {maker.options.profile_step}"
    costs = products.costs or MeasuredCosts()
    events = _Events(graph, step, products.times.ops, costs)
    found = {"displayTimeUnit": "ms", "traceEvents": [*events.rows(title), *events.all()]}
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    maker.write("trace.json", text.encode(errors="replace"))


class _Events:
    def __init__(
        self, graph: ModelGraph, step: TimedStep, ops: dict[str, int], costs: MeasuredCosts
    ) -> None:
        self._graph, self._step, self._costs = graph, step, costs
        self._nodes = {number: graph.by_name[name] for name, number in ops.items()}

    def rows(self, title: str) -> Iterator[Event]:
        """What the rows are called."""
        yield _named("process_name", 0, title)
        rows = {_FORWARD: "forward: modules and ops"}
        if any(op.span.device_us is not None for op in self._step.ops):
            rows |= {_DEVICE_FORWARD: "forward on the device", _DEVICE_BACKWARD: "backward there"}
        threads = sorted({run.thread for run in self._step.backward})
        for thread in threads:
            number = f", thread {thread + 1}" if len(threads) > 1 else ""
            rows[_BACKWARD + thread] = f"backward: autograd{number}"
        for row, name in rows.items():
            yield _named("thread_name", row, name)
            yield {**_named("thread_sort_index", row, ""), "args": {"sort_index": row}}

    def all(self) -> Iterator[Event]:
        """Module calls, ops, what autograd ran, and what is alive."""
        for number, call in enumerate(self._step.calls):
            if call.span is not None and number:
                name = _call_name(call)
                yield _slice(name, "module", _FORWARD, call.span, {"class": call.class_name})
        for number, op in enumerate(self._step.ops):
            node = self._nodes.get(number)
            facts = {"function": op.target} if node is None else self._facts(node)
            name = op.target.rpartition(".")[2] if node is None else node.label
            yield from _slices(name, "op", _FORWARD, _DEVICE_FORWARD, op.span, facts)
            if node is not None and node.live_bytes is not None:
                yield self._alive(op.span, node.live_bytes)
        yield from self._backward()

    def _backward(self) -> Iterator[Event]:
        begun: dict[int, int] = {}
        for number, run in enumerate(self._step.backward):
            node = self._nodes.get(run.op) if run.op >= 0 else None
            facts = {"module": _call_name(self._step.calls[run.call])}
            if node is not None:
                facts["of"] = node.name
            row = _BACKWARD + run.thread
            yield from _slices(run.name, "backward", row, _DEVICE_BACKWARD, run.span, facts)
            if run.op >= 0 and run.op not in begun:
                begun[run.op] = number
                yield _arrow("s", run.op, _FORWARD, self._step.ops[run.op].span)
                yield {**_arrow("f", run.op, row, run.span), "bp": "e"}

    def _facts(self, node: Node) -> dict[str, Any]:
        """What is known of an op of the graph."""
        found: dict[str, Any] = {"node": node.name, "function": node.target}
        found["outputs"] = ", ".join(shape_text(spec) for spec in node.outputs)
        if node.source is not None:
            found["source"] = str(node.source)
        for key, value in (("flops", node.flops), ("kept_bytes", node.kept_bytes)):
            if value is not None:
                found[key] = value
        if node.name in self._costs.limits:
            found["limit"] = str(self._costs.limits[node.name])
        return {key: plain_text(v) if isinstance(v, str) else v for key, v in found.items()}

    def _alive(self, span: Span, live_bytes: int) -> Event:
        at_us = _rounded(span.begun_us + span.host_us)
        return {
            "ph": "C",
            "name": "alive in the forward",
            "pid": _PROCESS,
            "ts": at_us,
            "args": {"bytes": live_bytes},
        }


def _call_name(call: TimedCall) -> str:
    name = call.path or call.class_name.rpartition(".")[2] or "the step"
    again = f" ({call.call_index + 1})" if call.call_index else ""
    return plain_text(name) + again + (", compiled" if call.is_compiled else "")


def _slices(
    name: str, kind: str, row: int, device_row: int, span: Span, facts: dict[str, Any]
) -> Iterator[Event]:
    yield _slice(name, kind, row, span, facts)
    if span.device_us is not None and span.device_begun_us is not None:
        there = Span(span.device_us, None, span.device_begun_us)
        yield _slice(name, kind, device_row, there, facts)


def _slice(name: str, kind: str, row: int, span: Span, facts: dict[str, Any]) -> Event:
    # Both ends are rounded, not the length: what ends a nanosecond after what it is in is dropped.
    begun_us = _rounded(span.begun_us)
    ended_us = _rounded(span.begun_us + span.host_us)
    return {
        "ph": "X",
        "name": plain_text(name),
        "cat": kind,
        "pid": _PROCESS,
        "tid": row,
        "ts": begun_us,
        "dur": _rounded(ended_us - begun_us),
        "args": facts,
    }


def _arrow(phase: str, number: int, row: int, span: Span) -> Event:
    """An end of an arrow from an op to its backward."""
    return {
        "ph": phase,
        "name": "backward",
        "cat": "backward",
        "id": number,
        "pid": _PROCESS,
        "tid": row,
        "ts": _rounded(span.begun_us),
    }


def _named(what: str, row: int, name: str) -> Event:
    args = {"name": plain_text(name)}
    return {"ph": "M", "name": what, "pid": _PROCESS, "tid": row, "args": args}


def _rounded(time_us: float) -> float:
    """Nanoseconds are all the clock has; the model's own call begins a little before the step."""
    return max(0.0, round(time_us, 3))
