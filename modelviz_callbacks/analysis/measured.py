"""What was measured of a training, by the names of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from modelviz_callbacks.graph.model import ModelGraph, ModuleCall


class Limit(NamedTuple):
    """How near an op came to what its machine can do.

    Attributes:
        bound: What limits it: ``compute``, ``memory``, or ``overhead`` where it is so short that
            neither does.
        share: Which part of that limit it reached, from 0 to 1.
    """

    bound: str
    share: float

    def __str__(self) -> str:
        if self.bound == "overhead":
            return "bound by overhead: too short for the machine to matter"
        return f"{self.bound}-bound, {self.share:.0%} of peak"


@dataclass(frozen=True)
class MeasuredCosts:
    """What was measured in steps after the recorded one; what was not is empty.

    Attributes:
        forward_us: Microseconds of ops by their names.
        backward_us: Microseconds of their backward likewise.
        compiled_us: Microseconds of forward and backward of module calls that ran as compiled
            code, by the calls' names; no op inside of them has a time.
        limits: How near ops came to the machine's peak, by their names.
        optimizer_bytes: What optimizers keep for parameters, by the parameters' qualified names.
    """

    forward_us: Mapping[str, float] = field(default_factory=dict)
    backward_us: Mapping[str, float] = field(default_factory=dict)
    compiled_us: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    optimizer_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_times(self) -> bool:
        """Whether a step was timed."""
        return bool(self.forward_us or self.compiled_us)

    def optimizer_bytes_of_calls(self, graph: ModelGraph) -> dict[str, int]:
        """The sums over the parameters below each module call, by its name; ``""``: all.

        Args:
            graph: The graph; what has no path (a function) has those of the modules it calls.
        """
        below = parameter_sums(graph, self.optimizer_bytes)
        found = {"": below.get("", 0)}
        for name, paths in paths_within(graph).items():
            found[name] = sum(below.get(path, 0) for path in paths)
        return found


def parameter_sums(graph: ModelGraph, amounts: Mapping[str, int]) -> dict[str, int]:
    """Sums over the parameters at and below each module, by its path.

    Args:
        graph: Has the parameters.
        amounts: By the parameters' qualified names.
    """
    below: dict[str, int] = {}
    for parameter in graph.parameters:
        amount, path = amounts.get(parameter.name, 0), parameter.module
        while amount:
            below[path] = below.get(path, 0) + amount
            if not path:
                break
            path = path.rpartition(".")[0]
    return below


def paths_within(graph: ModelGraph) -> dict[str, set[str]]:
    """The outermost modules of the model in each call: a module itself, those a function calls."""
    calls: Mapping[str, ModuleCall] = graph.module_by_name
    found: dict[str, set[str]] = {call.name: set() for call in graph.modules}
    for call in graph.modules:
        if call.path is None:
            continue
        found[call.name].add(call.path)
        around = call.parent
        while around and calls[around].path is None:
            found[around].add(call.path)
            around = calls[around].parent
    return found
