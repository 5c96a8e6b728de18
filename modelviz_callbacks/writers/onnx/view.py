"""``graph.onnx``: the model as its author built it, for looking at, kilobytes whatever its size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import torch

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.short_scopes import with_short_scopes
from modelviz_callbacks.analysis.wrappers import with_open_top
from modelviz_callbacks.errors import ReplayError, WriterError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.writers.onnx.builder import (
    GraphBuilder,
    Op,
    Value,
    connect,
    keep_needed,
    ops_of,
)
from modelviz_callbacks.writers.onnx.convert import Names, Source, first_line
from modelviz_callbacks.writers.onnx.exporter_output import into_log
from modelviz_callbacks.writers.onnx.function_library import (
    DOMAIN,
    IR_VERSION,
    Body,
    Library,
    end_info,
    inline_leaves,
    unique,
)
from modelviz_callbacks.writers.onnx.initializers import add_with_values, add_without_values
from modelviz_callbacks.writers.onnx.interpreter import walk
from modelviz_callbacks.writers.onnx.output_structure import output_groups
from modelviz_callbacks.writers.onnx.stand_ins import is_array
from modelviz_callbacks.writers.onnx.translation import fallback_nodes
from modelviz_callbacks.writers.onnx.translation.torch_exporter import opset_version

# What one protobuf message can hold.
_MAX_BYTES = 1_800_000_000


@dataclass(frozen=True)
class View:
    """What was made.

    Attributes:
        data: The content of the file: a serialised ``onnx.ModelProto``.
        untranslated: torch's names of the ops without a standard form, each once; they are
            nodes in the domain ``pytorch``, and no runtime takes the file.
        reason: Why the file is made of such nodes alone; ``""`` where it is not.
        missing: Parameters and buffers whose values were wanted and could not be read; they are
            inputs of the file.
    """

    data: bytes
    untranslated: tuple[str, ...] = ()
    reason: str = ""
    missing: tuple[str, ...] = ()

    def remarks(self, name: str) -> list[str]:
        """What a person should know of the file, a sentence each; ``name`` is what it is called."""
        found = []
        if self.reason:
            found.append(f"{name} shows the ops as torch calls them: {self.reason}")
        elif self.untranslated:
            ops = ", ".join(self.untranslated)
            found.append(f"{name} shows as torch calls them, having no ONNX form: {ops}.")
        if self.missing:
            found.append(
                f"{name} has no values for {', '.join(self.missing)}: the elements of "
                "such tensors (of a subclass, sparse, quantised) cannot be read as numbers. They "
                "are inputs of the file."
            )
        return found


def view_model(
    source: Source, names: Names, analysis: Analysis, scope: str = "", weights: bool = False
) -> View:
    """The content of ``graph.onnx``.

    Every module call is a call of an ONNX function; calls that do the same share one. Without
    weights the initializers keep name, shape and dtype and have no entries: Netron shows the
    same picture, and any tool can load the file (running it needs the weights).

    Args:
        source: The program, in inference form; its tensors need no data unless ``weights``.
        names: For its inputs and outputs.
        analysis: The analysis of the graph of the same recording.
        scope: Which module call of the graph the program is; ``""``: the model's forward.
        weights: Whether to put the values of parameters and buffers into the file.

    Returns:
        The file; every value that has a known shape has it there.

    Raises:
        WriterError: The weights do not fit into one file.
        OptionError: The names do not fit.
    """
    input_names = names.of_inputs(source.inputs)
    output_names = names.of_outputs(source.outputs)
    builder = GraphBuilder(analysis.once(_laid_open, scope), scope)
    try:
        with into_log():
            walked = walk(source, builder)
    except (ReplayError, WriterError, RuntimeError, NotImplementedError) as error:
        return graph_view(analysis, names, source.title, first_line(error), scope)
    ends = _Ends(
        list(zip(input_names, walked.inputs, strict=True)),
        _outputs(builder, list(zip(output_names, walked.outputs, strict=True)), names),
    )
    model, used = _model(builder, ends, source.title, weights)
    tensors = dict(walked.state.values())
    missing = []
    if weights:
        _check_size(tensors[value] for value in used)
    for value, name in used.items():
        if not weights:
            add_without_values(model.graph, name, value)
        elif not add_with_values(model.graph, name, value, tensors[value]):
            missing.append(name)
    found = tuple(dict.fromkeys(walked.untranslated))
    return View(_serialised(model), found, missing=tuple(missing))


def graph_view(analysis: Analysis, names: Names, title: str, reason: str, scope: str = "") -> View:
    """A file for looking at, where there is no program: every op as torch has it.

    Args:
        analysis: The analysis of what to show.
        names: For its inputs and outputs.
        title: For the doc string.
        reason: Why there is no program.
        scope: Which module call to show; ``""``: everything.

    Returns:
        The file.

    Raises:
        OptionError: The names do not fit.
    """
    builder = GraphBuilder(analysis.once(_laid_open, scope), scope)
    given, results = fallback_nodes.put_graph(builder)
    entering = {name: value for name, value in given.items() if value.kind == "input"}
    ends = _Ends(
        list(zip(names.of_inputs(list(entering)), entering.values(), strict=True)),
        _outputs(
            builder,
            list(zip(names.of_outputs(list(results)), results.values(), strict=True)),
            names,
        ),
    )
    model, used = _model(builder, ends, f"{title}; for looking at only: {reason}", False)
    for value, name in used.items():
        add_without_values(model.graph, name, value)
    found = tuple(dict.fromkeys(op.op_type for op in ops_of(builder.root)))
    return View(_serialised(model), found, reason)


def _laid_open(analysis: Analysis, scope: str) -> ModelGraph:
    """The graph as its top level is to be looked at: neither one closed box, nor a long list."""
    return with_short_scopes(analysis, analysis.graph if scope else with_open_top(analysis))


def _outputs(
    builder: GraphBuilder, outputs: list[tuple[str, Value]], names: Names
) -> list[tuple[str, Value]]:
    """The outputs of the file: a structure of tensors is one, unless the user named each."""
    if names.outputs is not None:
        return outputs
    found = []
    for group in output_groups([name for name, _ in outputs]):
        members = [outputs[index][1] for index in group.members]
        if len(members) == 1 or len({value.dtype for value in members}) > 1:
            found += [outputs[index] for index in group.members]
            continue
        found.append((group.name, builder.sequence(members, group.name)))
    return found


@dataclass(frozen=True)
class _Ends:
    """The inputs and outputs of the whole, with their names."""

    inputs: list[tuple[str, Value]]
    outputs: list[tuple[str, Value]]


def _model(
    builder: GraphBuilder, ends: _Ends, title: str, has_values: bool
) -> tuple[onnx.ModelProto, dict[Value, str]]:
    """Everything but the initializers, and the names of these."""
    root = builder.root
    if ends.outputs:
        keep_needed(root, {value for _, value in ends.outputs})
    inline_leaves(root)
    connect(root, [value for _, value in ends.outputs])
    names = {value: name for name, value in ends.inputs}
    copied = []
    for name, value in ends.outputs:
        if value.kind == "made" and value not in names:
            names[value] = name
        else:
            copied.append((name, value))
    taken = {name for name, _ in (*ends.inputs, *ends.outputs)}
    state = {}
    for value in (*root.inputs, *(value for _, value in copied)):
        if value.kind == "state" and value not in state:
            state[value] = names[value] = unique(value.label, taken, {})
    for name, value in copied:
        copy = Value(value.dtype, value.shape, name)
        root.items.append(Op("Identity", "", (value,), (copy,), (), f"{name}/copy", {}))
        names[copy] = name
    library = Library(root, has_values)
    body = Body(library, root, True, names)
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="modelviz_callbacks")
    model.doc_string = title
    _fill(model, builder, body, library)
    model.graph.input.extend([end_info(value, name) for name, value in ends.inputs])
    model.graph.output.extend([end_info(value, name) for name, value in ends.outputs])
    besides = {value for value, name in names.items() if name in taken}
    model.graph.value_info.extend(body.value_infos(besides))
    return model, state


def _fill(model: onnx.ModelProto, builder: GraphBuilder, body: Body, library: Library) -> None:
    """Puts the functions and the graph's nodes in."""
    domains = {op.domain for op in ops_of(builder.root)} - {""}
    if library.is_used:
        domains.add(DOMAIN)
    imports = [onnx.helper.make_opsetid("", opset_version())]
    imports += [onnx.helper.make_opsetid(domain, 1) for domain in sorted(domains)]
    model.opset_import.extend(imports)
    model.functions.extend(library.protos(imports))
    model.graph.name = builder.graph.name or "graph"
    model.graph.doc_string = model.doc_string
    model.graph.node.extend(body.nodes)


def _serialised(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _check_size(tensors: Iterable[torch.Tensor | None]) -> None:
    size = sum(t.numel() * t.element_size() for t in tensors if t is not None and is_array(t))
    if size > _MAX_BYTES:
        raise WriterError(
            f"graph.onnx cannot hold weights of {size:,} bytes: one file takes "
            f"{_MAX_BYTES:,}. Leave onnx_weights off, or use trained_onnx, which writes "
            "them beside the file."
        )
