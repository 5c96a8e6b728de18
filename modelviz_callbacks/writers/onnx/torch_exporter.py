"""From one torch call to standard ONNX ops: the one place that knows torch's exporter from inside.

The public way (torch.export, then torch.onnx) takes 0.1 to 1.5 s for each program, most of it
the same whatever the program. Here the exporter's table of translations is built once a process,
and a call goes through the cheapest of three ways that takes it: as the ATen ops that it is
written in; as these, without in-place writes and with what has no translation taken apart; through
torch.export.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from modelviz_callbacks.writers.onnx.replacements import DECOMPOSITIONS

# Constants larger than this are computed where the file is run, not written into it.
_MOST_FOLDED = 256

Body = Callable[..., tuple[torch.Tensor, ...]]


class Untranslated(Exception):
    """No way led to standard ops."""


@cache
def _registry() -> Any:
    from torch.onnx._internal.exporter import _registration

    logger = logging.getLogger(_registration.__name__)
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it names what it lacks without torchvision
    try:
        return _registration.ONNXRegistry.from_torchlib()
    finally:
        logger.setLevel(level)


@cache
def _decompositions() -> dict[Any, Any]:
    from torch.onnx._internal.exporter import _decomp

    known = set(_decomp.get_onnx_implemented_overloads(_registry()))
    table: dict[Any, Any] = _decomp.create_onnx_friendly_decomposition_table(known)
    return {**table, **DECOMPOSITIONS}


def opset_version() -> int:
    """The version of the standard ops that calls are translated to."""
    return int(_registry().opset_version)


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
    """
    failure: Exception | None = None
    for way in (_as_written, _decomposed, _exported):
        try:
            with torch.no_grad():
                return _simplified(_to_ir(way(body, examples)))
        except Exception as error:
            failure = error
    raise Untranslated(str(failure)) from failure


def is_translated(target: Any) -> bool:
    """Whether the exporter's table has an operator, given with or without its overload."""
    if isinstance(target, torch._ops.OpOverloadPacket):
        names: list[str] = target.overloads()  # type: ignore[no-untyped-call]
        return any(is_translated(getattr(target, name)) for name in names)
    return bool(_registry().get_decomps(target))


def _as_written(body: Body, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    traced = _traced(body, examples, pre_dispatch=True)
    for node in traced.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not _is_known(node):
            raise Untranslated(f"{node.target} has to be taken apart")
    return traced


def _is_known(node: fx.Node) -> bool:
    assert isinstance(node.target, torch._ops.OpOverload)
    if node.target is torch.ops.aten.cross_entropy_loss.default and len(node.args) > 5:
        return False  # the table's translation forgets label smoothing
    return not node.target._schema.is_mutable and bool(_registry().get_decomps(node.target))


def _decomposed(body: Body, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    # The second time is for the writes that the taking apart itself brought in.
    for _ in range(2):
        functional = torch.func.functionalize(body, remove="mutations")
        traced = _traced(functional, examples, decomposition_table=_decompositions())
        targets = [node.target for node in traced.graph.nodes]
        if not any(isinstance(t, torch._ops.OpOverload) and t._schema.is_mutable for t in targets):
            break
        body = traced
    return traced


def _traced(body: Body, examples: tuple[torch.Tensor, ...], **options: Any) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    fake_mode = getattr(examples[0], "fake_mode", None) if examples else None
    with fake_mode or torch._subclasses.FakeTensorMode():
        traced: fx.GraphModule = make_fx(body, tracing_mode="real", **options)(*examples)
    return traced


def _exported(body: Body, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    from torch.onnx._internal.exporter import _fx_passes

    plain = tuple(
        torch.empty_strided(example.shape, example.stride(), dtype=example.dtype)
        for example in examples
    )
    exported = torch.export.export(_Call(body), plain, strict=False)
    exported = exported.run_decompositions(_decompositions())
    module = _fx_passes.remove_assertion_nodes(exported.graph_module)
    signature = exported.graph_signature
    wanted = [spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT"]
    if len(signature.input_specs) != len(wanted):
        raise Untranslated("a constant")
    if any(spec.kind.name != "USER_OUTPUT" for spec in signature.output_specs):
        raise Untranslated("a write to an input")
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not _is_known(node):
            raise Untranslated(f"{node.target} has no translation")
    return module


class _Call(torch.nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self._body = body

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._body(*tensors)


def _to_ir(module: fx.GraphModule) -> ir.Model:
    from torch.onnx._internal.exporter import _core, _fx_passes

    if _mixes_types(module):
        _fx_passes.insert_type_promotion_nodes(module)
    module = _fx_passes.remove_assertion_nodes(module)
    for node in module.graph.nodes:
        node.meta.setdefault("nn_module_stack", {})  # else each node is warned of
        if node.op == "get_attr":
            node.meta["val"] = _number(module, node.target)
    graph = ir.Graph([], [], nodes=[], name="call", opset_imports={"": opset_version()})
    model = ir.Model(graph, ir_version=10)
    _core._translate_fx_graph(
        module.graph,
        model,
        graph_like=graph,
        owned_graphs={},
        lower="at_conversion",
        registry=_registry(),
    )
    return model


def _mixes_types(module: fx.GraphModule) -> bool:
    """Whether there may be anything to promote: it takes as long to find out as to translate."""
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    values = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    kinds = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    return len(calls) != 1 or kinds != {torch.float32}


def _number(module: fx.GraphModule, name: Any) -> torch.Tensor:
    """What Python numbers became on their way into a call."""
    value = getattr(module, name)
    value = getattr(value, "constant", value)
    if not isinstance(value, torch.Tensor):
        raise Untranslated(f"the constant {name} has no value")
    return value


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
        input_size_limit=4 * _MOST_FOLDED,
        output_size_limit=_MOST_FOLDED,
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
