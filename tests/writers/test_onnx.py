"""The ONNX files of real recordings: one for looking at, one for running."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from torch import nn

from modelviz_callbacks import GraphHook, trace
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.report import ModelvizWarning
from tests.models import BUILDERS, build
from tests.samples import one_and_the_rest_slow
from tests.zoo.leaves import difference, frozen, tensors

# Models of tests/models.py that ONNX has every operation for.
VIEWABLE = sorted(
    BUILDERS.keys()
    - {
        "NoParameters",  # complex numbers
        "EmptyBatch",  # sizes of zero
        "BranchesOnData",  # Python reads values in between
        "OwnRandomness",  # a random permutation
    }
)


def view(name: str, folder: Path, **options: Any) -> onnx.ModelProto:
    model, args, kwargs = build(name)
    return onnx.load(trace(model, *args, **kwargs).save_onnx(folder / "graph.onnx", **options))


def shapes_of(values: Sequence[Any]) -> dict[str, list[int | str]]:
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def weights_of(graph: onnx.GraphProto) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and type of every parameter, buffer and constant, with values or without."""
    found = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        assert list(sparse.values.dims) == list(sparse.indices.dims) == [0]
        found[sparse.values.name] = tuple(sparse.dims), sparse.values.data_type
    return found


def nodes_of(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of the graph and of every function."""
    return [*proto.graph.node, *(node for function in proto.functions for node in function.node)]


def run(path: Path, *tensors: torch.Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return list(session.run(None, feed))


# --- graph.onnx


@pytest.mark.parametrize("name", VIEWABLE)
def test_every_value_of_the_view_has_a_shape_and_no_weight_has_data(
    name: str, tmp_path: Path
) -> None:
    proto = view(name, tmp_path)
    graph = proto.graph
    known = shapes_of([*graph.input, *graph.output, *graph.value_info])
    known |= {name: list(dims) for name, (dims, _) in weights_of(graph).items()}
    made = [output for node in graph.node for output in node.output if output]
    assert [value for value in made if value not in known] == []
    model, _, _ = build(name)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for tensor in graph.initializer:
        if tensor.name in state:
            assert tensor.raw_data == bytes(len(tensor.raw_data))
            assert state[tensor.name].numel() < 2
    assert proto.ByteSize() < 100_000


def test_the_view_of_a_large_model_takes_kilobytes(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 2000))
    path = trace(wide, torch.randn(2, 4)).save_onnx(tmp_path / "graph.onnx")
    assert path.stat().st_size < 20_000
    assert [dims for dims, _ in weights_of(onnx.load(path).graph).values()].count((2000,)) == 2


@pytest.mark.parametrize("name", ["TwoBranches", "TiedWeights", "ReusedLayer", "Transformer"])
def test_weights_keep_the_names_shapes_and_types_they_have_in_the_model(
    name: str, tmp_path: Path
) -> None:
    model, _, _ = build(name)
    found = weights_of(view(name, tmp_path).graph)
    missing = [
        parameter
        for parameter, value in model.named_parameters()
        if found.get(parameter) != (tuple(value.shape), onnx.TensorProto.FLOAT)
    ]
    assert missing == []


def test_the_ends_are_named_by_the_forwards_signature(tmp_path: Path) -> None:
    graph = view("StringsAndNones", tmp_path).graph
    assert [value.name for value in graph.input] == ["x", "mask"]
    graph = view("TwoBranches", tmp_path).graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["output"]


def test_the_ends_can_be_named(tmp_path: Path) -> None:
    graph = view("TwoBranches", tmp_path, input_names=["pixels"], output_names=["logits"]).graph
    assert [value.name for value in graph.input] == ["pixels"]
    assert [value.name for value in graph.output] == ["logits"]
    assert graph.node[0].input[0] == "pixels"
    assert graph.node[-1].output[0] == "logits"


def test_a_name_of_an_end_that_something_else_has_already_is_no_trouble(tmp_path: Path) -> None:
    names = view("TwoBranches", tmp_path).graph
    inner = names.node[0].output[0]
    graph = view("TwoBranches", tmp_path, input_names=[inner], output_names=["fc.weight"]).graph
    assert [value.name for value in graph.input] == [inner]
    assert [value.name for value in graph.output] == ["fc.weight"]
    made = [output for node in graph.node for output in node.output]
    made += [value.name for value in graph.input]
    made += weights_of(graph)
    assert len(made) == len(set(made))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_names": ["a", "b"]}, r"input_names has 2 name\(s\), but.* takes 1.*: image"),
        ({"output_names": []}, r"output_names has 0 name\(s\), but.* gives 1.*: output"),
    ],
)
def test_a_wrong_number_of_names_is_refused_with_what_there_is(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        view("TwoBranches", tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_number_of_names_costs_the_onnx_file_only(tmp_path: Path) -> None:
    model, args, _ = build("TwoBranches")
    options: dict[str, Any] = {"formats": ["text"], "background": False}
    with (
        pytest.warns(ModelvizWarning, match="input_names has 2"),
        GraphHook(model, dirpath=tmp_path, input_names=["a", "b"], **options) as hook,
    ):
        model(*args)
    assert [refusal.what for refusal in hook.report.refused] == ["graph.onnx"]
    assert (tmp_path / "graph.txt").exists()


def test_every_node_says_which_module_and_which_line_it_is_from(tmp_path: Path) -> None:
    proto = view("TwoBranches", tmp_path)
    for node in nodes_of(proto):
        keys = facts(node)
        assert set(keys) <= {"module", "class", "op", "source"}
        if node.domain != "modules":
            assert keys["op"]
            assert keys["source"].rpartition(":")[2].isdigit()
    by_name = {node.name: node for node in proto.graph.node}
    assert by_name["cnn"].op_type == "Sequential.cnn"
    assert facts(by_name["cnn"]) == {
        "module": "cnn",
        "class": "torch.nn.modules.container.Sequential",
    }
    assert by_name["cat"].op_type == "Concat"
    (inside,) = [function for function in proto.functions if function.name == "Sequential.cnn"]
    conv = next(node for node in inside.node if node.name == "0_Conv2d/conv2d")
    assert conv.op_type == "Conv"
    assert facts(conv)["module"] == "cnn.0"
    assert facts(conv)["class"].endswith("Conv2d")
    assert facts(conv)["op"].endswith("conv2d")


def facts(node: onnx.NodeProto) -> dict[str, str]:
    return {item.key: item.value for item in node.metadata_props}


def test_names_are_those_of_the_graph_below_the_module_that_they_are_in(tmp_path: Path) -> None:
    model, args, _ = build("Transformer")
    recorded = trace(model, *args)
    proto = onnx.load(recorded.save_onnx(tmp_path / "graph.onnx"))
    ours = [node.name for node in recorded.graph.ops]
    ours += [call.name for call in recorded.graph.modules]
    endings = {name[start:] for name in ours for start in starts_of_parts(name)}
    strange = [
        node.name
        for node in nodes_of(proto)
        if node.name not in endings and node.name.rpartition("/")[0] not in endings
    ]
    assert strange == []
    at_the_top = [node.name for node in proto.graph.node if node.op_type != "Constant"]
    assert [name for name in at_the_top if name.partition("/")[0] in ours] == at_the_top


def starts_of_parts(name: str) -> list[int]:
    return [0, *(index + 1 for index, letter in enumerate(name) if letter == "/")]


def test_a_module_is_a_function_whose_values_have_shapes_and_its_forwards_names(
    tmp_path: Path,
) -> None:
    proto = view("TwoBranches", tmp_path)
    functions = {function.name: function for function in proto.functions}
    assert set(functions) == {"Sequential.cnn", "Linear.mlp1", "Linear.mlp2", "Linear.fc"}
    leaf = functions["Linear.fc"]
    assert list(leaf.input) == ["input", "weight", "bias"]
    assert list(leaf.output) == ["output"]
    assert leaf.doc_string == "torch.nn.modules.linear.Linear"
    whole = functions["Sequential.cnn"]
    assert whole.input[0] == "input"
    # As Netron wants it, to show the weight inside.
    assert "cnn.4.weight" in [output for node in whole.node for output in node.output]
    assert list(whole.input) == ["input"]
    for function in functions.values():
        known = shapes_of(function.value_info)
        made = [output for node in function.node for output in node.output]
        assert [name for name in [*function.input, *made] if name not in known] == []


class Blocks(nn.Module):
    """Equal blocks in a loop, with a different one in between."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(depth)
        )
        self.blocks.insert(1, nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def test_blocks_that_do_the_same_are_one_function_called_with_each_ones_weights(
    tmp_path: Path,
) -> None:
    model = Blocks(5)
    path = trace(model, torch.randn(2, 4)).save_onnx(tmp_path / "graph.onnx", weights=True)
    proto = onnx.load(path)
    calls = [node for node in proto.graph.node if node.domain == "modules"]
    assert [node.name for node in calls] == [f"blocks/{n}_Sequential" for n in range(6)]
    kinds = [node.op_type for node in calls]
    assert kinds.count(kinds[0]) == 5
    assert kinds[1] != kinds[0]
    for index, node in enumerate(calls):
        assert list(node.input)[1:] == [
            f"blocks.{index}.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")
        ]
    (shared,) = [function for function in proto.functions if function.name == kinds[0]]
    assert list(shared.input) == ["input", "0.weight", "0.bias", "2.weight", "2.bias"]
    x = torch.randn(2, 4)
    numpy.testing.assert_allclose(run(path, x)[0], model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_file_grows_by_a_call_for_each_further_block(tmp_path: Path) -> None:
    few, many = (
        trace(Blocks(depth), torch.randn(2, 4)).save_onnx(tmp_path / f"{depth}.onnx")
        for depth in (5, 50)
    )
    assert len(onnx.load(few).functions) == len(onnx.load(many).functions)
    assert many.stat().st_size < 10 * few.stat().st_size


def test_the_view_is_in_inference_form(tmp_path: Path) -> None:
    kinds = {node.op_type for node in nodes_of(view("ReusedLayer", tmp_path))}
    assert "Dropout" not in kinds
    norm = next(n for n in nodes_of(view("TwoBranches", tmp_path)) if "Norm" in n.op_type)
    training = [item.i for item in norm.attribute if item.name == "training_mode"]
    assert training in ([], [0])
    assert len([output for output in norm.output if output]) == 1


@pytest.mark.parametrize(
    "name",
    [
        "TwoBranches",
        "DictInDictOut",
        "NestedOutputs",
        "DataclassInDataclassOut",
        "ReusedLayer",
        "TiedWeights",
        "ManyOutputs",
        "Containers",
        "CustomFunction",
        "Transformer",
        "CallsItself",
        "Checkpointed",
        "Parametrized",
        "OneTensorInTwoPlaces",
        "TensorsFromElsewhere",
    ],
)
def test_with_weights_the_view_computes_what_the_model_in_eval_mode_does(
    name: str, tmp_path: Path
) -> None:
    model, args, kwargs = build(name)
    recorded = trace(model, *args, **kwargs)
    path = recorded.save_onnx(tmp_path / "graph.onnx", weights=True)
    onnx.checker.check_model(str(path), full_check=True)
    given = [tensor for _, tensor in tensors((args, kwargs))]
    given = list({id(tensor): tensor for tensor in given}.values())
    wanted = [tensor for _, tensor in tensors(model.eval()(*args, **kwargs))]
    found = run(path, *given)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        numpy.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-5, atol=1e-5)


class Eigen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(self.inner(x)).real


def test_an_operation_without_a_translation_is_a_node_of_its_own_name(tmp_path: Path) -> None:
    path = trace(Eigen(), torch.eye(3)).save_onnx(tmp_path / "graph.onnx")
    proto = onnx.load(path)
    (strange,) = [node for node in proto.graph.node if node.domain == "pytorch"]
    assert strange.op_type == "linalg_eigvals"
    assert facts(strange)["op"] == "torch.linalg.eigvals"
    assert next(node.op_type for node in proto.graph.node) == "Linear.inner"
    assert shapes_of(proto.graph.output) == {"output": [3]}


class Writes(nn.Module):
    """Writes to memory in the ways that people do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        made = x * 2
        if self.kind == "view":
            made.view(-1)[1:5].mul_(3)
            return made + 1
        if self.kind == "old view":
            turned = made.t()
            made[0] = y[0]
            made += 1
            return turned
        if self.kind == "out":
            row = torch.empty(4)
            torch.add(y[0], y[1], out=row)
            made[1:2].copy_(row[None])
            return made, row
        if self.kind == "strided":
            made.diagonal().fill_(7)
            torch.as_strided(made, (2, 2), (5, 1), 1).zero_()
            return made
        large = x.repeat(40, 3)
        part = large[::2, 1:9:3]
        large[3:9].sub_(1)
        part.t().add_(y.sum())
        return large, part


@pytest.mark.parametrize("kind", ["view", "old view", "out", "strided", "large"])
def test_writes_through_views_become_values(kind: str, tmp_path: Path) -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    recorded = trace(Writes(kind), x, y)
    path = recorded.save_onnx(tmp_path / "graph.onnx", weights=True)
    onnx.checker.check_model(str(path), full_check=True)
    wanted = [tensor for _, tensor in tensors(Writes(kind)(x, y))]
    taken = [value.name for value in onnx.load(path).graph.input]
    given = [{"x": x, "y": y}[name] for name in taken]
    for one, other in zip(run(path, *given), wanted, strict=True):
        numpy.testing.assert_allclose(one, other.numpy(), rtol=1e-6, atol=1e-6)


def test_a_model_without_data_has_a_view(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        x = torch.randn(3, 4)
    proto = onnx.load(trace(model, x).save_onnx(tmp_path / "graph.onnx"))
    assert [node.op_type for node in proto.graph.node] == ["Gemm", "LayerNormalization", "Gemm"]
    assert shapes_of(proto.graph.output) == {"output": [3, 2]}


# --- model.onnx


def trained(model: nn.Module, folder: Path, *args: Any, **options: Any) -> GraphHook:
    """A recorded forward, a change of the weights, then the end."""
    options |= {"formats": ["text"], "tensorboard": False, "background": False}
    with GraphHook(model, dirpath=folder, trained_onnx=True, **options) as hook:
        model(*args)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return hook


def digits() -> torch.Tensor:
    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16


def iris() -> torch.Tensor:
    return torch.tensor(load_iris().data, dtype=torch.float32)


@pytest.mark.parametrize("recorded_size", one_and_the_rest_slow([2, 1, 16]))
def test_the_trained_model_agrees_on_real_digits_at_any_batch_size(
    recorded_size: int, tmp_path: Path
) -> None:
    model, _, _ = build("TwoBranches")
    images = digits()
    hook = trained(model, tmp_path, images[: max(recorded_size, 2)][:recorded_size])
    assert hook.report.refused == []
    path = tmp_path / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    assert shapes_of(onnx.load(path).graph.input) == {"image": ["batch", 1, 8, 8]}
    model.eval()
    for size in (1, 3, 16, 500):
        (found,) = run(path, images[-size:])
        wanted = model(images[-size:]).detach().numpy()
        assert numpy.abs(found - wanted).max() < 1e-5
    assert hook.report.figures["onnx_max_difference"] < 1e-5


def test_the_trained_model_has_the_weights_of_the_end_not_of_the_recording(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    before = copy.deepcopy(model)
    flowers = iris()
    trained(model, tmp_path, flowers[:10], input_names=["features"], output_names=["logits"])
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["features"]
    assert [value.name for value in graph.output] == ["logits"]
    (found,) = run(tmp_path / "model.onnx", flowers)
    assert numpy.abs(found - model(flowers).detach().numpy()).max() < 1e-5
    assert numpy.abs(found - before(flowers).detach().numpy()).max() > 1e-3


def test_exporting_leaves_flags_weights_gradients_and_random_state_alone(tmp_path: Path) -> None:
    model, args, _ = build("TwoBranches")
    model.mlp1.eval()
    options: dict[str, Any] = {"formats": ["text"], "background": False}
    hook = GraphHook(model, dirpath=tmp_path, trained_onnx=True, **options)
    model(*args).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]

    def state() -> Any:
        return frozen(
            {
                "flags": [module.training for module in model.modules()],
                "requires": [parameter.requires_grad for parameter in model.parameters()],
                "state": dict(model.state_dict()),
                "gradients": gradients,
                "attributes": [sorted(vars(module)) for module in model.modules()],
                "torch": torch.get_rng_state(),
                "numpy": numpy.random.get_state()[1],
                "threads": torch.get_num_threads(),
                "grad": torch.is_grad_enabled(),
            }
        )

    before = state()
    hook.close()
    assert (tmp_path / "model.onnx").exists()
    assert difference(before, state()) == ""
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))


class DrawsNumbers(nn.Module):
    """Draws random numbers of every kind, in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn = random.random() + float(numpy.random.rand())
        return self.layer(x) + drawn * torch.rand(())


def test_a_model_that_draws_random_numbers_loses_none_to_the_export(tmp_path: Path) -> None:
    model = DrawsNumbers()
    options: dict[str, Any] = {"formats": ["text"], "trained_onnx": True, "background": False}
    hook = GraphHook(model, dirpath=tmp_path, tensorboard=False, **options)
    model(torch.randn(3, 4))
    before = random.getstate(), frozen([numpy.random.get_state()[1:3], torch.get_rng_state()])
    with pytest.warns(ModelvizWarning, match="from Python's or numpy's generator in eval mode"):
        hook.close()
    assert random.getstate() == before[0]
    after = frozen([numpy.random.get_state()[1:3], torch.get_rng_state()])
    assert difference(before[1], after) == ""


class BranchesOnSize(nn.Module):
    """Its batch size cannot be left free: Python asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y * 2 if x.shape[0] == 6 else y


def test_a_model_whose_batch_size_cannot_be_free_has_a_fixed_one_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    model = BranchesOnSize()
    hook = trained(model, tmp_path, torch.randn(6, 4))
    assert hook.report.refused == []
    assert any("fixed batch size" in remark for remark in hook.report.remarks)
    x = torch.randn(6, 4)
    (found,) = run(tmp_path / "model.onnx", x)
    assert numpy.abs(found - model(x).detach().numpy()).max() < 1e-5


def test_a_model_that_differs_in_onnxruntime_is_a_failure_and_not_a_file(tmp_path: Path) -> None:
    class NeverTheSame(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.numbers = nn.Linear(4, 4), itertools.count()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + next(self.numbers)

    with pytest.warns(ModelvizWarning, match=r"differs from the model in eval mode"):
        hook = trained(NeverTheSame(), tmp_path, torch.randn(3, 4))
    assert [refusal.what for refusal in hook.report.refused] == ["model.onnx"]
    assert "model.differs.onnx" in hook.report.refused[0].why
    assert not (tmp_path / "model.onnx").exists()
    assert (tmp_path / "model.differs.onnx").exists()
    assert (tmp_path / "graph.onnx").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "name", one_and_the_rest_slow(["DictInDictOut", "ManyOutputs", "TiedWeights", "Transformer"])
)
def test_structured_arguments_and_results_become_flat_and_named(name: str, tmp_path: Path) -> None:
    model, args, _ = build(name)
    hook = trained(model, tmp_path, *args)
    assert hook.report.refused == []
    given = [tensor for _, tensor in tensors(args)]
    wanted = [tensor for _, tensor in tensors(model.eval()(*args))]
    found = run(tmp_path / "model.onnx", *given)
    for one, other in zip(found, wanted, strict=True):
        numpy.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_frozen_part_keeps_its_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    model[1].eval()
    statistics = frozen(dict(model[1].named_buffers()))
    trained(model, tmp_path, iris()[:10])
    assert difference(statistics, frozen(dict(model[1].named_buffers()))) == ""
    (found,) = run(tmp_path / "model.onnx", iris())
    assert numpy.abs(found - model.eval()(iris()).detach().numpy()).max() < 1e-5
