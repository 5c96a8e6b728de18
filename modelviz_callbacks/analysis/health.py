"""What was seen in one training step, by the names of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelviz_callbacks.analysis.measured import paths_within
from modelviz_callbacks.graph.model import ModelGraph


@dataclass(frozen=True, slots=True)
class WeightHealth:
    """Sums of squares over the elements of some parameters; they add up.

    Attributes:
        gradient: Of the gradients.
        update: Of what the optimizer's step changed.
        weight: Of the parameters before that step.
    """

    gradient: float = 0.0
    update: float = 0.0
    weight: float = 0.0

    def __add__(self, other: WeightHealth) -> WeightHealth:
        return WeightHealth(
            self.gradient + other.gradient,
            self.update + other.update,
            self.weight + other.weight,
        )


@dataclass(frozen=True)
class StepHealth:
    """One step that was looked into.

    Attributes:
        number: Of the step; 0 was recorded.
        zeros: How many elements of a module call's output are zero, and how many there are, by
            the call's name.
        weights: By the names of parameters.
    """

    number: int
    zeros: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    weights: Mapping[str, WeightHealth] = field(default_factory=dict)

    def shares(self, graph: ModelGraph) -> dict[str, dict[str, float]]:
        """What part of the squared norm over all parameters each op has, by the op's name.

        Squares add up, so an op, a module and the model can be compared; ratios cannot.

        Args:
            graph: The graph; a parameter counts at the first op that reads it.

        Returns:
            One mapping for ``gradients`` and one for ``updates``; none of what is zero, or not
            finite, over the whole.
        """
        unread = {node.name: node.path for node in graph.of_kind("parameter")}
        read_at: dict[str, WeightHealth] = {}
        for node in graph.nodes:
            for ref in node.inputs:
                own = self.weights.get(unread.pop(ref.node, ""))
                if own is not None:
                    read_at[node.name] = read_at.get(node.name, WeightHealth()) + own
        found = {
            "gradients": {name: own.gradient for name, own in read_at.items()},
            "updates": {name: own.update for name, own in read_at.items()},
        }
        return {
            what: {name: square / total for name, square in squares.items()}
            for what, squares in found.items()
            if 0 < (total := sum(squares.values())) < math.inf
        }

    def of_calls(self, graph: ModelGraph) -> dict[str, WeightHealth]:
        """The sums over the parameters below each module call, by its name.

        Args:
            graph: The graph; what has no path (a function) has those of the modules it calls.
        """
        below: dict[str, WeightHealth] = {}
        for parameter in graph.parameters:
            own = self.weights.get(parameter.name)
            path = parameter.module
            while own is not None:
                below[path] = below.get(path, WeightHealth()) + own
                if not path:
                    break
                path = path.rpartition(".")[0]
        paths = paths_within(graph)
        found = {"": below.get("", WeightHealth())}
        for call in graph.modules:
            sums = [below.get(path, WeightHealth()) for path in sorted(paths[call.name])]
            found[call.name] = sum(sums, WeightHealth())
        return found
