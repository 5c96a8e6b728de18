"""Repeats fold where they are proven to be repeats, and nothing is lost by it."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.fingerprint import Fingerprinter, Subgraph
from modelviz_callbacks.analysis.outline import Item
from modelviz_callbacks.analysis.repeats.search import _Finder, find_folds
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.view.box import parameters_text
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.writers import text
from tests.folded import fold, unfold
from tests.networks import NETWORKS, Dilated, Stack, graph_of, mlp, recorded
from tests.zoo.hard_modules import CASES

widths = st.lists(st.sampled_from([4, 5, 6]), min_size=1, max_size=9)


def folded_blocks(graph: ModelGraph) -> list[list[str]]:
    """The paths of the modules that fold, of folds of one module each."""
    return [
        [str(graph.module_by_name[items[0]].path) for items in found.copies]
        for found in Analysis(graph).folds()
        if len(found.copies[0]) == 1
    ]


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(mlp() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class Dense(nn.Module):
    """Every block's output is also read at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = []
        for block in self.blocks:
            x = block(x)
            made.append(x)
        return torch.cat(made, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_unfolding_gives_the_graph_back(name: str) -> None:
    graph = graph_of(name)
    assert unfold(fold(graph)) == graph


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_unfolding_gives_the_graph_of_a_hard_module_back(case: object) -> None:
    model, args, kwargs = case.make()  # type: ignore[attr-defined]
    from modelviz_callbacks import trace

    graph = trace(model, *args, **kwargs).graph
    assert unfold(fold(graph)) == graph


@pytest.mark.slow
@given(widths, st.lists(st.integers(0, 8), max_size=3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_unfolding_gives_any_stack_of_blocks_back(
    sizes: list[int], frozen: list[int], shared: bool
) -> None:
    blocks = [mlp(size) for size in sizes]
    for number in frozen:
        blocks[number % len(blocks)].requires_grad_(False)
    if shared:
        blocks += blocks
    graph = recorded(Stack(*blocks), torch.zeros(2, 8))
    back = unfold(fold(graph))
    assert back == graph
    assert dumps(back) == dumps(graph)


@pytest.mark.slow
@given(widths)
@settings(max_examples=40, deadline=None)
def test_blocks_that_fold_are_the_same_and_follow_each_other(sizes: list[int]) -> None:
    graph = recorded(Stack(*(mlp(size) for size in sizes)), torch.zeros(2, 8))
    for found in Analysis(graph).folds():
        period = len(found.copies[0])
        first = int(str(graph.module_by_name[found.copies[0][0]].path).split(".")[1])
        pattern = sizes[first : first + period]
        assert sizes[first : first + period * found.times] == pattern * found.times


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_runs_of_equal_blocks_fold_whole(runs: list[int]) -> None:
    sizes = [4 + number for number, run in enumerate(runs) for _ in range(run)]
    graph = recorded(Stack(*(mlp(size) for size in sizes)), torch.zeros(2, 8))
    counts = [len(list(same)) for _, same in groupby(sizes)]
    assert [len(paths) for paths in folded_blocks(graph)] == [n for n in counts if n > 1]


def test_a_fold_keeps_one_copy_only() -> None:
    graph = graph_of("bert")
    folded = fold(graph)
    assert sum("/layer/" in call.name for call in graph.modules) == 12 * sum(
        "/layer/" in call.name for call in folded.rest.modules
    )


@pytest.mark.parametrize("name", ["bert", "gpt"])
def test_twelve_layers_of_a_transformer_are_one(name: str) -> None:
    assert [found.times for found in Analysis(graph_of(name)).folds()] == [12]


@pytest.mark.slow
def test_126_layers_of_a_llama_are_one() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8,
        num_hidden_layers=126,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=8,
        vocab_size=16,
    )
    graph = recorded(LlamaForCausalLM(config), torch.ones(1, 4, dtype=torch.long))
    assert [found.times for found in Analysis(graph).folds()] == [126]
    assert unfold(fold(graph)) == graph


@pytest.mark.parametrize("odd", [0, 3, 6, 11])
def test_nothing_folds_across_the_one_of_twelve_that_differs(odd: int) -> None:
    blocks = [mlp(5 if number == odd else 4) for number in range(12)]
    graph = recorded(Stack(*blocks), torch.zeros(2, 8))
    expected = [[f"blocks.{n}" for n in range(odd)], [f"blocks.{n}" for n in range(odd + 1, 12)]]
    assert folded_blocks(graph) == [paths for paths in expected if len(paths) > 1]


def test_blocks_that_are_read_from_elsewhere_do_not_fold() -> None:
    assert Analysis(recorded(Dense(), torch.zeros(2, 8))).folds() == ()


def test_frozen_blocks_do_not_fold_with_trained_ones() -> None:
    model = Stack(*(mlp() for _ in range(6)))
    for block in model.blocks[:2]:
        block.requires_grad_(False)
    counts = [len(paths) for paths in folded_blocks(recorded(model, torch.zeros(2, 8)))]
    assert counts == [2, 4]


def test_shared_weights_are_told_from_own_ones() -> None:
    block = mlp()
    (shared,) = Analysis(recorded(Stack(block, block, block), torch.zeros(2, 8))).folds()
    (own,) = Analysis(recorded(Stack(mlp(), mlp(), mlp()), torch.zeros(2, 8))).folds()
    assert (shared.times, shared.shared) == (3, True)
    assert (own.times, own.shared) == (3, False)


def test_some_weights_shared_with_a_copy_further_on_end_the_fold() -> None:
    first, second = mlp(), mlp()
    graph = recorded(Stack(first, second, mlp(), second), torch.zeros(2, 8))
    assert all(found.times < 4 for found in Analysis(graph).folds())
    assert unfold(fold(graph)) == graph


def test_the_one_argument_that_varies_is_reported() -> None:
    graph = recorded(Dilated(1, 2, 4, 8), torch.zeros(1, 8, 40))
    (found,) = Analysis(graph).folds()
    assert found.variation is not None
    assert found.variation.names == ("padding", "dilation")
    assert found.variation.values == ("1", "2", "4", "8")
    assert unfold(fold(graph)) == graph


def test_blocks_in_which_two_things_vary_on_their_own_do_not_fold() -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for scale, power in ((1.0, 2.0), (2.0, 5.0), (3.0, 3.0)):
                x = nn.functional.softplus(x, beta=scale, threshold=power).roll(int(power), 0)
            return x

    assert Analysis(recorded(Mixed(), torch.zeros(2, 8))).folds() == ()


def test_a_loop_of_plain_ops_folds() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.eye(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(10):
                x = torch.tanh(x @ self.w)
            return x

    (found,) = Analysis(recorded(Loop(), torch.zeros(2, 8))).folds()
    assert (found.times, len(found.copies[0]), found.shared) == (10, 2, True)


def test_equal_calls_have_equal_keys_whatever_their_weights_and_names() -> None:
    graph = recorded(Stack(mlp(), mlp(), mlp(5)), torch.zeros(2, 8))
    exact = Analysis(graph).exact
    calls = [call for call in graph.modules if call.type_name == "Sequential"]
    keys = [exact.body(call.name).digest for call in calls]
    assert keys[0] == keys[1] != keys[2]


def fingerprint_of(model: nn.Module, *inputs: torch.Tensor) -> str:
    return Analysis(recorded(model, *inputs)).fingerprint


def test_a_fingerprint_does_not_depend_on_weights_batch_or_names() -> None:
    model, (x,) = NETWORKS["article_cnn"]()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    expected = Analysis(graph_of("article_cnn")).fingerprint
    assert fingerprint_of(other, x) == expected
    assert fingerprint_of(model, x[:7]) == expected
    assert Analysis(replace(graph_of("article_cnn"), name="another")).fingerprint == expected


class Reshaping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, 2, 4).transpose(1, 2).reshape(batch * 2, length, 4)


@given(st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_a_fingerprint_does_not_depend_on_a_batch_that_went_through_python(batch: int) -> None:
    expected = fingerprint_of(Reshaping(), torch.zeros(3, 5, 8))
    assert fingerprint_of(Reshaping(), torch.zeros(batch, 5, 8)) == expected


def test_a_fingerprint_sees_an_argument_a_class_a_wire_and_a_frozen_weight() -> None:
    def changed(stride: int = 1, act: type[nn.Module] = nn.ReLU, frozen: bool = False) -> str:
        model = nn.Sequential(nn.Conv2d(1, 2, 3, stride), act(), nn.Flatten())
        model[0].requires_grad_(not frozen)
        return fingerprint_of(model, torch.zeros(2, 1, 9, 9))

    found = [changed(), changed(stride=2), changed(act=nn.Tanh), changed(frozen=True)]
    assert len(set(found)) == 4
    assert fingerprint_of(Parallel(), torch.zeros(2, 8)) != fingerprint_of(
        Dense(), torch.zeros(2, 8)
    )


@pytest.mark.slow
@pytest.mark.process
def test_a_fingerprint_is_the_same_in_another_process() -> None:
    program = (
        "from tests.networks import graph_of\n"
        "from modelviz_callbacks.analysis import Analysis\n"
        "print(Analysis(graph_of('unet')).fingerprint)"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == Analysis(graph_of("unet")).fingerprint


class Widening(nn.Module):
    """Convolutions of the same kind, each with other channels."""

    def __init__(self, *widths: int, kernels: tuple[int, ...] = ()) -> None:
        super().__init__()
        sizes = kernels or (3,) * len(widths)
        pairs = zip(pairwise((3, *widths)), sizes, strict=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, k, padding=k // 2), nn.BatchNorm2d(b), nn.ReLU())
            for (a, b), k in pairs
        )
        self.pools = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
            if self.pools:
                x = nn.functional.max_pool2d(x, 2)
        return x


def image() -> torch.Tensor:
    return torch.zeros(2, 3, 16, 16)


def test_blocks_that_differ_in_their_channels_only_fold_and_say_so() -> None:
    graph = recorded(Widening(8, 16, 32), image())
    (found,) = Analysis(graph).folds(sizes=True)
    assert found.times == 3
    assert found.variation is not None
    assert (found.variation.names, found.variation.values) == (("channels",), ("8", "16", "32"))
    assert Analysis(graph).folds() == ()
    assert unfold(fold(graph, sizes=True)) == graph


def test_blocks_whose_kernels_differ_as_well_do_not_fold() -> None:
    assert (
        Analysis(recorded(Widening(8, 16, 32, kernels=(3, 5, 3)), image())).folds(sizes=True) == ()
    )


def test_blocks_whose_images_shrink_as_well_do_not_fold() -> None:
    model = Widening(8, 16, 32)
    model.pools = True
    assert Analysis(recorded(model, image())).folds(sizes=True) == ()


def test_layers_that_shrink_fold_with_their_features() -> None:
    sizes = (64, 32, 16, 8)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    graph = recorded(nn.Sequential(*layers), torch.zeros(2, 64))
    (found,) = Analysis(graph).folds(sizes=True)
    assert (len(found.copies[0]), found.times) == (2, 3)
    assert found.variation is not None
    assert (found.variation.names, found.variation.values) == (("features",), ("32", "16", "8"))
    assert unfold(fold(graph, sizes=True)) == graph


@pytest.mark.parametrize("odd", [0, 3, 6, 11])
def test_one_block_of_another_width_is_no_variation(odd: int) -> None:
    blocks = [mlp(5 if number == odd else 4) for number in range(12)]
    graph = recorded(Stack(*blocks), torch.zeros(2, 8))
    assert Analysis(graph).folds(sizes=True) == Analysis(graph).folds()


def test_equal_blocks_after_varying_ones_fold_as_equal_ones() -> None:
    graph = recorded(Dilated(1, 2, 4, 8, 8, 8, 8), torch.zeros(1, 8, 60))
    varying, equal = Analysis(graph).folds()
    assert varying.variation is not None
    assert varying.variation.values == ("1", "2", "4")
    assert (equal.times, equal.variation) == (4, None)


def test_one_block_of_another_dilation_is_no_variation() -> None:
    graph = recorded(Dilated(4, 1, 1, 1, 1), torch.zeros(1, 8, 40))
    (found,) = Analysis(graph).folds()
    assert (found.times, found.variation) == (4, None)


@pytest.mark.slow
@given(widths)
@settings(max_examples=40, deadline=None)
def test_unfolding_gives_blocks_of_other_sizes_back(sizes: list[int]) -> None:
    graph = recorded(Stack(*(mlp(size) for size in sizes)), torch.zeros(2, 8))
    assert unfold(fold(graph, sizes=True)) == graph
    for found in Analysis(graph).folds(sizes=True):
        if found.variation is not None:
            assert all(a != b for a, b in pairwise(found.variation.values))


@pytest.mark.parametrize("name", NETWORKS)
def test_unfolding_a_network_gives_copies_of_other_sizes_back(name: str) -> None:
    graph = graph_of(name)
    assert unfold(fold(graph, sizes=True)) == graph


def test_a_box_of_unlike_copies_has_the_parameters_of_them_all() -> None:
    graph = recorded(Widening(8, 16, 32), image())
    (group,) = overview(graph).groups
    assert group.times == 3
    assert group.details == "channels = 8, 16, 32"
    assert group.weights.count == graph.parameter_count
    assert parameters_text(group) == f"{graph.parameter_count:,} params"
    closed = overview(graph, depth=1).boxes
    (box,) = [box for box in closed if box.kind == "module"]
    assert box.made == "2×32×16×16"


class _Decoder(nn.Module):
    """Attends to a memory at each step, and stacks what the steps gave."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(20, 8), nn.GRUCell(16, 8)
        self.out = nn.Linear(16, 20)

    def forward(self, memory: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        h, made = memory[:, 0], []
        for t in range(target.shape[1]):
            word = self.embedding(target[:, t])
            weights = torch.softmax((memory @ h.unsqueeze(-1)).squeeze(-1), -1)
            context = (weights.unsqueeze(1) @ memory).squeeze(1)
            h = self.cell(torch.cat([word, context], -1), h)
            made.append(self.out(torch.cat([h, context], -1)))
        return torch.stack(made, 1)


def test_a_loop_that_slices_by_the_step_and_stacks_its_results_is_one_body() -> None:
    graph = trace(_Decoder(), torch.ones(2, 7, 8), torch.zeros(2, 30, dtype=torch.long)).graph

    (found,) = Analysis(graph).folds()
    assert found.times == 30
    assert found.shared
    assert len(found.copies[0]) == 13
    assert "[:, t], t = 0..29" in str(graph)
    assert unfold(fold(graph)) == graph


def test_a_loop_of_which_one_step_s_result_is_read_by_itself_is_no_single_body() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.RNNCell(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, made = x[:, 0], []
            for t in range(6):
                h = self.cell(x[:, t], h)
                made.append(h)
            return torch.stack(made, 1) + made[2].unsqueeze(1)

    found = Analysis(trace(Peeking(), torch.ones(2, 6, 4)).graph).folds()

    assert all(fold.times < 6 for fold in found)


def test_a_function_in_a_loop_is_the_same_though_nothing_reads_the_last_state() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(4, 8)

        def step(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.cell(x * 2, h)
            return h, torch.tanh(h) + 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, made = x.new_zeros(2, 8), []
            for t in range(5):
                h, y = self.step(x[:, t], h)
                made.append(y)
            return torch.stack(made, 1)

    graph = trace(Loop(), torch.ones(2, 5, 4)).graph

    assert [found.times for found in Analysis(graph).folds()] == [5]
    assert unfold(fold(graph)) == graph


def _reads_older_ones(steps: int) -> nn.Module:
    class Ladder(nn.Module):
        """The same two ops over and over, each reading another one of those long before."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made, chosen = [x], random.Random(0)
            for number in range(steps):
                made.append(torch.relu(made[-1] + made[chosen.randrange(number + 1)]))
            return made[-1]

    return Ladder()


def test_patterns_that_look_alike_and_hang_together_otherwise_get_no_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = 60
    graph = recorded(_reads_older_ones(steps), torch.ones(2))
    keyed: list[int] = []
    keys_of = Fingerprinter.run

    def counted(self: Fingerprinter, items: Sequence[Item]) -> Subgraph:
        keyed.append(len(items))
        return keys_of(self, items)

    monkeypatch.setattr(Fingerprinter, "run", counted)
    analysis = Analysis(graph)
    find_folds(analysis.exact, analysis.any_arguments, analysis.any_sizes)
    assert len(keyed) < steps


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_cheap_to_compare_first_leaves_no_repeat_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(name)
    found = [Analysis(graph).folds(sizes=sizes) for sizes in (False, True)]
    monkeypatch.setattr(_Finder, "_may_be_alike", lambda *_: True)
    assert found == [Analysis(graph).folds(sizes=sizes) for sizes in (False, True)]


def test_a_body_over_several_lists_takes_entries_of_one_number() -> None:
    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.gate, self.skip = (
                nn.ModuleList(nn.Linear(8, 8) for _ in range(5)) for _ in range(3)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skips: torch.Tensor | int = 0
            for value, gate, skip in zip(self.value, self.gate, self.skip, strict=True):
                made = torch.tanh(value(x)) * torch.sigmoid(gate(x))
                skips = skips + skip(made)  # of another kind in the first step
                x = x + made
            return torch.cat([skips, x], -1)

    graph = recorded(Lists(), torch.zeros(2, 8))
    (fold,) = Analysis(graph).folds()
    calls = [
        [graph.module_by_name[n].path for n in copy if n in graph.module_by_name]
        for copy in fold.copies
    ]
    assert calls == [
        [f"{name}.{number}" for name in ("value", "gate", "skip")] for number in range(1, 5)
    ]
    label = text.render(Analysis(graph)).decode()
    assert "value.1-4, gate.1-4" in label
