"""Programs with their transforms worked out, as the exporters take them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from modelviz_callbacks import trace
from modelviz_callbacks.tracing.capture.functorch_levels import functorch
from modelviz_callbacks.tracing.lowering.to_program import FACTS
from modelviz_callbacks.tracing.lowering.without_transforms import without_layers
from tests.tracing.transform_cases import CASES
from tests.zoo.cases import Case, seed_everything
from tests.zoo.leaves import difference, frozen

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.mark.alike
@every_case
def test_it_computes_the_same_bits_on_the_same_state(case: Case) -> None:
    model, args, _ = case.make()
    program = trace(model, *args).program
    flat = without_layers(program, args)
    seed_everything(1)
    wanted = frozen(program(*args))
    seed_everything(1)
    found = difference(wanted, frozen(flat(*args)))
    assert not found, f"the flat program gives another result: {found}"
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for node in flat.graph.find_nodes(op="get_attr"):
        if "constant" not in node.target:
            assert id(_at(flat, node.target)) in own
            assert _at(flat, node.target) is _at(program, node.target)
    assert functorch.get_dynamic_layer_stack_depth() == 0


def _at(module: torch.nn.Module, path: str) -> object:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def test_only_ordinary_ops_are_left_and_they_say_where_they_come_from() -> None:
    case = next(one for one in CASES if one.name == "vmap_of_grad")
    model, args, _ = case.make()
    recorded = trace(model, *args)
    names = {node.name for node in recorded.graph.of_kind("op")}
    flat = without_layers(recorded.program, args)
    calls = [node for node in flat.graph.nodes if node.op.startswith("call")]
    assert {type(node.target) for node in calls} == {torch._ops.OpOverload}
    origins = {node.meta["custom"][FACTS]["name"] for node in calls}
    assert {"fc/linear", "pow", "grad"} <= origins <= names


def test_a_model_with_transforms_has_an_onnx_file(tmp_path: Path) -> None:
    case = next(one for one in CASES if one.name == "ensemble")
    model, args, _ = case.make()
    path = trace(model, *args).save_onnx(tmp_path / "graph.onnx")
    found = onnx.load(path, load_external_data=False)
    names = {tensor.values.name for tensor in found.graph.sparse_initializer}
    assert {"fc.weight", "out.weight"} <= names
