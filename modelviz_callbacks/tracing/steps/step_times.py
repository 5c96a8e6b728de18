"""Ties what was timed in one step to the graph of an earlier step.

The step that was timed
is not the step that was recorded: calls of modules are known again by the module's qualified name
and the number of the call, the ops in each by their functions and lines, in order. Where a step
took another path, what both have is tied, and the rest is said.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from modelviz_callbacks.graph import ModelGraph, Node
from modelviz_callbacks.tracing.steps.timed_step import Span, TimedCall, TimedStep, place_of

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
        backward_us: What autograd took for the backward of each, likewise; ops through which no
            gradient went are missing.
        compiled_us: What module calls took that ran as compiled code, by the calls' names: no op
            inside of them has a time.
        compiled_backward_us: The same of their backward.
        backward_total_us: What autograd took for all that the timed code made.
        ops: The number of each op among those of the timed step, by the names of the nodes.
    """

    times_us: Mapping[str, float]
    total_us: float
    remarks: tuple[str, ...]
    backward_us: Mapping[str, float] = field(default_factory=dict)
    compiled_us: Mapping[str, float] = field(default_factory=dict)
    compiled_backward_us: Mapping[str, float] = field(default_factory=dict)
    backward_total_us: float = 0.0
    ops: Mapping[str, int] = field(default_factory=dict)


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
    ties = _Ties(step, graph)
    times_us, backward_us = ties.times(), ties.backward_times()
    compiled_us, compiled_backward_us = ties.compiled()
    device = _main_device(graph)
    return OpTimes(
        {node.name: times_us[node.name] for node in graph.nodes if node.name in times_us},
        (step.calls[0].span or Span(0.0)).on(device),
        step.remarks + tuple(ties.said(times_us, backward_us)),
        {node.name: backward_us[node.name] for node in graph.nodes if node.name in backward_us},
        compiled_us,
        compiled_backward_us,
        sum(node.span.on(device) for node in step.backward),
        ties.ops,
    )


class _Ties:
    """Knows the calls and ops of a timed step again in a graph.

    Attributes:
        ops: The number of the timed op that each of the graph's is, by the nodes' names.
    """

    def __init__(self, step: TimedStep, graph: ModelGraph) -> None:
        self._step, self._graph = step, graph
        self._keys = self._keys_of_calls()
        self._scope_keys = self._keys_of_scopes()
        self._numbers = {key: number for number, key in enumerate(self._keys) if key}
        wanted, ran = self._wanted(), self._ran()
        self.ops: dict[str, int] = {}
        for key, nodes in wanted.items():
            for node, number in self._tied(nodes, ran.get(key, [])):
                self.ops[node.name] = number

    def times(self) -> dict[str, float]:
        """Microseconds by node names, in no order."""
        found = {}
        for node, number in self._opaque_calls():
            span = self._step.calls[number].span
            if span is not None:
                found[node.name] = span.on(device_of(self._graph, node))
        for name, number in self.ops.items():
            device = device_of(self._graph, self._graph.by_name[name])
            found[name] = self._step.ops[number].span.on(device)
        return found

    def backward_times(self) -> dict[str, float]:
        """Microseconds of autograd by node names, in no order."""
        by_op, names = defaultdict[str, float](float), {n: name for name, n in self.ops.items()}
        opaque = {number: node.name for node, number in self._opaque_calls()}
        for run in self._step.backward:
            name = names.get(run.op) if run.op >= 0 else self._around(run.call, opaque)
            if name is not None:
                by_op[name] += run.span.on(device_of(self._graph, self._graph.by_name[name]))
        return dict(by_op)

    def compiled(self) -> tuple[dict[str, float], dict[str, float]]:
        """Microseconds of what ran as compiled code, forward and backward, by module calls."""
        scopes = {key: name for name, key in reversed(self._scope_keys.items())}
        device = _main_device(self._graph)
        forward, backward, within = {}, defaultdict[str, float](float), {}
        for number, call in enumerate(self._step.calls):
            name = scopes.get(self._keys[number]) if call.is_compiled else None
            if name and call.span is not None:
                forward[name] = call.span.on(device)
                within[number] = name
        for run in self._step.backward:
            name = self._around(run.call, within) if run.op < 0 else None
            if name is not None:
                backward[name] += run.span.on(device)
        return forward, dict(backward)

    def _around(self, number: int | None, names: Mapping[int, str]) -> str | None:
        """The name of the innermost of some module calls that a call is, or is inside of."""
        while number is not None and number not in names:
            number = self._step.calls[number].parent
        return None if number is None else names[number]

    def said(
        self, times_us: Mapping[str, float], backward_us: Mapping[str, float]
    ) -> Iterator[str]:
        """What a person should know about the times, a sentence each."""
        graph = self._graph
        compiled = {self._keys[n]: c for n, c in enumerate(self._step.calls) if c.is_compiled}
        # What the library draws of a function transform (vmap, grad) is no call of the user's.
        called = [
            node
            for node in graph.of_kind("op")
            if not node.target.startswith(_OURS) and not self._is_within(node, compiled)
        ]
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
        yield from self._said_of_backward(backward_us)
        if compiled:
            named = ", ".join(dict.fromkeys(c.path or c.class_name for c in compiled.values()))
            yield f"{named}: compiled code was timed as one, its ops have no times of their own."
        kinds = {spec.device.partition(":")[0] for node in graph.ops for spec in node.outputs}
        for kind in sorted(kinds - {"cpu", "cuda"}):
            yield f"Times on {kind} are those of the calling thread, not of the device."

    def _said_of_backward(self, backward_us: Mapping[str, float]) -> Iterator[str]:
        device = _main_device(self._graph)
        ran = sum(run.span.on(device) for run in self._step.backward)
        compiled = {
            n: call.class_name for n, call in enumerate(self._step.calls) if call.is_compiled
        }
        tied = sum(backward_us.values()) + sum(
            run.span.on(device)
            for run in self._step.backward
            if run.op < 0 and self._around(run.call, compiled) is not None
        )
        if ran > 0 and tied < 0.95 * ran:
            yield (
                f"{100 * (1 - tied / ran):.0f} % of the backward of the timed step went into steps "
                "of autograd that belong to no op of the graph."
            )

    def _is_within(self, node: Node, calls: Mapping[CallKey, TimedCall]) -> bool:
        """Whether a node is in one of some module calls."""
        return () in calls or any(
            self._scope_keys[scope] in calls for scope in self._graph.scopes_of(node.scope)
        )

    def _keys_of_calls(self) -> list[CallKey]:
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

    def _ran(self) -> dict[CallKey, list[int]]:
        """The numbers of the timed ops of each module call."""
        found = defaultdict[CallKey, list[int]](list)
        for number, op in enumerate(self._step.ops):
            found[self._keys[op.call]].append(number)
        return found

    def _keys_of_scopes(self) -> dict[str, CallKey]:
        """Who each scope of the graph is."""
        keys: dict[str, CallKey] = {"": ()}
        outside: Counter[CallKey] = Counter()
        for scope in self._graph.modules:
            if scope.is_function:  # what it holds ran in the module around it
                keys[scope.name] = keys[scope.parent]
                continue
            if (scope.path, scope.call_index) == ("", 0):
                keys[scope.name] = ()
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

    def _wanted(self) -> dict[CallKey, list[Node]]:
        found = defaultdict[CallKey, list[Node]](list)
        for node in self._graph.of_kind("op"):
            found[self._scope_keys[node.scope]].append(node)
        return found

    def _opaque_calls(self) -> Iterator[tuple[Node, int]]:
        """The modules that nobody can look into, with the numbers of their calls."""
        graph = self._graph
        for node in graph.of_kind("opaque"):
            if node.scope and node.target == graph.module_by_name[node.scope].class_name:
                number = self._numbers.get(self._scope_keys[node.scope])
                if number is not None:
                    yield node, number

    def _tied(self, nodes: Sequence[Node], ran: Sequence[int]) -> Iterator[tuple[Node, int]]:
        """The recorded and the timed ops of one module call that are the same."""
        ops = [self._step.ops[number] for number in ran]
        pairs = matched(
            [(node.target, place_of(node.source)) for node in nodes],
            [(op.target, op.place) for op in ops],
        )
        if len(pairs) < len(nodes):
            # The line is outside of the model where the model is all torch's own modules, and it
            # may have been called from another one.
            by_function = matched([node.target for node in nodes], [op.target for op in ops])
            pairs = max(pairs, by_function, key=len)
        return ((nodes[one], ran[other]) for one, other in pairs)


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
