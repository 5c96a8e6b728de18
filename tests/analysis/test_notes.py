"""Notes are true, told once a kind, and those first that a user can act on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, trace
from modelviz_callbacks.analysis.notes import ModelFacts, notes
from modelviz_callbacks.graph import ModelGraph, Note
from modelviz_callbacks.tracing import pack, to_graph, unpack


def told(model: nn.Module, *args: Any) -> dict[str, str]:
    """The message of each kind; no kind has two."""
    recording = trace(model, *args)._recording
    found = to_graph(recording).notes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert to_graph(unpack(pack(recording))).notes == found, "another process tells others"
    assert len({note.kind for note in found}) == len(found)
    return {note.kind: note.message for note in found}


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


X = torch.ones(2, 4)


class Half(nn.Module):
    """A model of which half runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.ModuleList(linear() for _ in range(3))
        self.spare = nn.ModuleList(nn.Sequential(linear(), nn.ReLU()) for _ in range(40))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.used:
            x = layer(x)
            x.exp()
        return x


class SharesAct(nn.Module):
    """An activation under a name of its own and in two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.blocks = nn.ModuleList(nn.Sequential(linear(), self.act) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class SharesNetwork(nn.Module):
    """A network that is called by its second name, beside one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Sequential(linear(), nn.ReLU()), linear())
        self.spare = nn.ReLU()
        self.heads = nn.ModuleDict({"a": nn.Sequential(self.online, linear())})

    def forward(self, x: torch.Tensor) -> Any:
        return self.heads["a"](x)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (SharesAct, {}),
        (SharesNetwork, {"module-never-called": "The module spare was never called."}),
    ],
)
def test_a_module_that_is_called_by_another_of_its_names_was_called(
    model: type[nn.Module], wanted: dict[str, str]
) -> None:
    assert told(model(), X) == wanted


def test_a_kind_of_note_is_told_once_with_its_first_places() -> None:
    found = told(Half(), X)
    assert found == {
        "unused-parameter": "No op used 80 parameters: spare.0.0.weight, spare.0.0.bias, "
        "spare.1.0.weight, spare.1.0.bias, spare.2.0.weight and 75 more.",
        "module-never-called": "40 modules were never called: spare.0, spare.1, spare.2, spare.3, "
        "spare.4 and 35 more.",
        "unused-result": "Nobody uses the results of 3 ops: exp, exp_1, exp_2.",
    }
    assert list(found)[-1] == "unused-result"


def test_one_place_is_told_as_one() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = linear(), nn.ReLU()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> Any:
            return self.used(x)

    assert told(Spare(), X) == {
        "unused-parameter": "No op used scale.",
        "module-never-called": "The module spare was never called.",
    }


def test_there_are_at_most_ten_notes_and_the_last_says_how_many_more() -> None:
    graph = ModelGraph("net", "Net", notes=tuple(Note("remark", "", str(n)) for n in range(14)))
    found = notes(graph, ModelFacts())
    assert len(found) == 10
    assert found[-1].message == "5 more remarks were left out."


class Listed(nn.Module):
    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.first = linear()
        self.kept = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.kept.values() if isinstance(self.kept, dict) else self.kept:
            x = layer(x)
        return x


@pytest.mark.parametrize(
    "layers",
    [[linear(), linear()], (linear(), linear()), {"a": linear(), "b": linear()}],
    ids=["list", "tuple", "dictionary"],
)
def test_layers_that_an_optimizer_will_not_see_are_drawn_and_noted(layers: Any) -> None:
    model = Listed(layers)
    graph = trace(model, X).graph
    assert [call.name for call in graph.modules] == ["first", "Linear", "Linear_1"]
    message = told(model, X)["unregistered"]
    assert message.startswith("2 layers are not among the model's modules")
    assert message.endswith("an optimizer of model.parameters() does not train them: Linear, "
                            "Linear_1.")  # fmt: skip
    assert "Linear" in str(graph)


class Plain:
    def __init__(self, requires_grad: bool = True) -> None:
        self.scale = torch.ones(4, requires_grad=requires_grad)


class Scaled(nn.Module):
    """Scales with what a plain object, an attribute and a list hold."""

    def __init__(self, requires_grad: bool = True) -> None:
        super().__init__()
        self.layer, self.plain = linear(), Plain(requires_grad)
        self.bias = torch.ones(4, requires_grad=requires_grad)
        self.more = [nn.Parameter(torch.ones(4), requires_grad)]

    def forward(self, x: torch.Tensor, *all_scales: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        for scale in all_scales or (self.plain.scale, self.bias, self.more[0]):
            x = x * scale
        return x


def test_tensors_to_train_that_an_optimizer_will_not_see_are_noted() -> None:
    message = told(Scaled(), X)["unregistered-tensor"]
    assert message.startswith("3 tensors require a gradient and are not among the model's")
    assert message.endswith("does not train them: constant, constant_1, constant_2.")


def test_tensors_that_are_not_trained_or_come_from_outside_are_no_mistake() -> None:
    given = torch.ones(4, requires_grad=True)
    assert told(Scaled(requires_grad=False), X) == {}
    assert told(Scaled(), X, given) == {}
    assert told(Scaled(), X, given * 2) == {}
    assert "unregistered-tensor" not in told(Listed([linear()]), X)
    with torch.no_grad():
        made = given * 2
    assert told(Listed([lambda x: x * made.requires_grad_(False)]), X) == {}


def test_of_a_block_that_is_not_registered_the_block_is_told() -> None:
    message = told(Listed([nn.Sequential(linear(), linear())]), X)["unregistered"]
    assert message.startswith("The layer Sequential is not one of the model's modules")


def test_frozen_layers_that_are_kept_aside_are_no_mistake() -> None:
    teacher = linear().requires_grad_(False)
    assert "unregistered" not in told(Listed([teacher]), X)


class Taught(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student, self.teachers = linear(), [linear()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = self.teachers[0](x)
        return (self.student(x) - target).square().mean()


def test_a_teacher_that_runs_without_gradients_is_no_mistake() -> None:
    assert "unregistered" not in told(Taught(), X)
    with torch.no_grad():
        assert "unregistered" in told(Listed([linear()]), X)


def test_the_other_network_of_a_gan_is_no_layer_that_was_forgotten(tmp_path: Path) -> None:
    generator, discriminator = Listed([linear()]), linear()
    files: Any = {"dirpath": tmp_path, "onnx": False, "formats": ["text"], "background": False}
    with GraphHook(generator, loss=True, **files):
        discriminator(generator(X)).mean().backward()
    (note,) = ModelGraph.load(tmp_path / "graph.json").notes
    assert "The layer Linear is not" in note.message


def test_layers_in_a_module_list_are_the_models() -> None:
    assert told(Listed(nn.ModuleList([linear()])), X) == {}


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = nn.Sequential(linear(), nn.ReLU()), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.drop(self.body(x))
        return y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_what_is_inside_of_a_scripted_part_is_not_told_as_never_called(how: str) -> None:
    part = torch.jit.script(Part()) if how == "scripted" else torch.jit.trace(Part().eval(), X)
    assert list(told(nn.Sequential(linear(), part), X)) == ["opaque"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_part_was_called(how: str) -> None:
    model = nn.Sequential(linear(), Part())
    if how == "wrapped":
        model[1] = torch.compile(model[1], backend="eager")
    else:
        model[1].compile(backend="eager")  # type: ignore[no-untyped-call]
    assert set(told(model, X)) <= {"remark"}


def test_nothing_is_told_of_the_inside_of_a_layer_of_torchs() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True)
    assert told(layer, torch.ones(2, 3, 8)) == {}
    assert told(nn.Sequential(layer), torch.ones(2, 3, 8)) == {}


@pytest.mark.parametrize("to_disk", [False, True], ids=["in memory", "on disk"])
def test_offloaded_weights_are_not_told_as_unused(to_disk: bool, tmp_path: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = nn.Sequential(linear(), nn.Sequential(nn.ReLU(), linear()))
    if to_disk:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    else:
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert told(model, X) == {}


def test_a_model_on_the_meta_device_has_its_notes() -> None:
    with torch.device("meta"):
        model = Half()
    assert "unused-parameter" in told(model, torch.ones(2, 4, device="meta"))


def test_results_in_code_that_a_library_generated_are_not_told() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.exp, (x,))
    graph.output(graph.call_function(torch.neg, (x,)))
    assert told(nn.Sequential(torch.fx.GraphModule({}, graph)), X) == {}

    class Exp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.exp()
            return -x

    own = told(nn.Sequential(torch.fx.symbolic_trace(Exp())), X)
    assert list(own) == ["unused-result"]


def test_values_that_a_library_reads_are_not_told() -> None:
    class Reading(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.utils.rnn.pack_sequence([x]).data if x.sum() > 0 else x

    message = told(Reading(), X)["value-read"]
    assert message.startswith("Python looked at values in 1 place(s)")


class Yields(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, x: torch.Tensor) -> Any:
        for _ in range(3):
            x = self.layer(x)
            yield x


def test_a_forward_that_yields_has_nothing_to_note(tmp_path: Any) -> None:
    model = Yields()
    options: Any = {"tensorboard": False, "onnx": False, "formats": ["text"], "background": False}
    with GraphHook(model, dirpath=tmp_path, **options):
        [*model(X)][-1].sum().backward()
    graph = ModelGraph.load(tmp_path / "graph.json")
    assert [node.op for node in graph.ops] == ["linear"] * 3
    assert not graph.notes


def test_a_forward_that_yields_is_followed_to_its_end_by_trace() -> None:
    graph = trace(Yields(), X).graph
    assert [node.op for node in graph.ops] == ["linear"] * 3
    assert not graph.notes


def test_a_graph_without_inputs_says_so() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self) -> torch.Tensor:
            return self.scale.exp()

    assert list(told(Alone())) == ["no-inputs"]


@pytest.mark.parametrize("model", [nn.Identity(), nn.Flatten()])
def test_a_model_without_parameters_needs_no_op(model: nn.Module) -> None:
    assert told(model, X) == {}


def test_the_packed_weights_inside_a_quantised_layer_of_torchs_are_not_told_as_never_called() -> (
    None
):
    quantised = torch.ao.nn.quantized.dynamic.Linear(4, 4)
    inside = [path for path, _ in quantised.named_modules() if path]
    assert inside == ["_packed_params"]

    notes = trace(nn.Sequential(quantised, nn.ReLU()), torch.ones(2, 4)).graph.notes
    assert "module-never-called" not in {note.kind for note in notes}


class InBuffers(nn.Module):
    """A layer of 4-bit weights, as GPTQ registers them: eight in a number, unpacked to multiply."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        numbers = torch.randint(-(2**31), 2**31 - 1, (inputs // 8, outputs), dtype=torch.int32)
        self.register_buffer("qweight", numbers)
        self.register_buffer("qzeros", torch.zeros(2, outputs // 8, dtype=torch.int32))
        self.register_buffer("scales", torch.ones(2, outputs))
        self.register_buffer("g_idx", torch.arange(inputs, dtype=torch.int32) * 2 // inputs)
        self.register_buffer("shifts", torch.arange(0, 32, 4, dtype=torch.int32))

    def weight(self) -> torch.Tensor:
        codes = (self.qweight[:, None] >> self.shifts[None, :, None]) & 15
        zeros = ((self.qzeros[:, :, None] >> self.shifts) & 15).reshape(2, -1)
        groups = self.g_idx.long()
        return (codes.reshape(-1, codes.shape[-1]) - zeros[groups]) * self.scales[groups]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(x @ self.weight())


class Experts(nn.Module):
    """Layers of 8-bit weights in one buffer, with two scales for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(3, 4, 6, dtype=torch.int8))
        self.register_buffer("scales", torch.ones(3, 4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.weights.float().unflatten(-1, (2, 3)) * self.scales[..., None]
        return x @ weights.flatten(-2).mT


class ByteBuffer(nn.Module):
    """A layer of 8-bit weights in a buffer, an embedding or a linear one."""

    def __init__(self, is_table: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-128, 127, (6, 4), dtype=torch.int8))
        self.register_buffer("scales", torch.ones(6, 1))
        self.is_table = is_table

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_table:
            return nn.functional.embedding(x, self.weight.float() * self.scales)
        return nn.functional.linear(x, self.weight.to(x.dtype)) * self.scales.T


@torch.library.custom_op("notes_tests::product_of_packed", mutates_args=())
def product_of_packed(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    codes = (packed[:, None] >> shifts[None, :, None]) & 15
    return x @ (codes.reshape(-1, packed.shape[1]) * scales)


class Kernel(nn.Module):
    """A layer whose packed weights go to a kernel of somebody's as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", torch.zeros(2, 24, dtype=torch.int32))
        self.register_buffer("scales", torch.ones(1, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = product_of_packed(x, self.packed, self.scales)
        return made


def test_weights_that_are_buffers_of_whole_numbers_are_told_and_counted() -> None:
    model = nn.Sequential(
        InBuffers(16, 8), nn.ReLU(), InBuffers(8, 64), InBuffers(64, 8), nn.Linear(8, 2)
    )
    found = told(model, torch.ones(2, 16))
    assert found["weights-in-buffers"] == (
        "3 buffers hold 1,152 weights as whole numbers, which are no parameters: no count of "
        "parameters has them: 0.qweight, 2.qweight, 3.qweight."
    )
    assert trace(model, torch.ones(2, 16)).graph.parameter_count == 18


@pytest.mark.parametrize(
    ("model", "x", "name", "count"),
    [
        (ByteBuffer(False), X, "0.weight", 24),
        (ByteBuffer(True), torch.tensor([[0, 5]]), "0.weight", 24),
        (Kernel(), torch.ones(2, 16), "0.packed", 384),
        (Experts(), torch.ones(3, 2, 6), "0.weights", 72),
    ],
)
def test_so_are_bytes_and_what_a_kernel_unpacks(
    model: nn.Module, x: torch.Tensor, name: str, count: int
) -> None:
    message = told(nn.Sequential(model), x)["weights-in-buffers"]
    assert message.startswith(f"The buffer {name} holds {count} weights as whole numbers")


class Indices(nn.Module):
    """Buffers of whole numbers that are no weights: an index, positions, who is whose neighbour."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(9))
        self.register_buffer("index", torch.arange(16).reshape(4, 4) % 9)
        self.register_buffer("neighbours", torch.eye(4, dtype=torch.long))
        self.register_buffer("places", torch.arange(4)[None])
        self.positions = nn.Embedding(4, 4)
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x @ self.table[self.index] + self.positions(self.places)
        x = (x @ self.neighbours.to(x.dtype)) * self.mask
        return torch.where(self.mask.bool(), x, 0.0)


class Convolution(nn.Module):
    """A layer on a graph whose edges are a matrix of bytes."""

    def __init__(self, dtype: torch.dtype, is_normed: bool) -> None:
        super().__init__()
        self.register_buffer("edges", (torch.ones(6, 6) - torch.eye(6)).to(dtype))
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.bias = nn.Parameter(torch.zeros(4))
        self.register_buffer("rest", torch.zeros(0))
        self.is_normed = is_normed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        edges = self.edges.float()
        if self.is_normed:
            edges = edges / edges.sum(1, keepdim=True)
        return edges @ (x @ self.weight) + self.bias + self.rest.sum()


def test_other_buffers_of_whole_numbers_are_not() -> None:
    assert "weights-in-buffers" not in told(Indices(), torch.ones(4, 4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("is_normed", [True, False])
def test_nor_are_the_edges_of_a_graph(dtype: torch.dtype, is_normed: bool) -> None:
    model = nn.Sequential(Convolution(dtype, is_normed), nn.ReLU(), Convolution(dtype, is_normed))
    assert "weights-in-buffers" not in told(model, torch.ones(6, 4))
