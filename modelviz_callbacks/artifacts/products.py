"""What artifacts are made from: each need computed once, when somebody first asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.health import StepHealth
from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.graph.model import Note
from modelviz_callbacks.tracing import (
    InspectedStep,
    Measured,
    Recording,
    SourceFile,
    op_times,
    source_files,
    to_backward_graph,
    to_graph,
    with_flops,
    with_memory,
)
from modelviz_callbacks.tracing.lowering.networks import Unit, units
from modelviz_callbacks.tracing.steps.roofline import limits_of
from modelviz_callbacks.tracing.steps.step_health import health_notes, step_health

T = TypeVar("T")

# Told what could not be computed, and why.
OnFailure = Callable[[str, Exception], None]


def _raise(_: str, error: Exception) -> None:
    raise error


class Products:
    """All that is computed from one recording, or about a graph that is there already.

    A need that cannot be computed is ``None``; why is told once, to whoever made this.

    Attributes:
        recording: What a capture gave; ``None``: there is only a graph.
        measured: What was measured in later steps.
    """

    def __init__(
        self,
        recording: Recording | None,
        name: str | None = None,
        on_failure: OnFailure = _raise,
        measured: Measured | None = None,
        early: Products | None = None,
    ) -> None:
        """Nothing is computed yet.

        Args:
            recording: What a capture gave.
            name: What to call the graph; ``None``: the model's class.
            on_failure: Called with what failed and the error; the default raises it.
            measured: What was measured in later steps.
            early: What `early` of the same recording was, if it was asked for before.
        """
        self.recording = recording
        self.measured = measured or Measured()
        self._name = name
        self._on_failure = on_failure
        self._early_analysis = None if early is None else early.analysis
        if early is not None:
            vars(self)["lowered"] = early.graph

    @staticmethod
    def of_graph(
        graph: ModelGraph | None, on_failure: OnFailure = _raise, measured: Measured | None = None
    ) -> Products:
        """What can be computed about a graph alone.

        Args:
            graph: Any graph; ``None``: it could not be computed.
            on_failure: As for the class.
            measured: What was measured in steps of the same code.
        """
        products = Products(None, on_failure=on_failure, measured=measured)
        vars(products)["graph"] = graph
        return products

    @cached_property
    def early(self) -> Products:
        """What is quick enough to be computed in a training step: the graph without FLOPs."""
        early = Products.of_graph(self.lowered, self._on_failure)
        # What is computed about it now serves later, too.
        self._early_analysis = early.analysis
        return early

    @cached_property
    def lowered(self) -> ModelGraph | None:
        """The model graph, without what is slow to compute."""
        recording = self.recording
        if recording is None:
            return None
        return self._attempt("the graph", lambda: to_graph(recording, self._name))

    @cached_property
    def graph(self) -> ModelGraph | None:
        """The model graph with the FLOPs and the memory of its ops."""
        graph, recording = self.lowered, self.recording
        if graph is None or recording is None:
            return graph
        counted = self._attempt("the FLOPs", lambda: with_flops(graph, recording)) or graph
        return self._attempt("the memory", lambda: with_memory(counted, recording)) or counted

    @cached_property
    def analysis(self) -> Analysis | None:
        """What is computed about the graph."""
        if self.graph is None:
            return None
        if self._early_analysis is not None:
            found = self._early_analysis.with_flops(self.graph)
        else:
            found = Analysis(self.graph)
        return found if self.costs is None else found.with_measured(self.costs)

    @cached_property
    def backward_analysis(self) -> Analysis | None:
        """What is computed about the graph of the backward pass."""
        return None if self.backward_graph is None else Analysis(self.backward_graph)

    @cached_property
    def backward_graph(self) -> ModelGraph | None:
        """The graph of the backward pass, if autograd was asked for one."""
        graph, recording = self.graph, self.recording
        if graph is None or recording is None or recording.backward is None:
            return None
        record = recording.backward
        return self._attempt(
            "the backward graph", lambda: to_backward_graph(record, recording, graph)
        )

    @cached_property
    def networks(self) -> list[Unit] | None:
        """The networks in the recording; ``None`` where it ended early."""
        recording = self.recording
        if recording is None or recording.is_partial:
            return None
        return self._attempt("the ONNX files", lambda: units(recording))

    @cached_property
    def source_files(self) -> Mapping[str, SourceFile]:
        """The files that the ops come from, by the names that they have in the graph."""
        recording = self.recording
        if recording is None:
            return {}
        return self._attempt("the lines of source", lambda: source_files(recording)) or {}

    @cached_property
    def times_us(self) -> Mapping[str, float] | None:
        """Microseconds by the names of the graph's ops; ``None``: no step was timed."""
        times = self.times
        return times.times_us if times is not None and times.times_us else None

    @cached_property
    def times(self) -> Any:
        """The measured times of the graph's ops, see `op_times`."""
        graph, timed = self.graph, self.measured.timed
        if graph is None or timed is None:
            return None
        return self._attempt("the times", lambda: op_times(timed, graph))

    @cached_property
    def costs(self) -> MeasuredCosts | None:
        """What was measured of the graph's ops and parameters; ``None``: nothing was."""
        times, timed, graph = self.times, self.measured.timed, self.graph
        optimizer_bytes = self.measured.optimizer_bytes
        if times is None or timed is None or graph is None:
            return MeasuredCosts(optimizer_bytes=optimizer_bytes) if optimizer_bytes else None
        if not (times.times_us or times.compiled_us or optimizer_bytes):
            return None
        backward = times.compiled_backward_us
        found = MeasuredCosts(
            times.times_us,
            times.backward_us,
            {name: (us, backward.get(name, 0.0)) for name, us in times.compiled_us.items()},
            optimizer_bytes=optimizer_bytes,
        )
        limits = self._attempt("the limits", lambda: limits_of(graph, found, timed.threads))
        return replace(found, limits=limits or {})

    @property
    def inspected(self) -> tuple[InspectedStep, ...] | None:
        """The steps that were looked into; ``None``: none was."""
        return self.measured.inspected or None

    @cached_property
    def health(self) -> StepHealth | None:
        """What was seen in the last of these steps, by the names of the graph."""
        graph, steps = self.graph, self.measured.inspected
        if graph is None or not steps:
            return None
        return self._attempt("what was seen in a step", lambda: step_health(steps[-1], graph))

    @cached_property
    def health_notes(self) -> tuple[Note, ...]:
        """What a person would act on in the steps that were looked into."""
        steps = self.measured.inspected
        return self._attempt("what was seen in a step", lambda: health_notes(steps)) or ()

    @cached_property
    def told_analysis(self) -> Analysis | None:
        """`analysis` with the notes of the steps that were looked into."""
        analysis, notes = self.analysis, self.health_notes
        if analysis is None or not notes:
            return analysis
        graph = analysis.graph
        return analysis.with_flops(replace(graph, notes=(*graph.notes, *notes)))

    def _attempt(self, what: str, compute: Callable[[], T]) -> T | None:
        try:
            with paused_collector():
                return compute()
        except Exception as error:
            self._on_failure(what, error)
            return None


def graph_of(recording: Recording, name: str | None = None) -> ModelGraph:
    """The model graph of a recording, with the FLOPs of its ops.

    Args:
        recording: What a capture gave.
        name: What to call the graph; ``None``: the model's class.

    Raises:
        GraphError: The graph would break its own rules (a bug in this library).
    """
    graph = Products(recording, name).graph
    assert graph is not None
    return graph
