"""From a program to an ONNX model in memory, with the author's names on everything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch

from modelviz_callbacks.errors import ModelvizError, OptionError, WriterError
from modelviz_callbacks.writers.onnx.exporter_output import into_log

# Where torch.onnx says which node of the exported program an ONNX node came from.
_NAME_SCOPES = "pkg.torch.onnx.name_scopes"

# In larger graphs the search for nodes to be joined takes as long as all the rest, and runtimes
# do it themselves.
_MOST_REWRITTEN = 1500


@dataclass(frozen=True)
class Source:
    """What is converted.

    Attributes:
        program: Takes the inputs one by one and gives a tuple of tensors. If it is an fx graph,
            ``meta["custom"][facts_key]`` of its nodes may give their ``name``, ``module``,
            ``class``, ``op`` and ``source``.
        inputs: Paths of the tensors it takes.
        examples: One tensor for each; only shapes, dtypes and devices matter.
        outputs: Paths of the tensors it gives.
        facts_key: See ``program``.
        state: Qualified names of the model's parameters and buffers, by their names in
            ``program``.
        title: What it is, for the file's doc string.
        tensors: The model's parameters and buffers by their qualified names, for what the program
            does not reach (those of a scripted part).
    """

    program: torch.nn.Module
    inputs: Sequence[str]
    examples: tuple[torch.Tensor, ...]
    outputs: Sequence[str]
    facts_key: str
    state: Mapping[str, str]
    title: str
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Names:
    """The user's names for inputs and outputs; ``None``: the paths."""

    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None

    def of_inputs(self, paths: Sequence[str]) -> list[str]:
        """The names of the inputs.

        Raises:
            OptionError: There are more or fewer names than inputs.
        """
        return _chosen(self.inputs, paths, "input_names", "takes")

    def of_outputs(self, paths: Sequence[str]) -> list[str]:
        """The names of the outputs.

        Raises:
            OptionError: There are more or fewer names than outputs.
        """
        return _chosen(self.outputs, paths, "output_names", "gives")


def _chosen(names: Sequence[str] | None, paths: Sequence[str], option: str, verb: str) -> list[str]:
    if names is None:
        return list(paths)
    if len(names) != len(paths):
        raise OptionError(
            f"Option {option} has {len(names)} name(s), but the model {verb} {len(paths)} "
            f"tensor(s): {', '.join(paths) or 'none'}. Give one name for each, in this order."
        )
    return list(names)


def convert(source: Source, names: Names, dynamic_shapes: Any = None) -> ir.Model:
    """An ONNX model of a program.

    Args:
        source: The program, in inference form.
        names: For its inputs and outputs.
        dynamic_shapes: As torch.export takes them; ``None``: all sizes are fixed.

    Returns:
        A model whose initializers are the program's own tensors, not copies, under their
        qualified names, and whose nodes have short metadata keys.

    Raises:
        WriterError: torch.export or torch.onnx cannot take it.
        OptionError: The names do not fit.
    """
    input_names = names.of_inputs(source.inputs)
    output_names = names.of_outputs(source.outputs)
    with into_log():
        try:
            exported = torch.export.export(
                source.program, source.examples, dynamic_shapes=dynamic_shapes, strict=False
            )
            program = torch.onnx.export(exported, (), dynamo=True, optimize=False, verbose=False)
            assert program is not None
            _optimize(program)
        except Exception as error:
            raise WriterError(
                f"{source.title} could not be turned into ONNX: {first_line(error)}"
            ) from error
    assert program.exported_program is not None
    model = program.model
    origins = {
        node.name: node.meta.get("custom", {}).get(source.facts_key, {})
        for node in program.exported_program.graph.nodes
    }
    describe_nodes(model, origins)
    rename_state(model, source.state)
    rename_ends(model, input_names, output_names)
    if dynamic_shapes is not None:
        name_batch(model)
    model.doc_string = model.graph.doc_string = source.title
    return model


def _optimize(program: torch.onnx.ONNXProgram) -> None:
    """Folds what is constant; in a graph that is not too large, also joins nodes into fewer."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    model = program.model
    if len(model.graph) <= _MOST_REWRITTEN:
        program.optimize()
        return
    common.InlinePass()(model)
    optimizer.fold_constants_ir(model, onnx_shape_inference=True)
    for step in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.DeduplicateInitializersPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        step(model)


def first_line(error: BaseException) -> str:
    """What an exporter's long error comes down to."""
    cause = error.__cause__ or error
    text = (str(cause).strip() or type(cause).__name__).splitlines()[0][:300]
    return text if isinstance(cause, ModelvizError) else f"{type(cause).__name__}: {text}"


def describe_nodes(model: ir.Model, origins: dict[str, dict[str, str]]) -> None:
    """Gives every node the name and metadata of the torch call it came from."""
    taken: set[str] = set()
    for node in model.graph:
        scopes = node.metadata_props.get(_NAME_SCOPES, "[]")
        fx_name = scopes.rstrip("]").rpartition(",")[2].strip(" '\"[")
        origin = origins.get(fx_name, {})
        for key in [key for key in node.metadata_props if "." in key or key == "namespace"]:
            del node.metadata_props[key]
        node.metadata_props.update({key: text for key, text in origin.items() if text})
        node.metadata_props.pop("name", None)
        wanted = origin.get("name") or node.op_type
        name, number = wanted, 1
        while name in taken:
            name, number = f"{wanted}/{node.op_type}_{number}", number + 1
        taken.add(name)
        node.name = name


def rename_state(model: ir.Model, names: Mapping[str, str]) -> None:
    """Gives the initializers the qualified names of the model's parameters and buffers."""
    for value in list(model.graph.initializers.values()):
        value.name = names.get(value.name or "", value.name)


def rename_ends(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Names the graph's inputs and outputs; whatever else has such a name gives way."""
    ends = {*inputs, *outputs}
    own = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    others = [value for node in model.graph for value in node.outputs]
    for value in [*others, *model.graph.initializers.values()]:
        if value.name in ends and id(value) not in own:
            value.name = f"{value.name}_inner"
    for value, name in zip(model.graph.inputs, inputs, strict=True):
        value.name = name
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name


def name_batch(model: ir.Model) -> None:
    """Calls the free first dimension of the inputs ``batch``; torch numbers its symbols."""
    free = {
        str(value.shape[0].value)
        for value in model.graph.inputs
        if value.shape and isinstance(value.shape[0], ir.SymbolicDim)
    }
    if len(free) != 1:
        return
    symbol = re.compile(rf"\b{re.escape(free.pop())}\b")
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is None or all(isinstance(size, int) for size in value.shape):
            continue
        # Another shape in its place: two values may share one, and some are frozen.
        value.shape = ir.Shape(
            [
                size if isinstance(size, int) else symbol.sub("batch", str(size.value))
                for size in value.shape
            ]
        )
