"""``graph.onnx``: the model as its author built it, for looking at, kilobytes whatever its size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from modelviz_callbacks.errors import ReplayError, WriterError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.writers.onnx import fallback_nodes
from modelviz_callbacks.writers.onnx.builder import Board, Op, Value, connect, keep_needed, ops_of
from modelviz_callbacks.writers.onnx.convert import Names, Source, first_line, quiet
from modelviz_callbacks.writers.onnx.function_library import (
    DOMAIN,
    IR_VERSION,
    Body,
    Library,
    inline_leaves,
    unique,
    value_info,
)
from modelviz_callbacks.writers.onnx.interpreter import walk
from modelviz_callbacks.writers.onnx.torch_exporter import opset_version

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
    """

    data: bytes
    untranslated: tuple[str, ...] = ()
    reason: str = ""


def view_model(
    source: Source, names: Names, graph: ModelGraph, scope: str = "", weights: bool = False
) -> View:
    """The content of ``graph.onnx``.

    Every module call is a call of an ONNX function; calls that do the same share one. Without
    weights the initializers keep name, shape and dtype and have no data: Netron shows the same
    picture, and any tool can load the file (running it needs the weights).

    Args:
        source: The program, in inference form; its tensors need no data unless ``weights``.
        names: For its inputs and outputs.
        graph: The graph of the same recording.
        scope: Which module call of ``graph`` the program is; ``""``: the model's forward.
        weights: Whether to put the values of parameters and buffers into the file.

    Returns:
        The file; every value that has a known shape has it there.

    Raises:
        WriterError: The weights do not fit into one file.
        OptionError: The names do not fit.
    """
    input_names = names.of_inputs(source.inputs)
    output_names = names.of_outputs(source.outputs)
    board = Board(graph, scope)
    try:
        with quiet():
            walked = walk(source, board)
    except (ReplayError, WriterError, RuntimeError, NotImplementedError) as error:
        return graph_view(graph, names, source.title, first_line(error), scope)
    ends = _Ends(
        list(zip(input_names, walked.inputs, strict=True)),
        list(zip(output_names, walked.outputs, strict=True)),
    )
    model, used = _model(board, ends, source.title)
    tensors = dict(walked.state.values())
    if weights:
        _check_size(tensors[value] for value in used)
    for value, name in used.items():
        data = _with_data(name, tensors[value]) if weights else _without_data(name, value)
        model.graph.initializer.append(data)
    return View(_serialised(model), tuple(dict.fromkeys(walked.untranslated)))


def graph_view(graph: ModelGraph, names: Names, title: str, reason: str, scope: str = "") -> View:
    """A file for looking at, where there is no program: every op as torch has it.

    Args:
        graph: What to show.
        names: For its inputs and outputs.
        title: For the doc string.
        reason: Why there is no program.
        scope: Which module call to show; ``""``: everything.

    Returns:
        The file.

    Raises:
        OptionError: The names do not fit.
    """
    board = Board(graph, scope)
    given, results = fallback_nodes.put_graph(board)
    entering = {name: value for name, value in given.items() if value.kind == "input"}
    ends = _Ends(
        list(zip(names.of_inputs(list(entering)), entering.values(), strict=True)),
        list(zip(names.of_outputs(list(results)), results.values(), strict=True)),
    )
    model, used = _model(board, ends, f"{title}; for looking at only: {reason}")
    for value, name in used.items():
        model.graph.initializer.append(_without_data(name, value))
    found = tuple(dict.fromkeys(op.op_type for op in ops_of(board.root)))
    return View(_serialised(model), found, reason)


@dataclass(frozen=True)
class _Ends:
    """The inputs and outputs of the whole, with their names."""

    inputs: list[tuple[str, Value]]
    outputs: list[tuple[str, Value]]


def _model(board: Board, ends: _Ends, title: str) -> tuple[onnx.ModelProto, dict[Value, str]]:
    """Everything but the initializers, and the names of these."""
    root = board.root
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
    library = Library(root)
    body = Body(library, root, True, names)
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="modelviz_callbacks")
    model.doc_string = title
    _fill(model, board, body, library)
    model.graph.input.extend([value_info(value, name) for name, value in ends.inputs])
    model.graph.output.extend([value_info(value, name) for name, value in ends.outputs])
    besides = {value for value, name in names.items() if name in taken}
    model.graph.value_info.extend(body.value_infos(besides))
    return model, state


def _fill(model: onnx.ModelProto, board: Board, body: Body, library: Library) -> None:
    """Puts the functions and the graph's nodes in."""
    domains = {op.domain for op in ops_of(board.root)} - {""}
    if library.is_used:
        domains.add(DOMAIN)
    imports = [onnx.helper.make_opsetid("", opset_version())]
    imports += [onnx.helper.make_opsetid(domain, 1) for domain in sorted(domains)]
    model.opset_import.extend(imports)
    model.functions.extend(library.protos(imports))
    model.graph.name = board.graph.name or "graph"
    model.graph.doc_string = model.doc_string
    model.graph.node.extend(body.nodes)


def _serialised(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _check_size(tensors: Iterable[torch.Tensor]) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > _MAX_BYTES:
        raise WriterError(
            f"graph.onnx cannot hold weights of {size:,} bytes: one file takes "
            f"{_MAX_BYTES:,}. Leave onnx_weights off, or use trained_onnx, which writes "
            "them beside the file."
        )


def _without_data(name: str, value: Value) -> onnx.TensorProto:
    dims = [size or 0 for size in value.shape or ()]
    return onnx.TensorProto(name=name, data_type=value.dtype, dims=dims)


def _with_data(name: str, tensor: torch.Tensor) -> onnx.TensorProto:
    plain_tensor = tensor.detach().cpu()
    if plain_tensor.is_complex():
        plain_tensor = torch.view_as_real(plain_tensor)
    adapted = tensor_adapters.TorchTensor(plain_tensor.contiguous(), name=name)
    proto: onnx.TensorProto = ir.to_proto(adapted)
    return proto
