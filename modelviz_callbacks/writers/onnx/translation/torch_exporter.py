"""From one torch call to standard ONNX ops: through torch's own exporter.

The public way (torch.export, then torch.onnx) takes 0.1 to 1.5 s for each program, most of it
the same whatever the program. Here the exporter's table of translations is built once a process,
and a call goes through the cheapest of three ways that takes it: as the ATen ops that it is
written in; as these, without in-place writes and with what has no translation taken apart; through
torch.export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from modelviz_callbacks.writers.onnx.exporter_internals import (
    MissingInternal,
    OpOverload,
    OpOverloadPacket,
    decompositions,
    fake_tensor_mode,
    insert_type_promotion_nodes,
    is_mutable,
    modules_as_they_are,
    registry,
    remove_assertion_nodes,
    translate_fx_graph,
)
from modelviz_callbacks.writers.onnx.replacements.table import DECOMPOSITIONS

# The version that the exporter has translated to since torch 2.8, if it does not tell.
_OPSET_VERSION = 18

# Constants larger than this are computed where the file is run, not written into it.
MOST_FOLDED = 256

Body = Callable[..., tuple[torch.Tensor, ...]]


class Untranslated(Exception):
    """No way led to standard ops."""


@cache
def _decompositions() -> dict[Any, Any]:
    return {**decompositions(), **DECOMPOSITIONS}


def opset_version() -> int:
    """The version of the standard ops that calls are translated to."""
    try:
        return int(registry().opset_version)
    except MissingInternal:
        return _OPSET_VERSION


def translate(body: Body, examples: tuple[torch.Tensor, ...]) -> ir.Model:
    """A model of one call.

    Args:
        body: Takes tensors and gives tensors; writes to none that it takes.
        examples: Fake tensors of one fake mode, on the CPU.

    Returns:
        A model without functions and initializers whose inputs and outputs are those of
        ``body`` in their order; an output may be an input.

    Raises:
        Untranslated: torch has no translation; the message is the last failure's.
        MissingInternal: This torch's exporter is another one than is known here.
    """
    failure: Exception | None = None
    for way in (_as_written, _decomposed, _exported):
        try:
            with torch.no_grad():
                return _simplified(_to_ir(way(body, examples)))
        except MissingInternal:
            raise
        except Exception as error:
            failure = error
    raise Untranslated(str(failure)) from failure


def in_aten_ops(function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> fx.GraphModule:
    """A function as the ATen ops that it comes down to, autograd's among them.

    Args:
        function: Takes tensors on the CPU and gives a tuple of tensors or ``None``.
        tensors: Like those that it takes; their data is not looked at.

    Raises:
        Untranslated: It cannot be run without data; the message says why.
    """
    mode = fake_tensor_mode(allow_non_fake_inputs=True)
    with mode:
        examples = tuple(
            torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            for tensor in tensors
        )
    try:
        return _traced(function, examples, decomposition_table=_decompositions())
    except MissingInternal:
        raise
    except Exception as error:
        raise Untranslated(str(error)) from error


def is_translated(target: Any) -> bool:
    """Whether the exporter's table has an operator, given with or without its overload."""
    if isinstance(target, OpOverloadPacket):
        names: list[str] = target.overloads()
        return any(is_translated(getattr(target, name)) for name in names)
    return bool(registry().get_decomps(target))


def _as_written(body: Body, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    traced = _traced(body, examples, pre_dispatch=True)
    for node in traced.graph.nodes:
        if isinstance(node.target, OpOverload) and not _is_known(node):
            raise Untranslated(f"{node.target} has to be taken apart")
    return traced


def _is_known(node: fx.Node) -> bool:
    assert isinstance(node.target, OpOverload)
    if node.target is torch.ops.aten.cross_entropy_loss.default and len(node.args) > 5:
        return False  # the table's translation forgets label smoothing
    return not is_mutable(node.target) and bool(registry().get_decomps(node.target))


def _decomposed(body: Body, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    # The second time is for the writes that the taking apart itself brought in.
    for _ in range(2):
        functional = torch.func.functionalize(body, remove="mutations")
        traced = _traced(functional, examples, decomposition_table=_decompositions())
        targets = [node.target for node in traced.graph.nodes]
        if not any(isinstance(t, OpOverload) and is_mutable(t) for t in targets):
            break
        body = traced
    return traced


def _traced(body: Body, examples: tuple[torch.Tensor, ...], **options: Any) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    fake_mode = getattr(examples[0], "fake_mode", None) if examples else None
    with modules_as_they_are(), fake_mode or fake_tensor_mode():
        traced: fx.GraphModule = make_fx(body, tracing_mode="real", **options)(*examples)
    return traced


def _exported(body: Body, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    plain = tuple(
        torch.empty_strided(example.shape, example.stride(), dtype=example.dtype)
        for example in examples
    )
    exported = torch.export.export(_Call(body), plain, strict=False)
    exported = exported.run_decompositions(_decompositions())
    module = remove_assertion_nodes(exported.graph_module)
    signature = exported.graph_signature
    wanted = [spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT"]
    if len(signature.input_specs) != len(wanted):
        raise Untranslated("a constant")
    if any(spec.kind.name != "USER_OUTPUT" for spec in signature.output_specs):
        raise Untranslated("a write to an input")
    for node in module.graph.nodes:
        if isinstance(node.target, OpOverload) and not _is_known(node):
            raise Untranslated(f"{node.target} has no translation")
    return module


class _Call(torch.nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self._body = body

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._body(*tensors)


def _to_ir(module: fx.GraphModule) -> ir.Model:
    if _mixes_types(module):
        insert_type_promotion_nodes(module)
    module = remove_assertion_nodes(module)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            _put_in_number(module, node)
    for node in module.graph.nodes:
        node.meta.setdefault("nn_module_stack", {})  # else each node is warned of
    graph = ir.Graph([], [], nodes=[], name="call", opset_imports={"": opset_version()})
    model = ir.Model(graph, ir_version=10)
    translate_fx_graph(module.graph, model, graph)
    return model


def _mixes_types(module: fx.GraphModule) -> bool:
    """Whether there may be anything to promote: it takes as long to find out as to translate."""
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    values = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    kinds = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    return len(calls) != 1 or kinds != {torch.float32}


def _put_in_number(module: fx.GraphModule, node: fx.Node) -> None:
    """Makes an op of what a Python number became on its way into a call.

    Before 2.13 the exporter knows no attributes that are tensors.
    """
    value = getattr(module, str(node.target))
    value = getattr(value, "constant", value)
    if not isinstance(value, torch.Tensor):
        raise Untranslated(f"the constant {node.target} has no value")
    node.meta["val"] = value
    if value.dim() == 0:
        with module.graph.inserting_before(node):
            made = module.graph.call_function(
                torch.ops.aten.scalar_tensor.default, (value.item(),), {"dtype": value.dtype}
            )
        made.meta = node.meta
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)


def _simplified(model: ir.Model) -> ir.Model:
    """Folds what is constant and fills in every shape, without fusing ops."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    nodes = list(model.graph)
    if len(nodes) == 1 and not nodes[0].domain and all(v.shape for v in nodes[0].outputs):
        return model
    common.InlinePass()(model)
    optimizer.fold_constants_ir(
        model,
        onnx_shape_inference=True,
        input_size_limit=4 * MOST_FOLDED,
        output_size_limit=MOST_FOLDED,
    )
    for step in (
        common.RemoveUnusedNodesPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        step(model)
    if any(value.shape is None for node in model.graph for value in node.outputs):
        common.ShapeInferencePass()(model)
    return model
