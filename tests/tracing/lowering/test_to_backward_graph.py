"""The graph of the backward pass, held against what autograd really does."""

from __future__ import annotations

import gc
import inspect
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph, Ref, problems
from modelviz_callbacks.tracing import Capture, Recording, to_graph
from modelviz_callbacks.tracing.capture.autograd_record import MOST_NODES, record_backward
from modelviz_callbacks.tracing.capture.backward_record import BackwardRecord
from modelviz_callbacks.tracing.lowering.to_backward_graph import ADD, to_backward_graph
from modelviz_callbacks.writers.graphdef import graph_def
from tests.models import BUILDERS, build
from tests.networks import NETWORKS
from tests.writers.graphdef_rules import violations

Recorded = tuple[Recording, ModelGraph, ModelGraph, Any]


def captured(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Recording, Any]:
    capture = Capture(model)
    capture.start(args, kwargs)
    try:
        result = model(*args, **kwargs)
    finally:
        capture.stop()
    return capture.finish(result), result


def backward_of(model: nn.Module, *args: Any, saved: bool = False, **kwargs: Any) -> Recorded:
    """The recording, the forward's graph, the backward's, and what the model returned."""
    recording, result = captured(model, *args, **kwargs)
    record = record_backward(recording, saved=saved)
    assert record is not None
    forward = to_graph(recording)
    return recording, forward, to_backward_graph(record, recording, forward), result


def roots_of(recording: Recording) -> list[torch.Tensor]:
    """The outputs that gradients flow to; where one is called the loss, that one."""
    found = {path: record.ref() for path, record in recording.output_records()}
    tensors = {path: t for path, t in found.items() if t is not None and t.grad_fn is not None}
    return [t for path, t in tensors.items() if "loss" in path] or list(tensors.values())


def really_run(roots: list[torch.Tensor]) -> list[tuple[str, list[Any], list[Any]]]:
    """Runs the backward: its nodes in order, with the shapes of what they take and give."""
    nodes = list(dict.fromkeys(root.grad_fn for root in roots))
    for node in nodes:
        nodes += [n for n, _ in node.next_functions if n is not None and n not in set(nodes)]
    taken: dict[str, list[Any]] = {}
    order: list[tuple[str, list[Any], list[Any]]] = []

    def shapes(gradients: Any) -> list[Any]:
        return [None if gradient is None else tuple(gradient.shape) for gradient in gradients]

    def watch(node: Any, key: str) -> None:
        def before(gradients: Any) -> None:
            taken[key] = shapes(gradients)

        def after(given: Any, _: Any) -> None:
            order.append((node.name().rpartition("::")[2], taken[key], shapes(given)))

        node.register_prehook(before)
        node.register_hook(after)

    for number, node in enumerate(nodes):
        watch(node, str(number))
    torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
    return order


def without_number(name: str) -> str:
    return name.rstrip("0123456789")


def has_grad(name: str) -> bool:
    recording, _ = captured(*_flat(build(name)))
    return bool(roots_of(recording))


def _flat(built: tuple[nn.Module, tuple[Any, ...], dict[str, Any]]) -> Any:
    model, args, kwargs = built
    return (_Bound(model, kwargs), *args) if kwargs else (model, *args)


class _Bound(nn.Module):
    def __init__(self, model: nn.Module, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.kwargs = kwargs

    def forward(self, *args: Any) -> Any:
        return self.model(*args, **self.kwargs)


TRAINED = [name for name in BUILDERS if has_grad(name)]


def is_part_in_order(part: list[Any], whole: list[Any]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


@pytest.mark.parametrize("name", TRAINED)
def test_the_nodes_are_those_that_autograd_runs_in_its_order(name: str) -> None:
    recording, _, backward, _ = backward_of(*_flat(build(name)))
    order = really_run(roots_of(recording))
    shown = [node for node in backward.ops if node.op != ADD]
    assert len(shown) == len(order)
    # Which of several parameters comes first that are all ready is left to chance.
    inner = [node for node in shown if node.op != "AccumulateGrad"]
    ran = [entry for entry in order if entry[0] != "AccumulateGrad"]
    assert [node.op for node in inner] == [without_number(name) for name, _, _ in ran]
    for node, (_, takes, gives) in zip(inner, ran, strict=True):
        assert is_part_in_order([backward.spec(ref).shape for ref in node.inputs], takes)
        made = [spec.shape for spec in node.outputs]
        assert is_part_in_order([shape for shape in gives if shape is not None], made)


@pytest.mark.parametrize("name", TRAINED)
def test_it_ends_at_every_leaf_that_gets_a_gradient(name: str) -> None:
    model, *args = _flat(build(name))
    recording, _, backward, _ = backward_of(model, *args)
    really_run(roots_of(recording))
    ends = [node for node in backward.ops if node.op == "AccumulateGrad" and node.path]
    expected = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {node.path for node in ends} >= expected
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for node in ends:
        if node.path in shapes:
            assert node.outputs[0].shape == shapes[node.path]


@pytest.mark.parametrize("name", TRAINED)
def test_a_node_of_the_same_name_is_the_backward_of_that_forward_node(name: str) -> None:
    _, forward, backward, _ = backward_of(*_flat(build(name)))
    calls = {call.name: call for call in forward.modules}
    for call in backward.modules:
        assert (call.path, call.class_name) == (calls[call.name].path, calls[call.name].class_name)
    for node in backward.ops:
        other = forward.by_name.get(node.name)
        if other is None:
            continue
        assert node.scope == other.scope
        if node.op == "AccumulateGrad":
            assert (other.kind in ("parameter", "input"), other.path) == (True, node.path)
        else:
            assert other.is_call
            assert node.source == other.source
    for node in forward.of_kind("parameter"):
        if node.name in backward.by_name:
            assert backward.by_name[node.name].path == node.path


def test_the_backward_of_an_op_has_its_name_and_its_inputs_lead_to_the_parameters() -> None:
    _, _, backward, _ = backward_of(*_flat(build("TwoBranches")))
    convolution = backward.by_name["cnn/4_Conv2d/conv2d"]
    assert convolution.op == "ConvolutionBackward"
    readers = {node.name for i in range(3) for node in backward.consumers[Ref(convolution.name, i)]}
    assert readers == {"cnn/3_MaxPool2d/max_pool2d", "cnn/4_Conv2d/weight", "cnn/4_Conv2d/bias"}
    assert backward.by_name["cnn/4_Conv2d/weight"].path == "cnn.4.weight"
    (begin,) = backward.of_kind("input")
    assert (begin.name, begin.path) == ("output", "gradient of output")
    (branches,) = [node for node in backward.ops if node.op == ADD]
    assert {ref.node for ref in branches.inputs} == {"mlp1/linear", "mlp2/linear"}


def test_a_loss_among_the_outputs_is_where_it_begins() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.head(x)
            return {"logits": logits * 1, "loss": F.cross_entropy(logits, labels)}

    _, _, backward, _ = backward_of(WithLoss(), torch.ones(2, 4), torch.tensor([0, 1]))
    assert [node.path for node in backward.of_kind("input")] == ["gradient of out['loss']"]
    assert not any(node.op == "MulBackward" for node in backward.ops)


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return grad * weight, (grad * x).sum(0)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Scale.apply(x, self.weight)  # type: ignore[no-any-return]


def test_a_custom_function_is_in_the_module_that_applies_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Custom(), nn.Sequential(Custom(), nn.ReLU()))
    _, _, backward, _ = backward_of(model, torch.ones(2, 4))
    found = [node for node in backward.ops if node.op == "ScaleBackward"]
    assert [node.scope for node in found] == ["2_Sequential/0_Custom", "1_Custom"]
    assert [node.outputs[1].shape for node in found] == [(4,), (4,)]
    assert "2_Sequential/0_Custom/weight" in backward.by_name


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("saved", [False, True])
def test_a_checkpoint_that_recomputes_is_one_node_in_the_block_it_wraps(saved: bool) -> None:
    x = torch.ones(2, 4, requires_grad=True)
    _, _, backward, _ = backward_of(Checkpointed(True), x, saved=saved)
    found = [node.scope for node in backward.ops if node.op == "CheckpointFunctionBackward"]
    assert found == [f"blocks/{number}_Sequential" for number in (2, 1, 0)]


def test_reading_saved_tensors_recomputes_no_checkpoint() -> None:
    model = Checkpointed(False)
    calls: list[int] = []
    model.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    recording, result = captured(model, torch.ones(2, 4))
    record = record_backward(recording, saved=True)
    assert record is not None
    assert calls == [1]
    assert record.repacked > 0
    backward = to_backward_graph(record, recording, to_graph(recording))
    assert any(note.kind == "repacked-tensors" for note in backward.notes)
    result.sum().backward()
    assert len(calls) == 2


def test_saved_tensors_are_shown_once_each_with_their_bytes() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    _, _, backward, _ = backward_of(model, torch.ones(3, 4), saved=True)
    kept = {node.name: node.outputs[0] for node in backward.of_kind("constant")}
    # The ReLU's result is what the second layer multiplies: one tensor, kept by both.
    by_shape = sorted((spec.shape, spec.size_bytes) for spec in kept.values())
    assert by_shape == [((3, 4), 48), ((3, 6), 72), ((6, 2), 48)]
    (shared,) = [name for name, spec in kept.items() if spec.shape == (3, 6)]
    readers = {node.name for node in backward.consumers[Ref(shared)]}
    assert readers == {"1_ReLU/relu", "2_Linear/linear"}
    (note,) = backward.notes
    assert (note.kind, "3 tensors of 168 bytes" in note.message) == ("saved-tensors", True)


def test_a_saved_parameter_is_told_by_its_name() -> None:
    _, _, backward, _ = backward_of(nn.LayerNorm(4), torch.ones(2, 4), saved=True)
    assert {node.path for node in backward.of_kind("parameter")} == {"weight", "bias"}


def test_saved_tensors_are_left_out_unless_asked_for() -> None:
    _, _, backward, _ = backward_of(*_flat(build("TwoBranches")))
    assert {node.kind for node in backward.nodes} == {"input", "op"}


def test_after_the_backward_the_graph_is_still_told() -> None:
    recording, result = captured(nn.Linear(4, 2), torch.ones(3, 4))
    result.sum().backward()
    record = record_backward(recording, saved=True)
    assert record is not None
    assert record.nodes[0].name == "AddmmBackward0"
    assert not any(node.saved for node in record.nodes)


class ByHand(nn.Module):
    """Two networks that a step trains one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 2), nn.Linear(2, 1)

    def step(self, batch: torch.Tensor) -> None:
        made = self.first(batch)
        self.second(made).sum().backward(inputs=list(self.first.parameters()))
        torch.autograd.backward([self.second(made.detach()).mean()])


def recorded_step(model: ByHand, batch: torch.Tensor) -> Recording:
    capture = Capture(model)
    capture.start((batch,), {}, inspect.signature(model.step))
    try:
        model.step(batch)
    finally:
        capture.stop()
    return capture.finish(None)


def test_a_step_that_calls_backward_itself_has_the_backward_of_each_loss() -> None:
    model, batch = ByHand(), torch.ones(3, 4, requires_grad=True)
    recording = recorded_step(model, batch)
    record = record_backward(recording)
    assert record is not None
    backward = to_backward_graph(record, recording, to_graph(recording))
    begins = [node.path for node in backward.of_kind("input")]
    assert sorted(begins) == ["gradient of loss", "gradient of loss_1"]
    ends = [node.path for node in backward.ops if node.op == "AccumulateGrad"]
    of_second = ["second.bias", "second.weight"]
    assert sorted(ends) == sorted(["batch", "first.bias", "first.weight", *of_second, *of_second])
    assert list(problems(backward)) == []
    assert [node.op for node in backward.ops].count("MeanBackward") == 1


def test_a_backward_in_a_step_that_cannot_be_read_costs_that_picture_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such node")

    monkeypatch.setattr("modelviz_callbacks.tracing.capture.session.read_backward", fails)
    model = ByHand()
    recording = recorded_step(model, torch.ones(3, 4))
    assert recording.backward is None
    assert any("no such node" in remark for remark in recording.remarks)
    assert len(to_graph(recording).of_kind("output")) == 2
    assert model.first.weight.grad is not None


@pytest.mark.parametrize(
    "run",
    [
        lambda: captured(nn.Linear(2, 2).requires_grad_(False), torch.ones(1, 2)),
        lambda: captured(_Returns(lambda _: "text"), torch.ones(1, 2)),
        lambda: captured(_Returns(lambda _: None), torch.ones(1, 2)),
        lambda: captured(_Returns(lambda y: y.detach()), torch.ones(1, 2)),
        lambda: captured(_Returns(lambda y: y.argmax()), torch.ones(1, 2)),
    ],
)
def test_outputs_without_gradients_have_no_backward(
    run: Callable[[], tuple[Recording, Any]],
) -> None:
    recording, _ = run()
    assert record_backward(recording) is None


class _Returns(nn.Module):
    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.change = change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.layer(x))


class Deep(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(2))
        self.steps = steps

    def forward(self) -> torch.Tensor:
        x = self.start * 1
        for _ in range(self.steps):
            x = x + 1
        return x


@pytest.mark.slow
def test_a_deep_graph_is_read_whole() -> None:
    _, _, backward, _ = backward_of(Deep(15_000))
    assert len(backward.ops) == 15_002
    assert backward.nodes[-1].path == "start"


@pytest.mark.slow
@pytest.mark.process
def test_of_a_graph_too_deep_for_torch_to_free_the_end_is_read_and_the_step_survives() -> None:
    # In a process of its own: torch ends it where the whole chain has been looked at.
    program = (
        "from tests.tracing.lowering.test_to_backward_graph import Deep, backward_of\n"
        "backward = backward_of(Deep(100_000))[2]\n"
        "print(len(backward.ops), [note.kind for note in backward.notes])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{MOST_NODES} ['cut-short']\n"), done.stderr


def test_the_record_keeps_no_tensor_alive_and_can_be_sent_away() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    kept: list[weakref.ref[torch.Tensor]] = []
    model[1].register_forward_hook(lambda _m, _a, out: kept.append(weakref.ref(out)))
    recording, result = captured(model, torch.ones(2, 4))
    record = record_backward(recording, saved=True)
    del result
    gc.collect()
    assert kept[0]() is None
    assert pickle.loads(pickle.dumps(record)) == record


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(item) for item in value)
    return value is None or type(value) in (str, int)


def test_a_record_is_text_and_numbers() -> None:
    recording, _result = captured(*_flat(build("TwoBranches")))
    record = record_backward(recording, saved=True)
    assert isinstance(record, BackwardRecord)
    assert _plain(record.roots)
    assert _plain(record.nodes)


def test_reading_changes_no_gradient_and_no_state_of_autograd() -> None:
    def gradients(reads: bool) -> list[torch.Tensor]:
        model, *args = _flat(build("TwoBranches"))
        recording, result = captured(model, *args)
        before = torch._C._autograd._get_sequence_nr()
        if reads:
            record_backward(recording, saved=True)
        assert torch._C._autograd._get_sequence_nr() == before
        result.sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(one, other)


def test_a_tied_weight_is_one_end_that_takes_all_its_gradients() -> None:
    _, _, backward, _ = backward_of(*_flat(build("TiedWeights")))
    (end,) = [node for node in backward.ops if node.path]
    assert end.path == "embedding.weight"
    givers = {backward.by_name[ref.node].scope for ref in end.inputs}
    assert givers == {"embedding", "head"}


def test_an_input_that_requires_gradients_is_an_end() -> None:
    _, _, backward, _ = backward_of(nn.Linear(4, 2), torch.ones(3, 4, requires_grad=True))
    assert backward.by_name["input"].path == "input"
    assert backward.by_name["input"].op == "AccumulateGrad"


@pytest.mark.parametrize("name", [*NETWORKS, "TwoBranches", "ManyOutputs"])
def test_tensorboard_takes_it(name: str) -> None:
    torch.manual_seed(0)
    built = NETWORKS[name]() if name in NETWORKS else build(name)
    _, _, backward, _ = backward_of(built[0], *built[1])
    assert list(problems(backward)) == []
    assert violations(graph_def(Analysis(backward)), backward) == []


@pytest.mark.slow
@pytest.mark.process
def test_backwards_and_graphs_under_rules_are_the_same_in_any_process() -> None:
    program = (
        "import hashlib, torch\n"
        "from modelviz_callbacks.analysis import Analysis\n"
        "from modelviz_callbacks.graph.json_format import dumps\n"
        "from modelviz_callbacks.view.display_rules import Rules, apply\n"
        "from tests.networks import NETWORKS, backward_graph, graph_of\n"
        "torch.manual_seed(0)\n"
        "model, inputs = NETWORKS['gan']()\n"
        "rules = Rules.of(['Linear'], ['ReLU', 'LeakyReLU'], {'Tanh': 'Squash'})\n"
        "shown = apply(Analysis(graph_of('gan')), rules)\n"
        "found = dumps(backward_graph(model, *inputs)) + dumps(shown.graph)\n"
        "print(hashlib.sha256(found.encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
