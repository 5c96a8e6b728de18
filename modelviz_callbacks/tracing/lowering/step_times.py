"""Ties what was timed in one step to the graph of an earlier step.

The step that was timed
is not the step that was recorded: calls of modules are known again by the module's qualified name
and the number of the call, the ops in each by their functions and lines, in order. Where a step
took another path, what both have is tied, and the rest is said.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from modelviz_callbacks.graph import ModelGraph, Node
from modelviz_callbacks.tracing.capture.timed_step import Span, TimedOp, TimedStep, place_of

# Above this product of lengths, what follows the first difference of two sequences is left out.
_MOST_COMPARISONS = 4_000_000

_OURS = "modelviz_callbacks."

# Who a module call is, in the step and in the graph. The code that was timed itself is ``()``.
CallKey = tuple[Any, ...]


@dataclass(frozen=True)
class OpTimes:
    """Measured times of a graph's ops.

    Attributes:
        times_us: Microseconds by the names of the graph's nodes; ops that were not seen again
            are missing.
        total_us: What the timed code took in all, in microseconds.
        remarks: What a person should know about them, a sentence each.
    """

    times_us: Mapping[str, float]
    total_us: float
    remarks: tuple[str, ...]


def op_times(step: TimedStep, graph: ModelGraph) -> OpTimes:
    """The times of a graph's ops.

    Args:
        step: What was timed.
        graph: Of an earlier step of the same code.

    Returns:
        Times by node names, in the graph's order.
    """
    if not step.calls:
        return OpTimes({}, 0.0, step.remarks)
    ties = _Ties(step)
    found = ties.times(graph)
    ordered = {node.name: found[node.name] for node in graph.nodes if node.name in found}
    total = (step.calls[0].span or Span(0.0)).on(_main_device(graph))
    return OpTimes(ordered, total, step.remarks + tuple(ties.said(graph, ordered)))


class _Ties:
    """Knows the calls and ops of a timed step again in a graph."""

    def __init__(self, step: TimedStep) -> None:
        self._step = step

    def times(self, graph: ModelGraph) -> dict[str, float]:
        """Microseconds by node names, in no order."""
        wanted, ran = self._wanted(graph), self._ran()
        found = self._times_of_opaque_calls(graph)
        for key, nodes in wanted.items():
            for node, op in _tied(nodes, ran.get(key, [])):
                found[node.name] = op.span.on(device_of(graph, node))
        return found

    def said(self, graph: ModelGraph, times_us: Mapping[str, float]) -> Iterator[str]:
        """What a person should know about the times, a sentence each."""
        # What the library draws of a function transform (vmap, grad) is no call of the user's.
        called = [node for node in graph.of_kind("op") if not node.target.startswith(_OURS)]
        missing = [node.name for node in called if node.name not in times_us]
        if missing:
            yield (
                f"{len(missing)} of {len(called)} recorded ops have no time: the timed step did "
                f"not run them as the recorded one did. The first is {missing[0]}."
            )
        ran = sum(op.span.on(_main_device(graph)) for op in self._step.ops)
        tied = sum(times_us[node.name] for node in graph.of_kind("op") if node.name in times_us)
        if ran > 0 and tied < 0.95 * ran:
            yield (
                f"{100 * (1 - tied / ran):.0f} % of the timed step went into ops that are not in "
                "the graph."
            )
        kinds = {spec.device.partition(":")[0] for node in graph.ops for spec in node.outputs}
        for kind in sorted(kinds - {"cpu", "cuda"}):
            yield f"Times on {kind} are those of the calling thread, not of the device."

    def _keys(self) -> list[CallKey]:
        """Who each call is; numbers of calls are places in this list."""
        keys: list[CallKey] = []
        outside: Counter[CallKey] = Counter()
        busy = self._busy()
        for number, call in enumerate(self._step.calls):
            if call.parent is None or (call.path, call.call_index) == ("", 0):
                keys.append(())  # the model's own forward is the timed code itself
            elif call.path is not None:
                keys.append((call.path, call.call_index))
            else:
                name: CallKey = (*keys[call.parent], call.class_name)
                keys.append((*name, outside[name]))
                outside[name] += number in busy
        return keys

    def _busy(self) -> set[int]:
        """The calls in which something ran: a graph has no others of modules out of the model."""
        found: set[int] = set()
        for op in self._step.ops:
            number: int | None = op.call
            while number is not None and number not in found:
                found.add(number)
                number = self._step.calls[number].parent
        return found

    def _ran(self) -> dict[CallKey, list[TimedOp]]:
        keys, found = self._keys(), defaultdict[CallKey, list[TimedOp]](list)
        for op in self._step.ops:
            found[keys[op.call]].append(op)
        return found

    def _scope_keys(self, graph: ModelGraph) -> dict[str, CallKey]:
        """Who each scope of the graph is."""
        keys: dict[str, CallKey] = {"": ()}
        outside: Counter[CallKey] = Counter()
        for scope in graph.modules:
            if scope.is_function:  # what it holds ran in the module around it
                keys[scope.name] = keys[scope.parent]
                continue
            if scope.path is not None:
                keys[scope.name] = (
                    self._step.aliases.get(scope.path, scope.path),
                    scope.call_index,
                )
                continue
            name: CallKey = (*keys[scope.parent], scope.class_name)
            keys[scope.name] = (*name, outside[name])
            outside[name] += 1
        return keys

    def _wanted(self, graph: ModelGraph) -> dict[CallKey, list[Node]]:
        keys, found = self._scope_keys(graph), defaultdict[CallKey, list[Node]](list)
        for node in graph.of_kind("op"):
            found[keys[node.scope]].append(node)
        return found

    def _times_of_opaque_calls(self, graph: ModelGraph) -> dict[str, float]:
        """A module that nobody can look into took what its call took."""
        spans = {
            key: call.span
            for key, call in zip(self._keys(), self._step.calls, strict=True)
            if call.span is not None
        }
        keys = self._scope_keys(graph)
        return {
            node.name: spans[keys[node.scope]].on(device_of(graph, node))
            for node in graph.of_kind("opaque")
            if node.scope
            and node.target == graph.module_by_name[node.scope].class_name
            and keys[node.scope] in spans
        }


def _tied(nodes: Sequence[Node], ops: Sequence[TimedOp]) -> Iterator[tuple[Node, TimedOp]]:
    """The recorded and the timed ops of one module call that are the same."""
    pairs = matched(
        [(node.target, place_of(node.source)) for node in nodes],
        [(op.target, op.place) for op in ops],
    )
    if len(pairs) < len(nodes):
        # The line is outside of the model where the model is all torch's own modules, and it
        # may have been called from another one.
        by_function = matched([node.target for node in nodes], [op.target for op in ops])
        pairs = max(pairs, by_function, key=len)
    return ((nodes[one], ops[other]) for one, other in pairs)


def device_of(graph: ModelGraph, node: Node) -> str:
    """Where an op ran: its first output's device, else its first input's."""
    if node.outputs:
        return node.outputs[0].device
    return next((graph.spec(ref).device for ref in node.inputs), "cpu")


def _main_device(graph: ModelGraph) -> str:
    """``cuda`` if anything was computed there, else ``cpu``."""
    on_cuda = any(spec.device.startswith("cuda") for node in graph.ops for spec in node.outputs)
    return "cuda" if on_cuda else "cpu"


def matched(wanted: Sequence[Hashable], ran: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The places of what two sequences have in common, in order.

    Args:
        wanted: What was recorded.
        ran: What was timed; holds calls that are no ops of the graph, too (``contiguous`` on
            a tensor that is).

    Returns:
        Places in both, ascending.
    """
    pairs: list[tuple[int, int]] = []
    place = 0
    for number, target in enumerate(wanted):
        try:
            place = ran.index(target, place)
        except ValueError:
            break
        pairs.append((number, place))
        place += 1
    else:
        return pairs
    if len(wanted) * len(ran) > _MOST_COMPARISONS:
        both = zip(wanted, ran, strict=False)
        same = next((n for n, (one, other) in enumerate(both) if one != other), len(ran))
        return [(number, number) for number in range(min(same, len(wanted)))]
    blocks = SequenceMatcher(None, wanted, ran, autojunk=False).get_matching_blocks()
    return [(a + step, b + step) for a, b, size in blocks for step in range(size)]
