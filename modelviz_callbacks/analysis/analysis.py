"""One graph and everything that is computed about it, each thing at most once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, TypeVar

from modelviz_callbacks.analysis.costs import Costs
from modelviz_callbacks.analysis.fingerprint import Fingerprinter, architecture_fingerprinter
from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.analysis.outline import Outline
from modelviz_callbacks.analysis.repeats.search import find_folds
from modelviz_callbacks.analysis.repeats.variation import any_literal, any_size
from modelviz_callbacks.analysis.repeats.wiring import Fold
from modelviz_callbacks.analysis.steps import Steps
from modelviz_callbacks.analysis.weights import ModuleWeights
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Note

# A module that calls no other and has at most this many steps that compute something, rather
# than changing a tensor's layout, is told as one thing.
_STEPS_OF_A_LEAF = 12

# What `Analysis.with_flops` keeps.
_NO_FLOPS = (
    "weights",
    "exact",
    "any_arguments",
    "any_sizes",
    "loop_steps",
    "architecture",
    "fingerprint",
)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Analysis:
    """A graph with everything that writers want to know about it.

    Made once for each graph and handed to every writer; nothing is computed before it is asked
    for, and nothing twice. Nothing in it changes what was said before, so it may be read by
    anybody; it is not meant to be shared between threads, which could compute a thing twice.

    Args:
        graph: A sound graph (see ``modelviz_callbacks.graph.validate``).

    Attributes:
        graph: The same.
        measured: What was measured in later steps; ``None``: nothing was.

    Example:
        >>> from modelviz_callbacks.graph import ModelGraph
        >>> Analysis(ModelGraph("net", "nets.Net")).weights.total.count
        0
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.measured: MeasuredCosts | None = None
        self._derived: dict[tuple[Any, ...], Any] = {}

    @staticmethod
    def of(graph: ModelGraph | Analysis) -> Analysis:
        """The analysis itself, or a new one of a graph: for names that users call with a graph."""
        return graph if isinstance(graph, Analysis) else Analysis(graph)

    def with_flops(self, graph: ModelGraph) -> Analysis:
        """The analysis of the same graph after its FLOPs and its memory were filled in.

        Repeats and keys depend on neither, so those that were computed already are kept.

        Args:
            graph: A graph that differs in nothing but these fields of its nodes.
        """
        other = Analysis(graph)
        other.measured = self.measured
        other._derived |= {key: made for key, made in self._derived.items() if key[0] is _folds}
        other.__dict__ |= {name: made for name, made in self.__dict__.items() if name in _NO_FLOPS}
        return other

    def with_measured(self, measured: MeasuredCosts | None) -> Analysis:
        """The analysis of the same graph with what was measured in later steps.

        Args:
            measured: By the graph's names.
        """
        other = self.with_flops(self.graph)
        other.measured = measured
        return other

    def __repr__(self) -> str:
        return f"<Analysis of {self.graph!r}>"

    @cached_property
    def outline(self) -> Outline:
        """The items of every scope in execution order."""
        return Outline(self.graph)

    @cached_property
    def weights(self) -> ModuleWeights:
        """The parameters of every module."""
        return ModuleWeights(self.graph)

    @cached_property
    def costs(self) -> Costs:
        """What every module call and op costs."""
        return Costs(self.outline, self.measured)

    @cached_property
    def exact(self) -> Fingerprinter:
        """Keys of subgraphs that are equal only for the same shapes and arguments."""
        return Fingerprinter(self.outline, kind="copy")

    @cached_property
    def any_arguments(self) -> Fingerprinter:
        """Keys of subgraphs that are equal whatever their literal arguments are."""
        return Fingerprinter(self.outline, any_literal, kind="copy")

    @cached_property
    def any_sizes(self) -> Fingerprinter:
        """Keys of subgraphs that are equal whatever their arguments and sizes are."""
        return Fingerprinter(self.outline, any_literal, any_size, any_size, "copy")

    @cached_property
    def loop_steps(self) -> Fingerprinter:
        """Keys of subgraphs that are equal for steps of one loop, whatever lists and sizes grow."""
        return Fingerprinter(self.outline, any_literal, any_size, kind="step")

    @cached_property
    def architecture(self) -> Fingerprinter:
        """Keys of subgraphs that are equal at any batch size; see `fingerprint`."""
        return architecture_fingerprinter(self.outline)

    @cached_property
    def fingerprint(self) -> str:
        """A key of the architecture: equal for models that do the same with other weights.

        It depends on ops, arguments, wiring, module classes and the shapes, dtypes and trainable
        flags of the parameters. It does not depend on names, on parameter values, on the device
        or on the sizes of activations. A number that comes first in a shape argument counts as
        a multiple of the batch size (the first size of the first input) where it is one.

        32 hexadecimal digits, the same in any process.
        """
        return self.architecture.body("").digest

    @cached_property
    def _calling(self) -> frozenset[str]:
        """The module calls and functions in which modules are called."""
        found: set[str] = set()
        for call in reversed(self.graph.modules):
            if call.called and (not call.is_function or call.name in found):
                found.add(self.outline.scope_of(call))
        return frozenset(found)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What is worth knowing about the model."""
        return self.graph.notes

    def folds(self, *, sizes: bool = False) -> tuple[Fold, ...]:
        """The repeats of the graph.

        Args:
            sizes: Whether copies may also differ in one size (channels, features), as in
                pictures; see `find_folds`.

        Returns:
            The folds of outer scopes before those within them.
        """
        return self.once(_folds, sizes)

    def steps(self, *, sizes: bool = False) -> Steps:
        """The steps of every scope, repeats once.

        Args:
            sizes: As for `folds`.
        """
        return self.once(_steps, sizes)

    def is_leaf(self, call: ModuleCall) -> bool:
        """Whether a module call is best told as one thing, its ops left out.

        So are torch's own modules and small ones (an activation, a norm) if they call no other
        modules, and functions that call none. Text, tables, pictures and differences all ask
        here, so that they tell a module alike.

        Args:
            call: A module call of the graph that ran.
        """
        if call.is_function:
            return call.name not in self._calling
        steps = self.steps().of(call.name)
        if call.name in self._calling or any(step.inner for step in steps):
            return False
        compute_steps = sum(not step.is_quiet for step in steps)
        return call.class_name.startswith("torch.nn.") or compute_steps <= _STEPS_OF_A_LEAF

    def once(
        self,
        compute: Callable[Concatenate[Analysis, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """What a function makes of this analysis, computed at the first call.

        It is how rooms that come later (views, writers) add to an analysis what several of them
        need: an overview, a layout.

        Args:
            compute: A function of a module, pure; it gets the analysis first.
            *args: Its other arguments, hashable.
            **kwargs: Likewise.

        Returns:
            The same object for the same function and arguments.

        Raises:
            Exception: What the function raises; it is called again next time then.
        """
        key = (compute, args, tuple(sorted(kwargs.items())))
        if key not in self._derived:
            self._derived[key] = compute(self, *args, **kwargs)
        found: _T = self._derived[key]
        return found


def _folds(analysis: Analysis, sizes: bool) -> tuple[Fold, ...]:
    any_sizes = analysis.any_sizes if sizes else None
    return find_folds(analysis.exact, analysis.any_arguments, any_sizes, analysis.loop_steps)


def _steps(analysis: Analysis, sizes: bool) -> Steps:
    return Steps(analysis.outline, analysis.folds(sizes=sizes))
