"""Real training set-ups: the graph is right, and the training the same to the bit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from modelviz_callbacks import GraphHook, ModelGraph, trace
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.view.text_tree import tree_text
from tests.samples import one_and_the_rest_slow
from tests.zoo.leaves import difference, frozen
from tests.zoo.switches import hooks, switches

# Only what is written at once, so that a test takes milliseconds.
IN_PLACE: dict[str, Any] = {
    "onnx": False,
    "formats": ["text"],
    "tensorboard": False,
    "background": False,
}
Watch = Callable[[nn.Module], GraphHook]
Loop = Callable[[nn.Module, torch.optim.Optimizer], list[Any]]


class Block(nn.Module):
    """Something to checkpoint or to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(torch.relu(self.layer(x)))


class Network(nn.Module):
    """Normalisation, dropout and a block that may be run by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.block = Block()
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(x))
        return self.head(hidden + self.run_block(hidden))

    def run_block(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.block(hidden)


class Checkpointed(Network):
    """Recomputes its block in the backward."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant

    def run_block(self, hidden: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.block, hidden, use_reentrant=self.use_reentrant)


class Lazy(Network):
    """Its first layers learn their sizes from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LazyLinear(8)
        self.norm = nn.LazyBatchNorm1d()


def batches(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 4, generator=generator) for _ in range(count)]


def plain_loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    seen = []
    for batch in batches():
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        seen.append(frozen([loss, [p.grad for p in model.parameters()]]))
    return seen


def autocast_loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    seen = []
    for batch in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch).float().square().mean()
        loss.backward()
        optimizer.step()
        seen.append(frozen([loss, [p.grad for p in model.parameters()]]))
    return seen


def accumulating_loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    seen = []
    for number, batch in enumerate(batches(6)):
        loss = model(batch).square().mean() / 2
        loss.backward()
        seen.append(frozen([loss, [p.grad for p in model.parameters()]]))
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    return seen


def functional_loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """The gradients are made by function transforms around the model's call."""
    seen = []
    buffers = dict(model.named_buffers())
    for batch in batches():

        def loss_of(parameters: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
            result = torch.func.functional_call(model, (parameters, buffers), (rows,))
            return result.square().mean()

        parameters = {name: p.detach() for name, p in model.named_parameters()}
        grads, loss = torch.func.grad_and_value(loss_of)(parameters, batch)
        for name, parameter in model.named_parameters():
            parameter.grad = grads[name]
        optimizer.step()
        seen.append(frozen([loss, grads]))
    return seen


def trained(make: Callable[[], nn.Module], loop: Loop, watch: Watch | None = None) -> Any:
    """Everything that can be seen after a training, frozen."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    hook = watch(model) if watch else None
    seen = loop(model, optimizer)
    if hook is not None:
        hook.close()
    return frozen(
        {
            "seen": seen,
            "state": dict(model.state_dict()),
            "optimizer": optimizer.state_dict(),
            "flags": [module.training for module in model.modules()],
            "hooks": [hooks(vars(module)) for module in model.modules()],
            "attributes": [sorted(vars(module)) for module in model.modules()],
            "torch": torch.get_rng_state(),
            "numpy": numpy.random.get_state()[1],
            "python": list(random.getstate()[1]),
            "switches": switches(),
        }
    )


def watched(
    folder: Path, make: Callable[[], nn.Module], loop: Loop = plain_loop
) -> tuple[ModelGraph, GraphHook]:
    """The graph and hook of a watched training, which is compared with a plain one."""
    made: list[GraphHook] = []

    def watch(model: nn.Module) -> GraphHook:
        made.append(GraphHook(model, dirpath=folder, **IN_PLACE))
        return made[0]

    with_it = trained(make, loop, watch)
    assert difference(trained(make, loop), with_it) == ""
    assert made[0].report.refused == []
    return ModelGraph.load(folder / "graph.json"), made[0]


def alone(folder: Path, make: Callable[[], nn.Module] = Network) -> ModelGraph:
    """The graph of a plain training of a model."""
    return watched(folder / "alone", make)[0]


def calls(graph: ModelGraph) -> list[tuple[str, str]]:
    """What ran, in order, and where."""
    return [(node.op, node.scope) for node in graph.ops]


def parameters(graph: ModelGraph) -> dict[str, tuple[int, ...] | None]:
    """The parameters by their paths, with their shapes."""
    return {node.path: node.outputs[0].shape for node in graph.of_kind("parameter")}


# --- precision, memory, accumulation


def test_autocast_shows_where_the_type_changes(tmp_path: Path) -> None:
    graph, _ = watched(tmp_path, Network, autocast_loop)
    types = {node.name: node.outputs[0].dtype for node in graph.ops}
    assert types["first/linear"] == "bfloat16"
    assert types["norm/batch_norm"] != types["block/layer/linear"] or "bfloat16" in types.values()
    assert graph.of_kind("input")[0].outputs[0].dtype == "float32"
    assert all(node.outputs[0].dtype == "float32" for node in graph.of_kind("parameter"))
    assert calls(graph) == calls(alone(tmp_path))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recomputation_in_the_backward_is_not_recorded_again(
    use_reentrant: bool, tmp_path: Path
) -> None:
    graph, _ = watched(tmp_path, lambda: Checkpointed(use_reentrant))
    assert calls(graph) == calls(alone(tmp_path))
    assert parameters(graph) == parameters(alone(tmp_path))


def test_gradient_accumulation_records_the_first_small_batch(tmp_path: Path) -> None:
    graph, _ = watched(tmp_path, Network, accumulating_loop)
    assert calls(graph) == calls(alone(tmp_path))
    assert graph.of_kind("input")[0].outputs[0].shape == (6, 4)


def test_lazy_layers_come_to_life_in_the_recorded_forward(tmp_path: Path) -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
        model(batches(1)[0])
        late = torch.optim.SGD(model.parameters(), 0.1)
        return plain_loop(model, late)

    def make() -> nn.Module:
        return Lazy()

    graph, _ = watched(tmp_path, make, loop)
    assert parameters(graph) == parameters(alone(tmp_path))
    # What gives the parameters their first values runs in this forward, too.
    wanted = [call for call in calls(alone(tmp_path)) if call[0] != "add_"]
    assert [call for call in calls(graph) if call in wanted] == wanted


def test_a_step_inside_function_transforms_is_recorded(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    graph, _ = watched(tmp_path, make, functional_loop)
    ran = [call for call in calls(graph) if call in calls(alone(tmp_path, make))]
    assert ran == calls(alone(tmp_path, make))


# --- compiled models


class CountingBackend:
    """Compiles to the code itself and counts how often it is asked to."""

    def __init__(self) -> None:
        self.compilations = 0

    def __call__(self, program: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.compilations += 1
        return program.forward


def _compiled_outside(backend: Any) -> nn.Module:
    return torch.compile(Network(), backend=backend)  # type: ignore[return-value]


def _compiled_in_place(backend: Any) -> nn.Module:
    model = Network()
    model.compile(backend=backend)
    return model


def _compiled_part(backend: Any) -> nn.Module:
    model = Network()
    model.block = torch.compile(model.block, backend=backend)  # type: ignore[assignment]
    return model


def _compiled_part_in_place(backend: Any) -> nn.Module:
    model = Network()
    model.block.compile(backend=backend)
    return model


def _compiled_in_data_parallel(backend: Any) -> nn.Module:
    return nn.DataParallel(_compiled_outside(backend))


def _compiled_data_parallel(backend: Any) -> nn.Module:
    model = nn.DataParallel(Network())
    model.compile(backend=backend)
    return model


COMPILED = {
    "outside": (_compiled_outside, "Network"),
    "in place": (_compiled_in_place, "Network"),
    "in data parallel": (_compiled_in_data_parallel, "Network"),
    "data parallel": (_compiled_data_parallel, "Network"),
    "part": (_compiled_part, "block"),
    "part in place": (_compiled_part_in_place, "block"),
}


@pytest.mark.parametrize("how", one_and_the_rest_slow(COMPILED))
def test_a_compiled_model_has_the_graph_of_its_original_code_and_says_so(
    how: str, tmp_path: Path
) -> None:
    make, part = COMPILED[how]
    graph, hook = watched(tmp_path, lambda: make("eager"))
    assert calls(graph) == calls(alone(tmp_path))
    assert parameters(graph) == parameters(alone(tmp_path))
    remarks = [text for text in hook.report.remarks if "compiled" in text]
    assert len(remarks) == 1
    assert remarks[0].startswith(f"{part}: compiled code was left alone; its ops are those")


@pytest.mark.slow
@pytest.mark.parametrize("how", COMPILED)
def test_from_the_first_batch_on_it_is_compiled_as_often_as_without(
    how: str, tmp_path: Path
) -> None:
    make, _ = COMPILED[how]
    without, with_it = CountingBackend(), CountingBackend()
    trained(lambda: make(without), plain_loop)
    seen: list[int] = []

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
        for batch in batches(4):
            model(batch).sum().backward()
            seen.append(with_it.compilations)
        return []

    trained(lambda: make(with_it), loop, lambda m: GraphHook(m, dirpath=tmp_path, **IN_PLACE))
    assert without.compilations > 0
    assert seen == [without.compilations] * 4


@pytest.mark.slow
def test_with_the_autograd_compiler_the_weights_are_the_same_too(tmp_path: Path) -> None:
    watched(tmp_path, lambda: _compiled_outside("aot_eager"))


def test_a_model_inside_a_compiled_function_is_left_to_the_compiler(tmp_path: Path) -> None:
    losses = []
    for watch in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model, backend = Network(), CountingBackend()
        step = torch.compile(lambda x, m=model: m(x).square().mean(), backend=backend)
        hook = GraphHook(model, dirpath=tmp_path, **IN_PLACE) if watch else None
        losses.append([step(batch).item() for batch in batches()] + [backend.compilations])
        if hook is not None:
            with pytest.warns(UserWarning, match="compile the model instead"):
                hook.close()
    assert losses[0] == losses[1]


# --- several models, threads, processes


def _train_in_threads(folder: Path | None, makers: list[Callable[[], nn.Module]]) -> list[Any]:
    """Trains models at the same time, each in its thread with its own hook."""
    gate = threading.Barrier(len(makers))
    results: list[Any] = [None] * len(makers)

    class Meeting(nn.Module):
        """Makes the forwards overlap for certain."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate.wait(60)
            return x

    def run(index: int) -> None:
        torch.manual_seed(index)
        built = makers[index]().train()
        model = nn.Sequential(Meeting(), built, Meeting())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with ExitStack() as stack:
            if folder is not None:
                stack.enter_context(GraphHook(model, dirpath=folder / str(index), **IN_PLACE))
            results[index] = [plain_loop(model, optimizer), frozen(model.state_dict())]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(makers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert None not in results
    return results


def _without_chance() -> nn.Module:
    # Threads share the random state: only what draws nothing can be compared.
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_two_models_trained_at_once_are_recorded_each_as_if_alone(tmp_path: Path) -> None:
    from torch._dynamo import eval_frame
    from torch._higher_order_ops import utils

    def other() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh())

    torch.manual_seed(0)
    first, second = _without_chance().state_dict(), other().state_dict()

    def loaded(make: Callable[[], nn.Module], state: Any) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            model = make()
            model.load_state_dict(state)
            return model

        return build

    before = switches(), str(eval_frame._stance), utils._set_compilation_env
    makers = [loaded(_without_chance, first), loaded(other, second)]
    with_it = _train_in_threads(tmp_path / "together", makers)
    assert difference(frozen(_train_in_threads(None, makers)), frozen(with_it)) == ""
    for index, maker in enumerate(makers):
        _train_in_threads(tmp_path / f"alone{index}", [maker])
        together = (tmp_path / "together" / str(index) / "graph.json").read_bytes()
        assert together == (tmp_path / f"alone{index}" / "0" / "graph.json").read_bytes()
    assert difference(before[0], switches()) == ""
    assert before[1:] == (str(eval_frame._stance), utils._set_compilation_env)


def test_hooks_on_a_model_on_its_part_and_on_another_model_do_not_disturb(tmp_path: Path) -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
        part = model.get_submodule("block")
        other = nn.Linear(2, 2)
        with ExitStack() as stack:
            if watching:
                for name, module in (("part", part), ("other", other)):
                    stack.enter_context(GraphHook(module, dirpath=tmp_path / name, **IN_PLACE))
            seen = plain_loop(model, optimizer)
            return [*seen, frozen(other(torch.ones(1, 2)))]

    watching = False
    plain = trained(Network, loop)
    watching = True
    whole = tmp_path / "whole"
    with_it = trained(Network, loop, lambda m: GraphHook(m, dirpath=whole, **IN_PLACE))
    assert difference(plain, with_it) == ""
    assert calls(ModelGraph.load(whole / "graph.json")) == calls(alone(tmp_path))
    part = ModelGraph.load(tmp_path / "part" / "graph.json")
    assert [op for op, _ in calls(part)] == ["linear", "relu", "dropout"]
    other = ModelGraph.load(tmp_path / "other" / "graph.json")
    assert [op for op, _ in calls(other)] == ["linear"]


def _apply_in_threads(modules: list[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    results: list[Any] = [None] * len(modules)

    def run(index: int) -> None:
        results[index] = modules[index](x)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(modules))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


class Threaded(nn.Module):
    """Runs its parts in threads, as DataParallel does with its replicas."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.parts = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        left, right = _apply_in_threads(list(self.parts), hidden)
        return left + right


def test_what_a_models_own_threads_compute_stays_connected(tmp_path: Path) -> None:
    graph, _ = watched(tmp_path, Threaded)
    (output,) = graph.of_kind("output")
    behind = _behind(graph, output.name)
    assert {node.name for node in graph.of_kind("input")} <= behind
    assert {"first.weight", "parts.0.weight", "parts.1.bias"} <= {
        graph.by_name[name].path for name in behind
    }


def _behind(graph: ModelGraph, name: str) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        for ref in graph.by_name[waiting.pop()].inputs:
            if ref.node not in found:
                found.add(ref.node)
                waiting.append(ref.node)
    return found


def test_data_parallel_on_one_machine_without_devices_is_the_model(tmp_path: Path) -> None:
    graph, _ = watched(tmp_path, lambda: nn.DataParallel(Network()))
    assert calls(graph) == calls(alone(tmp_path))
    assert parameters(graph) == parameters(alone(tmp_path))


@pytest.mark.process
def test_real_processes_train_the_same_and_rank_zero_alone_writes(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent.parent / "distributed_training.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    run = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr[-4000:]
    for kind in ("ddp", "fsdp", "tensor parallel", "lightning"):
        for rank in range(2):
            name = f"rank{rank}.json"
            plain, with_it = (
                json.loads((tmp_path / kind / how / name).read_text())
                for how in ("plain", "watched")
            )
            assert plain["digest"] == with_it["digest"], (kind, rank)
            assert plain["collectives"] == with_it["collectives"], (kind, rank)
            assert with_it["refused"] == [], (kind, rank)
            assert bool(with_it["files"]) == (rank == 0), (kind, rank)
        written = tmp_path / kind / "watched"
        assert not (written / "graph1").exists()
        graph = ModelGraph.load(written / "graph0" / "graph.json")
        _check_whole_parameters(graph, prefix := "network." if kind == "lightning" else "")
        plans = ("colwise on 2 ranks, 8×8 of 16×8 here", "rowwise on 2 ranks, 8×8 of 8×16 here")
        is_told = [plan in " ".join(tree_text(graph).split()) for plan in plans]
        assert is_told == [kind == "tensor parallel"] * 2, kind
        if kind == "tensor parallel":
            _check_parallel_graph(graph)
        else:
            _check_distributed_graph(graph, prefix)


def _check_whole_parameters(graph: ModelGraph, prefix: str) -> None:
    """Every parameter has its own name and its full shape."""
    shapes = {
        "first": (8, 4),
        "blocks.0.up": (16, 8),
        "blocks.0.down": (8, 16),
        "blocks.1.up": (16, 8),
        "blocks.1.down": (8, 16),
        "head": (3, 8),
    }
    wanted = {f"{prefix}{name}.weight": shape for name, shape in shapes.items()}
    wanted |= {f"{prefix}{name}.bias": shape[:1] for name, shape in shapes.items()}
    for number in range(2):
        for name in ("weight", "bias"):
            wanted[f"{prefix}blocks.{number}.norm.{name}"] = (8,)
    assert parameters(graph) == wanted


def _check_parallel_graph(graph: ModelGraph) -> None:
    """What is computed with shards is joined to what they are made from and put together to."""
    (output,) = graph.of_kind("output")
    behind = _behind(graph, output.name)
    assert graph.of_kind("constant") == ()
    assert {node.name for node in graph.of_kind("input", "parameter")} <= behind
    assert sum(node.op == "all_reduce" for node in graph.ops) == 2
    assert not any("nothing that the model returns depends" in note.message for note in graph.notes)


def _check_distributed_graph(graph: ModelGraph, prefix: str) -> None:
    """No wrapper and no communication."""
    block = ["linear", "relu", "linear", "dropout", "add", "layer_norm"]
    loss = ["cross_entropy"] if prefix else []
    ran = [node.op for node in graph.ops if not node.reads_value]
    assert ran == ["linear", *block, *block, "linear", *loss]
    assert all("module" not in call.name.split("/") for call in graph.modules)


class ComparesWithAnArray(nn.Module):
    """Reads numbers that depend on nothing, and then meets an array of before the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.target = (torch.from_numpy(numpy.ones((2, 4), dtype="float32")),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axes = torch.arange(0, 2).tolist()
        return (self.fc(x) * self.target[0]).sum(axes)


def test_an_array_comes_from_no_value_that_depends_on_nothing() -> None:
    graph = trace(ComparesWithAnArray(), torch.randn(2, 4)).graph
    assert "python" not in {node.op for node in graph.nodes}
    (product,) = [node for node in graph.ops if node.op == "mul"]
    assert [graph.by_name[ref.node].kind for ref in product.inputs] == ["op", "constant"]


class Jagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        ragged = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
        return torch.nested.to_padded_tensor(self.fc(ragged), 0.0)


def test_the_first_jagged_tensor_of_a_process_is_recorded_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.nested._internal.nested_tensor._dummy_instance", None)
    model, parts = Jagged(), [torch.randn(3, 4), torch.randn(2, 4)]
    first = trace(model, parts)
    assert torch.equal(first.replay(parts), model(parts))
    assert dumps(first.graph) == dumps(trace(model, parts).graph)


class Converts(nn.Module):
    """Converts its parameters in its first forward, or leaves that to others."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.fc = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.inside:
            self.inside = False
            self.to(torch.float64)
        return self.norm(self.fc(x.to(self.fc.weight.dtype))).sum()


@pytest.mark.parametrize("inside", [False, True])
def test_parameters_can_be_swapped_at_any_time(inside: bool, tmp_path: Path) -> None:
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model = Converts(inside)
        with GraphHook(model, dirpath=tmp_path, **IN_PLACE) as hook:
            model(torch.ones(2, 2)).backward()
            model.to(torch.float32)
            model(torch.ones(2, 2)).backward()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    assert hook.report.refused == []
    assert {"fc.weight", "norm.running_mean"} <= {
        node.path for node in ModelGraph.load(tmp_path / "graph.json").nodes
    }
