"""The ONNX files of a recording: one for looking at and one for running, for each network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.maker import Maker, file_name
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.gc_pause import paused_collector
from modelviz_callbacks.report import warn
from modelviz_callbacks.tracing import class_of, to_graph
from modelviz_callbacks.tracing.eval_recording import record_again
from modelviz_callbacks.tracing.lowering.networks import Unit
from modelviz_callbacks.tracing.lowering.to_program import FACTS
from modelviz_callbacks.tracing.lowering.values_read import reads_draws

if TYPE_CHECKING:
    from modelviz_callbacks.writers.onnx import Source as OnnxSource
    from modelviz_callbacks.writers.onnx import View as OnnxView


def write_views(maker: Maker, products: Products) -> None:
    """Writes an ONNX file for looking at, for each network.

    Args:
        maker: Where they go.
        products: Has a graph and networks.

    Raises:
        ModelvizError: The networks have no names; what fails of one is a line of the report.
    """
    assert products.analysis is not None
    assert products.networks is not None
    for unit, prefix in _named(products.networks):
        name = f"{prefix}onnx" if prefix else "graph.onnx"
        with maker.guarded(name):
            _write_view(maker, unit, products.analysis, name)


def _write_view(maker: Maker, unit: Unit, analysis: Analysis, name: str) -> None:
    options = maker.options
    names = (options.input_names, options.output_names)
    view = view_of(unit, analysis, *names, weights=options.onnx_weights)
    maker.write(name, view.data)
    for remark in view.remarks(name):
        maker.add_remark(remark)


def write_trained_models(maker: Maker, products: Products) -> None:
    """Writes an ONNX file for running, for each network, with the weights of now.

    Args:
        maker: Where they go.
        products: Has networks, with the live model.

    Raises:
        ModelvizError: The networks have no names; what fails of one is a line of the report.
    """
    assert products.networks is not None
    for unit, prefix in _named(products.networks):
        name = f"{prefix}model.onnx"
        with maker.guarded(name):
            _write_trained(maker, products, unit, name)


def _write_trained(maker: Maker, products: Products, unit: Unit, name: str) -> None:
    from modelviz_callbacks.writers.onnx import Again, Names, Subject, View, write_trained

    options = maker.options
    names = Names(options.input_names, options.output_names)

    def recorded(again: Again | None) -> View:
        made, analysis = unit, products.analysis
        if again is not None:
            made = record_again(unit, again.module, again.inputs, again.around)
            if reads_draws(made.recording):
                raise WriterError("Python or numpy reads the random numbers that it draws")
            analysis = Analysis(to_graph(made.recording))
        assert analysis is not None
        outputs = options.output_names or made.program.outputs
        return view_of(made, analysis, options.input_names, outputs, weights=True)

    subject = Subject(onnx_source(unit), unit.module, unit.call, unit.recorded_inputs(), recorded)
    outcome = write_trained(subject, names, maker.folder / name)
    for file in outcome.files:
        maker.add_file(file)
    for remark in (*outcome.warnings, *outcome.remarks):
        maker.add_remark(remark)
    for text in outcome.warnings:
        warn(text)
    figures = maker.report.figures
    largest = max(outcome.max_difference, figures.get("onnx_max_difference", 0.0))
    figures["onnx_max_difference"] = largest


def _named(networks: Sequence[Unit]) -> Iterator[tuple[Unit, str]]:
    """Each network with the beginning of its files' names; no two are alike."""
    if len(networks) == 1:
        yield networks[0], ""
        return
    taken: set[str] = set()
    for unit in networks:
        base = name = file_name(unit.name)
        number = 2
        while taken & (files := _files(name)):
            name, number = f"{base}_{number}", number + 1
        taken |= files
        yield unit, f"{name}."


def _files(name: str) -> set[str]:
    """What a network's files are called where upper and lower case are the same."""
    return {f"{name}.onnx".casefold(), f"{name}.model.onnx".casefold()}


def view_of(
    unit: Unit,
    analysis: Analysis,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    weights: bool,
) -> OnnxView:
    """A network's ``graph.onnx``.

    Args:
        unit: The network.
        analysis: The analysis of the graph of the recording that it is a part of.
        input_names: The user's names for its inputs.
        output_names: The user's names for its outputs.
        weights: Whether its weights go along.

    Returns:
        The content of the file, and what of it has no standard form.

    Raises:
        WriterError: The weights do not fit into one file.
        OptionError: The names do not fit.
    """
    from modelviz_callbacks.writers.onnx import Names, graph_view, view_model

    names = Names(input_names, output_names)
    path = "" if unit.recording.model is unit.module else unit.name
    calls = (call.name for call in analysis.graph.modules if call.called and call.path == path)
    scope = next(calls, "") if path else ""
    with paused_collector():
        try:
            source = onnx_source(unit)
        except Exception as error:  # the program itself could not be put together
            return graph_view(analysis, names, _title(unit), str(error), scope)
        return view_model(source, names, analysis, scope, weights)


def onnx_source(unit: Unit) -> OnnxSource:
    """A network in the form that the ONNX writers take."""
    from modelviz_callbacks.writers.onnx import Source

    program = unit.program
    return Source(
        program.module,
        program.inputs,
        unit.examples(),
        program.outputs,
        FACTS,
        program.state,
        _title(unit),
        {names.name: tensor for tensor, names in unit.recording.state.all()},
    )


def _title(unit: Unit) -> str:
    return f"{class_of(unit.module).__name__}, recorded by modelviz_callbacks"
