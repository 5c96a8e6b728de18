"""The memory told of a forward is what torch saves and what the allocator counts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from benchmarks.memory_accuracy import measure, told
from benchmarks.memory_models import models
from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.products import graph_of
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import record_backward
from modelviz_callbacks.tracing.capture.tape import OpEntry, flat_records
from modelviz_callbacks.tracing.lowering import kernel_buffers, memory
from modelviz_callbacks.tracing.transport.pack import pack
from modelviz_callbacks.tracing.transport.unpack import unpack
from modelviz_callbacks.writers import markdown, table
from modelviz_callbacks.writers.graphdef import RunMetadata, named_graphs

FLOAT = 4


def _kept(graph: ModelGraph) -> list[int | None]:
    return [node.kept_bytes for node in graph.ops]


def _saved_bytes(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """What torch saves in a real forward, each storage once, without the model's state."""
    state = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    found: dict[int, torch.UntypedStorage] = {}

    def pack_tensor(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in state:
            found[storage.data_ptr()] = storage  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_tensor, lambda tensor: tensor):
        model(*inputs)
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("name", ["convolutions, in place", "encoder", "gated, with views"])
def test_what_is_kept_is_what_torch_saves_in_the_real_forward(name: str) -> None:
    _, make, make_inputs = next(model for model in models() if model.name == name)
    model, inputs = make().train(), make_inputs()
    total = Analysis(trace(model, *inputs).graph).costs.total
    assert total.kept_bytes == _saved_bytes(model, inputs)
    assert not total.unmeasured


def test_memory_that_several_ops_keep_counts_once_and_parameters_not_at_all() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = (x * self.weight).exp()
            return made.sin() + made.t().cos().t()

    size = 15 * FLOAT
    kept = [(node.op, node.kept_bytes) for node in trace(Twice(), torch.ones(3, 5)).graph.ops]
    assert kept[:3] == [("mul", size), ("exp", size), ("sin", 0)]
    assert sum(kept_bytes or 0 for _, kept_bytes in kept) == 2 * size


def test_nothing_is_kept_without_gradients_and_tensors_die_with_their_last_reader() -> None:
    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(4):
                x = x + 1
            return x

    graph = trace(Chain(), torch.ones(10)).graph
    assert _kept(graph) == [0] * 4
    assert [node.live_bytes for node in graph.ops] == [40, 80, 80, 80]


class _Held(nn.Module):
    """A view of one tensor, and another tensor, that variables hold until it returns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row = (x + 1)[0]
        held = row * 2
        return ((held + 1) + 1) + 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_memory_lives_as_long_as_a_variable_holds_a_tensor_on_it(elsewhere: bool) -> None:
    recording = trace(_Held(), torch.ones(4, 10))._recording
    if elsewhere:
        recording = unpack(pack(recording))
    assert [node.live_bytes for node in graph_of(recording).ops] == [160, 160, 200, 240, 280, 280]


def test_what_dies_after_the_recording_is_told_as_what_outlived_it() -> None:
    recorded = trace(_Held(), torch.ones(4, 10))
    recording = recorded._recording
    ((_, output),) = recording.output_records()
    assert recording.died is not None
    deaths = [recording.died(record) for entry in recording.tape if isinstance(entry, OpEntry)
              for record in flat_records(entry.result)]  # fmt: skip
    ends = [place for place, entry in enumerate(recording.tape) if isinstance(entry, OpEntry)]
    # The first sum goes with the view of it; what variables held when all is done.
    assert deaths == [ends[-1], ends[-1], ends[-1], ends[4], ends[5], None]
    assert output.ref() is not None
    del recorded
    assert output.ref() is None
    assert recording.died(output) is None


@pytest.mark.parametrize("name", ["attention by hand", "skip connections", "decoder with loss"])
def test_the_peak_is_what_the_allocator_counts_without_what_kernels_work_in(name: str) -> None:
    _, make, make_inputs = next(model for model in models() if model.name == name)
    model = make().train()
    kept, peak = told(trace(model, *make_inputs()).graph)
    real = measure(model, make_inputs)
    assert real.made * 0.99 < peak < real.peak * 1.01
    assert kept == pytest.approx(real.kept, rel=0.001)


def test_a_loss_is_made_of_all_elements_before_it_is_reduced() -> None:
    _, make, make_inputs = next(one for one in models() if one.name == "autoencoder with loss")
    model = make().train()
    _, peak = told(trace(model, *make_inputs()).graph)
    assert peak == pytest.approx(measure(model, make_inputs).peak, rel=0.01)


def test_what_leads_to_nothing_that_lives_keeps_nothing() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.layer(x)
            made.exp().sin()
            return made.tanh()

    kept = {node.op: node.kept_bytes for node in trace(Ends(), torch.ones(2, 4)).graph.ops}
    assert kept == {"linear": 8 * FLOAT, "exp": 0, "sin": 0, "tanh": 8 * FLOAT}


def test_what_torch_does_not_tell_makes_the_sum_a_lower_bound() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return y[y > 0].sum()

    analysis = Analysis(trace(Masked(), torch.ones(2, 4)).graph)
    assert analysis.costs.total.unmeasured == 1
    assert "kept for the backward: at least 32 B\n" in markdown.render(analysis).decode()
    rows = list(csv.DictReader(io.StringIO(table.render(analysis).decode())))
    assert (rows[0]["kept_bytes"], rows[0]["kept_at_least"]) == ("32", "")
    assert "" in {row["kept_bytes"] for row in rows}


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x.exp())
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


class _Part(nn.Module):
    def __init__(self, through: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.through = nn.Linear(4, 4), through

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.through(self.layer, x).tanh().sum()


def _custom(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return cast("torch.Tensor", _Doubled.apply(layer(x)))


def _checkpointed(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return cast("torch.Tensor", checkpoint(layer, x, use_reentrant=False))


def test_what_an_autograd_function_keeps_makes_the_sum_a_lower_bound() -> None:
    total = Analysis(trace(_Part(_custom), torch.ones(2, 4)).graph).costs.total
    assert (total.kept_bytes, total.unmeasured) == (32, 1)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_nothing_is_told_where_a_checkpoint_replaces_what_is_saved(elsewhere: bool) -> None:
    made = trace(_Part(_checkpointed), torch.ones(2, 4))  # keeps the outputs alive
    recording = made._recording
    if elsewhere:
        recording.backward = record_backward(recording)
        recording = unpack(pack(recording))
    assert set(_kept(graph_of(recording))) == {None}


def test_another_process_tells_the_same_and_draws_no_random_number(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    made = trace(model, torch.ones(3, 4))
    before = torch.get_rng_state()
    graph = graph_of(unpack(pack(made._recording)))
    assert torch.equal(before, torch.get_rng_state())
    assert graph == made.graph
    graph.save(tmp_path / "graph.json")
    assert _kept(ModelGraph.load(tmp_path / "graph.json")) == _kept(graph)


def test_tables_and_tensorboard_tell_what_each_layer_keeps() -> None:
    analysis = Analysis(trace(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), torch.ones(3, 4)).graph)
    rows = list(csv.DictReader(io.StringIO(table.render(analysis).decode())))
    told = [(row["gradient_bytes"], row["kept_bytes"], row["peak_bytes"]) for row in rows]
    assert told == [("160", "48", "96"), ("0", "96", "192")]
    named = next(one for one in named_graphs(analysis) if one.tag.startswith("kept"))
    stats = RunMetadata.FromString(named.metadata).step_stats.dev_stats[0].node_stats
    assert sorted(row.memory[0].total_bytes for row in stats)[-2:] == [48, 96]
    assert not named.has_graph


def test_no_code_of_the_users_runs_again_to_find_out() -> None:
    calls = []

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return (a - b).square().sum(-1)

    class Metric(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = [self.layer(part) for part in x]
            loss = torch.nn.functional.triplet_margin_with_distance_loss
            return loss(*made, distance_function=distance)

    recorded = trace(Metric(), torch.randn(3, 2, 4))
    before = len(calls)
    (op,) = [node for node in recorded.graph.ops if node.op.startswith("triplet")]
    assert op.kept_bytes is None
    assert len(calls) == before


def test_what_an_op_needs_only_while_it_runs_counts_at_its_peak() -> None:
    torch.manual_seed(0)
    gru = nn.GRU(4, 8, batch_first=True)
    graph = trace(gru, torch.ones(2, 3, 4)).graph
    (node,) = (node for node in graph.ops if node.op == "gru")

    made = sum(spec.size_bytes for spec in node.outputs)
    assert node.kept_bytes is not None
    assert node.live_bytes is not None
    # The gates of a step, three times the state, are gone when it is over.
    assert node.live_bytes > made + node.kept_bytes
    (relu,) = trace(nn.ReLU(), torch.ones(2, 3)).graph.ops
    assert relu.live_bytes == 24


def test_what_autocast_makes_of_a_parameter_is_kept_until_it_ends_and_made_once() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Linear(64, 32), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                x = self.shared(self.shared(self.first(x)))
            return x.float() * 2

    ops = trace(Half(), torch.ones(1, 64)).graph.ops
    kept = [op.kept_bytes for op in ops]
    live = [op.live_bytes or 0 for op in ops]
    # The input is cast and kept; the shared weight is, once, with each input of its.
    weights, biases, row = 2 * 32 * 64, 2 * (32 + 32), 2 * 32
    assert kept == [2 * 64, 2 * 32 * 32 + row, row, 0, 0]
    assert live[0] == 2 * 64 + weights + biases // 2 + row
    assert live[2] == 2 * 64 + weights + biases + 2 * 32 * 32 + 3 * row
    assert live[3] == 2 * 64 + 2 * 32 * 32 + 3 * row + 4 * 32


def made_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of calls that are made again from now on, as in a new process."""
    looked: list[str] = []
    original = memory._Replay._made_again

    def counted(self: Any, entry: Any, is_watched: bool) -> Any:
        looked.append(entry.func.__name__)
        return original(self, entry, is_watched)

    monkeypatch.setattr(memory._Replay, "_made_again", counted)
    monkeypatch.setattr(memory, "_MADE", {})
    return looked


def test_what_one_graph_has_tried_another_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = made_again(monkeypatch)
    first = trace(nn.Linear(4, 2), torch.randn(3, 4)).graph
    assert looked == ["linear"]
    assert _kept(trace(nn.Linear(4, 2), torch.randn(3, 4)).graph) == _kept(first)
    assert looked == ["linear"]
    trace(nn.Linear(4, 2), torch.randn(5, 4)).graph  # noqa: B018
    assert looked == ["linear"] * 2


def test_what_was_tried_under_other_settings_or_with_an_object_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Draws(nn.Module):
        def forward(self, mean: torch.Tensor) -> torch.Tensor:
            return torch.normal(mean, 1.0, generator=torch.Generator())

    looked = made_again(monkeypatch)
    x = torch.randn(3, 4, requires_grad=True)
    for _ in range(2):
        str(trace(nn.ReLU(), x).graph)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            str(trace(nn.ReLU(), x).graph)
    assert looked == ["relu"] * 2
    looked.clear()
    for _ in range(2):
        str(trace(Draws(), x).graph)
    assert set(looked) == {"normal"}
    assert len(looked) >= 2
    assert not any("normal" in str(key) for key in memory._MADE)


def test_a_loop_that_grows_is_told_from_its_first_steps_as_if_each_were_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.norm, self.drop = nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps = [x]
            for _ in range(16):
                seen = torch.stack(steps, 1)
                weights = torch.softmax(self.query(seen) @ seen.transpose(1, 2), -1)
                mixed = self.norm(self.drop(weights) @ seen)
                steps.append(torch.cdist(mixed, seen)[:, -1, :1] + mixed.logsumexp(1))
            return torch.stack(steps, 1)

    looked = made_again(monkeypatch)
    model, x = Grows(), torch.randn(2, 4)
    told = trace(model, x).graph
    assert max(map(looked.count, ("linear", "softmax", "layer_norm", "cdist"))) <= 8
    assert any(node.kept_bytes for node in told.of_kind("op"))
    monkeypatch.setattr(memory.CallPatterns, "find", lambda *_: None)
    monkeypatch.setattr(memory, "_MADE", {})
    each = trace(model, x).graph
    assert looked.count("softmax") >= 16
    assert [(node.kept_bytes, node.live_bytes) for node in told.nodes] == [
        (node.kept_bytes, node.live_bytes) for node in each.nodes
    ]


@pytest.mark.parametrize(
    ("layer", "shape", "measured"),
    [
        (nn.Conv2d(64, 64, 3, padding=1), (2, 64, 56, 56), 3_358_720),
        (nn.Conv2d(64, 256, 1), (2, 64, 56, 56), 12_845_056),  # its result twice at the end
        (nn.Conv2d(3, 192, 16, 16), (2, 3, 224, 224), 890_880),  # reads the image as it is
        (nn.Conv2d(64, 64, 3, padding=1, groups=64), (2, 64, 56, 56), 3_213_568),
        (nn.Conv2d(20, 50, 5), (8, 20, 12, 12), 483_712),  # blocks of 16 that are not full
        (nn.Conv1d(64, 128, 3, padding=1), (4, 64, 100), 409_600),
        (nn.Conv3d(16, 32, 3, padding=1), (2, 16, 8, 16, 16), 1_048_576),
        (nn.ConvTranspose2d(64, 32, 4, 2, 1), (2, 64, 16, 16), 786_432),
    ],
)
def test_a_convolution_copies_into_blocks_of_channels(
    layer: nn.Module, shape: tuple[int, ...], measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MADE", {})
    monkeypatch.setattr(kernel_buffers, "_block", lambda: 16)  # as where it was measured
    (op,) = trace(layer, torch.empty(shape)).graph.ops
    assert op.live_bytes == pytest.approx(measured, rel=0.002)
    monkeypatch.setattr(memory, "_MADE", {})
    monkeypatch.setattr(kernel_buffers, "_block", lambda: 0)
    (op,) = trace(layer, torch.empty(shape)).graph.ops
    assert op.live_bytes == sum(spec.size_bytes for spec in op.outputs)
