"""How many parameters each module has, and whether they are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelviz_callbacks.graph.model import ModelGraph, ModuleCall

Training = Literal["none", "trainable", "frozen", "mixed"]


@dataclass(frozen=True, slots=True)
class Weights:
    """The parameters of a module and of those below it, tied ones counted once.

    Attributes:
        count: Number of elements.
        trainable: How many of them are trained.
        size_bytes: Bytes of them all.
    """

    count: int = 0
    trainable: int = 0
    size_bytes: int = 0

    @property
    def training(self) -> Training:
        """Whether all, none or some of them are trained."""
        if not self.count:
            return "none"
        if self.trainable == self.count:
            return "trainable"
        return "mixed" if self.trainable else "frozen"

    def __add__(self, other: Weights) -> Weights:
        return Weights(
            self.count + other.count,
            self.trainable + other.trainable,
            self.size_bytes + other.size_bytes,
        )


NO_WEIGHTS = Weights()


def element_counts(graph: ModelGraph) -> dict[str, int]:
    """The number of elements of every parameter of a graph, by its qualified name."""
    return {parameter.name: parameter.elements for parameter in graph.parameters}


class ModuleWeights:
    """The parameters of every module of a graph.

    Args:
        graph: Any graph.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self._own: dict[str, Weights] = {}
        self._tied: dict[str, str] = {}  # by the module that has the other name
        for parameter in graph.parameters:
            for alias in parameter.aliases:
                self._tied.setdefault(alias.rpartition(".")[0], parameter.name)
            size = parameter.elements
            one = Weights(size, size if parameter.trainable else 0, parameter.spec.size_bytes)
            path = parameter.module
            while True:
                self._own[path] = self._own.get(path, NO_WEIGHTS) + one
                if not path:
                    break
                path = path.rpartition(".")[0]
        self._of_callers = self._within_callers(graph)

    def _within_callers(self, graph: ModelGraph) -> dict[str, Weights]:
        """Those of the outermost modules of the model that others call, each module once.

        The others are functions, and modules that are no part of the model: a solver's wrapper.
        """
        parents = {call.name: call.parent for call in graph.modules}
        called: dict[str, set[str]] = {
            call.name: set() for call in graph.modules if call.path is None
        }
        for call in graph.modules if called else ():
            if call.path is not None:
                around = call.parent
                while around in called:
                    called[around].add(call.path)
                    around = parents[around]
        return {
            name: sum((self._own.get(path, NO_WEIGHTS) for path in sorted(paths)), NO_WEIGHTS)
            for name, paths in called.items()
        }

    @property
    def total(self) -> Weights:
        """Those of the whole model."""
        return self._own.get("", NO_WEIGHTS)

    def of(self, call: ModuleCall) -> Weights:
        """Those of a called module, or of those that a function calls.

        A module that is no part of the model has those of what it calls, too.
        """
        if call.path is None:
            return self._of_callers.get(call.name, NO_WEIGHTS)
        return self._own.get(call.path, NO_WEIGHTS)

    def tied_to(self, call: ModuleCall) -> str:
        """The parameter that a module has under another name; ``""`` if there is none."""
        return self._tied.get(call.path, "") if call.path is not None else ""
