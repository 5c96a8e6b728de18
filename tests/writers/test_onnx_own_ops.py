"""``graph.onnx`` of ops that are not torch's, and of tensors that are no plain arrays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, trace
from modelviz_callbacks.report import ModelvizWarning
from tests.writers.test_onnx import facts, nodes_of, run, weights_of

NAMES = ("cdist", "add", "view", "sort", "linear", "reshape", "getitem", "tensor", "median")


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    """Operators of somebody's own with names of torch's."""
    made = torch.library.Library("ownlib", "DEF")
    for name in NAMES:
        made.define(f"{name}(Tensor x, Tensor y) -> Tensor")
        made.impl(name, lambda x, y: x * 3 + y.sum(), "CPU")
        made.impl(name, lambda x, _: torch.empty_like(x), "Meta")
    yield
    made._destroy()


class Own(nn.Module):
    def __init__(self, name: str, overload: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        packet = getattr(torch.ops.ownlib, name)
        self.op = packet.default if overload else packet

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.op(self.layer(x), x)) + 1


@pytest.mark.parametrize("overload", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_an_op_of_the_users_own_is_never_written_as_torchs_of_the_same_name(
    name: str, overload: bool, tmp_path: Path
) -> None:
    path = trace(Own(name, overload), torch.randn(4, 4)).save_onnx(tmp_path / "graph.onnx")
    nodes = nodes_of(onnx.load(path))
    (own,) = [node for node in nodes if node.domain == "pytorch"]
    assert own.op_type == name
    assert "ownlib" in facts(own)["op"]
    assert {node.op_type for node in nodes} >= {"Relu", "Add"}


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("adjacency", torch.eye(3).to_sparse())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.sparse.mm(self.adjacency, self.layer(x))) + 1


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.nested.nested_tensor([x[:2], x[2:]])
        padded = torch.nested.to_padded_tensor(self.layer(rows), 0.0)
        return torch.relu(padded) + self.layer(x).sum()


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.inner = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(self.before(x)) + 1)


class InNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return torch.relu(y + torch.from_numpy(y.detach().numpy() * 2))


class SparseInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x.to_dense())) + x.coalesce().values().sum()


class ScriptedFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(_doubled(self.layer(x)))


@torch.jit.script
def _doubled(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x) * 2


@pytest.mark.parametrize(
    ("kind", "own", "standard"),
    [
        (Sparse, {"sparse_mm"}, {"Relu", "Add"}),
        (Nested, {"nested_to_padded_tensor", "linear", "constant"}, {"Relu", "ReduceSum"}),
        (Scripted, {"RecursiveScriptModule"}, {"Relu", "Add"}),
        (ScriptedFunction, {""}, {"Relu"}),
        (InNumpy, {"python"}, {"Relu", "Add"}),
        (SparseInput, {"to_dense", "values"}, {"Relu", "Add", "ReduceSum"}),
    ],
)
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_only_the_ops_that_touch_what_onnx_has_not_are_nodes_of_torchs(
    kind: type[nn.Module], own: set[str], standard: set[str], weights: bool, tmp_path: Path
) -> None:
    x = torch.eye(4)[:3]
    given = x.to_sparse() if kind is SparseInput else x
    path = trace(kind(), given).save_onnx(tmp_path / "graph.onnx", weights=weights)
    onnx.checker.check_model(str(path))
    proto = onnx.load(path)
    nodes = nodes_of(proto)
    found = {node.op_type for node in nodes if node.domain == "pytorch"}
    assert found == own or (own == {""} and len(found) == 1)  # its name is one of autograd's
    assert {node.op_type for node in nodes if not node.domain} >= standard
    made = {name for node in proto.graph.node for name in node.output}
    made |= {value.name for value in proto.graph.input} | weights_of(proto.graph).keys()
    assert {name for node in proto.graph.node for name in node.input} <= made
    assert "looking" not in proto.doc_string


WRAPPER = """
import sys, torch, warnings
from torch.utils._pytree import tree_map
from modelviz_callbacks import GraphHook, trace
class Scaled(torch.Tensor):
    @staticmethod
    def __new__(cls, data, scale):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.float32)
    def __init__(self, data, scale):
        self.data8, self.scale = data, scale
    def plain(self):
        return self.data8.float() * self.scale
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].data8, args[0].scale)
        open_up = lambda value: value.plain() if isinstance(value, cls) else value
        return func(*tree_map(open_up, args), **tree_map(open_up, kwargs or {}))
layer = torch.nn.Linear(4, 4)
layer.weight = torch.nn.Parameter(Scaled(torch.ones(4, 4, dtype=torch.int8), 0.5), False)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    trace(torch.nn.Sequential(layer, torch.nn.ReLU()), torch.randn(2, 4)).save_onnx(
        sys.argv[1], weights=True)
print([str(item.message) for item in said])
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_weight_that_keeps_its_elements_elsewhere_is_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    done = subprocess.run(
        [sys.executable, "-c", WRAPPER, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "no values for 0.weight" in done.stdout
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    assert [value.name for value in proto.graph.input] == ["input", "0.weight"]
    assert "0.bias" in weights_of(proto.graph)
    (found,) = run(path, torch.ones(2, 4), torch.full((4, 4), 0.5))
    assert found.shape == (2, 4)


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("background", [False, True])
def test_a_worker_leaves_the_same_weights_out(background: bool, tmp_path: Path) -> None:
    model = Sparse()
    options: dict[str, Any] = {"formats": ["text"], "tensorboard": False, "onnx_weights": True}
    with GraphHook(model, dirpath=tmp_path, background=background, **options) as hook:
        model(torch.randn(3, 4))
    assert hook.report.refused == []
    assert any("no values for adjacency" in remark for remark in hook.report.remarks)
    graph = onnx.load(tmp_path / "graph.onnx").graph
    assert [value.name for value in graph.input] == ["x", "adjacency"]
    assert {tensor.name for tensor in graph.initializer} >= {"layer.weight", "layer.bias"}


@pytest.mark.parametrize("tensor", [torch.eye(4).to_sparse(), torch.eye(4).to_sparse_csr()])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_weights_that_were_wanted_and_left_out_are_a_warning(
    tensor: torch.Tensor, tmp_path: Path
) -> None:
    model = Sparse()
    model.adjacency = tensor
    with pytest.warns(ModelvizWarning, match="no values for adjacency"):
        trace(model, torch.randn(4, 4)).save_onnx(tmp_path / "graph.onnx", weights=True)


class ManyTypes(nn.Module):
    """Buffers of many dtypes and shapes, the empty and the scalar ones among them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        for dtype in ("float64", "float16", "int64", "int8", "uint8", "bool", "int32", "bfloat16"):
            self.register_buffer(f"of_{dtype}", torch.ones(4, dtype=getattr(torch, dtype)))
        self.register_buffer("scalar", torch.tensor(2.0))
        self.register_buffer("count", torch.tensor(2))
        self.register_buffer("empty", torch.zeros(0, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x) * self.scalar + self.count
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.dim() == 1 and name != "of_bfloat16":
                x = x + buffer.to(x.dtype)
        return torch.cat([x, self.empty]), self.of_bfloat16.float()


def test_without_weights_the_checker_takes_the_file_and_onnxruntime_runs_it_as_zeros(
    tmp_path: Path,
) -> None:
    import onnxruntime

    path = trace(ManyTypes(), torch.randn(2, 4)).save_onnx(tmp_path / "graph.onnx")
    onnx.checker.check_model(str(path))
    assert path.stat().st_size < 10_000
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["out[0]"], {"x": numpy.ones((2, 4), numpy.float32)})
    assert (found == 0).all()
    named = weights_of(onnx.load(path).graph)
    assert named["layer.weight"] == ((4, 4), onnx.TensorProto.FLOAT)
    assert named["of_bool"] == ((4,), onnx.TensorProto.BOOL)
    assert named["empty"] == ((0, 4), onnx.TensorProto.FLOAT)


class Cached(nn.Module):
    """Gives back what every layer has computed, as language models do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(12))

    def forward(self, x: torch.Tensor) -> Any:
        cache = []
        for layer in self.layers:
            x = layer(x)
            cache.append((x * 2, x + 1))
        if self.kind == "dictionary":
            return {"logits": x, "cache": dict(enumerate(cache))}
        if self.kind == "list":
            return [one for pair in cache for one in pair]
        return x, tuple(cache)


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("tuple", ["out[0]", "out[1]"]),
        ("dictionary", ["out['logits']", "out['cache']"]),
        ("list", ["out"]),
    ],
)
def test_a_structure_of_many_tensors_is_one_output(
    kind: str, outputs: list[str], tmp_path: Path
) -> None:
    model, x = Cached(kind), torch.randn(2, 4)
    path = trace(model, x).save_onnx(tmp_path / "graph.onnx", weights=True)
    onnx.checker.check_model(str(path), full_check=True)
    assert [value.name for value in onnx.load(path).graph.output] == outputs
    cache = run(path, x)[-1]
    assert len(cache) == 24
    first = model.layers[0](x)
    numpy.testing.assert_allclose(cache[0], (first * 2).detach().numpy(), atol=1e-6)


def test_outputs_that_the_user_names_stay_apart(tmp_path: Path) -> None:
    names = [f"o{number}" for number in range(25)]
    recorded = trace(Cached("tuple"), torch.randn(2, 4))
    path = recorded.save_onnx(tmp_path / "graph.onnx", output_names=names)
    assert [value.name for value in onnx.load(path).graph.output] == names


def test_the_weights_of_a_scripted_part_are_in_the_file_and_no_inputs_of_it(tmp_path: Path) -> None:
    model = Scripted()
    traced = trace(model, torch.randn(3, 4))
    proto = onnx.load(traced.save_onnx(tmp_path / "graph.onnx", weights=True))
    onnx.checker.check_model(proto)
    assert [value.name for value in proto.graph.input] == ["x"]
    found = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        assert numpy.array_equal(found[name], weight.detach().numpy())
