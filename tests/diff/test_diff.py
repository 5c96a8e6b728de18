"""What differs is named, what only follows is not, and what does not count is left out."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.diff.diff import Change, GraphDiff, diff
from modelviz_callbacks.diff.merged_graph import merge
from modelviz_callbacks.graph import check, without_functions
from modelviz_callbacks.graph.json_format import dumps, loads
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.view.overview import overview
from tests.networks import NETWORKS, ArticleCnn, Stack, graph_of, mlp, recorded
from tests.zoo.hard_modules import CASES

X = torch.zeros(3, 8)
_LAYER = "bert.encoder.layer"


def told(found: GraphDiff) -> list[str]:
    """The changes that count, a line each."""
    return [_line(change) for change in found.changes]


def followed(found: GraphDiff) -> list[str]:
    return [_line(change) for change in found.follows]


def _line(change: Change) -> str:
    name = change.name or change.old_name
    words = [change.was, change.now] if change.was != change.now else [change.now]
    details = [f"({', '.join(change.details)})"] if change.details else []
    return " ".join([change.kind, name, " -> ".join(filter(None, words)), *details])


def turned(change: Change) -> Change:
    """The same change seen from the other graph; the details are words, not compared."""
    kinds = {"added": "removed", "removed": "added", "changed": "changed"}
    return Change(
        kinds[change.kind],
        change.subject,
        change.name,
        change.old_name,
        change.now,
        change.was,
        (),
        change.item,
        change.old_item,
    )


def sequential(*layers: nn.Module) -> ModelGraph:
    return recorded(nn.Sequential(*layers), X)


def bert(batch: int = 2, length: int = 8, **changes: object) -> ModelGraph:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 100,
    }
    model = BertForSequenceClassification(BertConfig(**(sizes | changes)))
    return recorded(model, torch.ones(batch, length, dtype=torch.long))


class Options(nn.Module):
    """A small network with something to switch in each of its parts."""

    def __init__(
        self,
        activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu,
        residual: bool = True,
        late: bool = False,
        tied: bool = False,
        spare: int = 2,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))
        if tied:
            self.third.weight = self.second.weight
        self.activation, self.residual, self.late = activation, residual, late
        self.spare = nn.Parameter(torch.zeros(spare))
        self.outputs = outputs

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
        start = self.activation(self.first(x))
        middle = self.second(start)
        end = self.third(middle if self.late else start) * middle
        if self.residual:
            end = end + x
        if mask is not None:
            end = end * mask
        return [end, middle][: self.outputs]


# --- equal


GRAPHS = {name: (lambda name=name: graph_of(name)) for name in NETWORKS}
GRAPHS |= {case.name: (lambda case=case: _hard(case)) for case in CASES}


def _hard(case: object) -> ModelGraph:
    from modelviz_callbacks import trace

    model, args, kwargs = case.make()  # type: ignore[attr-defined]
    return trace(model, *args, **kwargs).graph


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_does_not_differ_from_itself(name: str) -> None:
    graph = GRAPHS[name]()
    found = diff(graph, loads(ModelGraph, dumps(graph)), strict=True)
    assert (found.changes, found.follows, found.ignored) == ((), (), ())


def test_other_weights_and_another_batch_size_are_no_difference() -> None:
    found = diff(bert(), bert(batch=6, length=5))
    assert told(found) == followed(found) == []
    assert [remark.text for remark in found.ignored] == ["the input input_ids was 2×8, is 6×5"]


def test_other_weights_give_no_remark_at_all() -> None:
    assert diff(bert(), bert(), strict=True).are_equal


def test_another_size_of_the_image_is_no_difference() -> None:
    small, large = (recorded(ArticleCnnAnySize(), torch.zeros(2, 1, n, n)) for n in (28, 44))
    assert told(diff(small, large)) == []


class ArticleCnnAnySize(ArticleCnn):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.interpolate(self.cnn(x), size=(7, 7))
        return self.mlp1(pooled.view(x.shape[0], 64 * 49))


def test_a_device_and_source_lines_count_only_in_strict_comparison() -> None:
    graph = graph_of("article_cnn")
    moved = _rewritten(graph, '"dtype":"float32"', '"dtype":"float32","device":"cuda:0"')
    assert diff(graph, moved).are_equal
    assert "cuda:0" in str(told(diff(graph, moved, strict=True)))
    lines = _rewritten(graph, '"line":', '"line":1')
    assert diff(graph, lines).are_equal
    assert "source line" in str(told(diff(graph, lines, strict=True)))


def _rewritten(graph: ModelGraph, old: str, new: str) -> ModelGraph:
    return loads(ModelGraph, dumps(graph).replace(old, new))


def test_other_names_count_only_in_strict_comparison() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    class Original(Renamed):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.fc = self.body, self.head
            del self.body, self.head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.trunk(x))

    Original.__name__ = Renamed.__name__ = "Net"
    Original.__qualname__ = Renamed.__qualname__ = "Net"
    graphs = recorded(Original(), X), recorded(Renamed(), X)
    found = diff(*graphs)
    assert told(found) == []
    assert found.ignored[0].text == "trunk is body now, fc is head now"
    assert not diff(*graphs, strict=True).are_equal
    assert Analysis(graphs[0]).fingerprint == Analysis(graphs[1]).fingerprint


@pytest.mark.slow
@pytest.mark.process
def test_graphs_recorded_in_two_processes_are_equal(tmp_path: Path) -> None:
    code = "from tests.networks import graph_of; import sys;graph_of('resnet18').save(sys.argv[1])"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(tmp_path / f"{seed}.json")]
        subprocess.run(command, env=environment, check=True, timeout=300)
    one, two = (ModelGraph.load(tmp_path / f"{seed}.json") for seed in ("1", "2"))
    assert diff(one, two, strict=True).are_equal
    assert diff(one, graph_of("resnet18"), strict=True).are_equal


# --- one layer


def test_a_wider_last_layer_is_named_and_nothing_else() -> None:
    before = sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    after = sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 20))
    found = diff(before, after)
    assert told(found) == ["changed 2 Linear(16 -> 10) -> Linear(16 -> 20)"]
    assert followed(found) == ["changed output 3×10 float32 -> 3×20 float32"]


def test_a_wider_layer_in_the_middle_is_named_and_its_reader_follows() -> None:
    before = sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    after = sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    found = diff(before, after)
    assert told(found) == ["changed 0 Linear(8 -> 16) -> Linear(8 -> 32)"]
    assert followed(found) == [
        "changed 1 BatchNorm1d(16) -> BatchNorm1d(32)",
        "changed 3 Linear(16 -> 10) -> Linear(32 -> 10)",
    ]


def test_a_reader_that_is_wider_itself_is_named_too() -> None:
    before = sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
    after = sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32))
    assert told(diff(before, after)) == [
        "changed 0 Linear(8 -> 16) -> Linear(8 -> 32)",
        "changed 2 Linear(16 -> 16) -> Linear(32 -> 32)",
    ]


def test_a_wider_layer_hides_no_other_number_that_grew_alike() -> None:
    class Scaled(nn.Sequential):
        def __init__(self, width: int, factor: int, p: float) -> None:
            super().__init__(nn.Linear(8, width), nn.Dropout(p))
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.factor

    found = diff(recorded(Scaled(10, 1, 0.1), X), recorded(Scaled(20, 2, 0.2), X))
    assert told(found) == [
        "changed 0 Linear(8 -> 10) -> Linear(8 -> 20)",
        "changed 1 Dropout(p 0.1) -> Dropout(p 0.2)",
        "changed mul mul (other 1 -> 2)",
    ]


def test_another_batch_size_hides_no_number_that_grew_alike() -> None:
    def net(kernel: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(8, 8, kernel, padding="same"), nn.ReLU())

    before, after = recorded(net(5), torch.zeros(5, 8, 11)), recorded(net(9), torch.zeros(9, 8, 11))
    assert len(diff(before, after).changes) == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (nn.ReLU(), nn.GELU(), "changed 1 ReLU -> GELU"),
        (nn.Dropout(0.1), nn.Dropout(0.5), "changed 1 Dropout(p 0.1) -> Dropout(p 0.5)"),
        (
            nn.LayerNorm(8, eps=1e-5),
            nn.LayerNorm(8, eps=1e-12),
            "changed 1 LayerNorm(8) (eps 1e-05 -> 1e-12)",
        ),
        (
            nn.Linear(8, 8),
            nn.Linear(8, 8, bias=False),
            "changed 1 Linear(8 -> 8) -> Linear(8 -> 8, no bias)",
        ),
        (nn.LayerNorm(8), nn.RMSNorm(8), "changed 1 LayerNorm(8) -> RMSNorm(8)"),
        (
            nn.Linear(8, 8),
            nn.Linear(8, 8).requires_grad_(False),
            "changed 1 Linear(8 -> 8) (frozen)",
        ),
        (nn.ReLU(), nn.ReLU(inplace=True), "changed 1 ReLU (inplace False -> True)"),
    ],
)
def test_one_layer_that_differs_is_named(
    before: nn.Module, after: nn.Module, expected: str
) -> None:
    first, last = nn.Linear(8, 8), nn.Linear(8, 8)
    graphs = (sequential(first, layer, last) for layer in (before, after))
    assert told(diff(*graphs)) == [expected]


def test_a_frozen_bias_is_named_by_itself() -> None:
    half = nn.Linear(8, 8)
    half.bias.requires_grad_(False)
    found = diff(sequential(nn.Linear(8, 8)), sequential(half))
    assert told(found) == ["changed 0 Linear(8 -> 8) (bias frozen)"]


def test_an_inserted_layer_shifts_nothing() -> None:
    before = sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    after = sequential(
        nn.Linear(8, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)
    )
    found = diff(before, after)
    assert told(found) == ["added 1 Dropout(p 0.2)"]
    assert found.ignored[0].text == "1 is 2 now, 2 is 3 now, 3 is 4 now, 4 is 5 now"
    assert told(diff(after, before)) == ["removed 1 Dropout(p 0.2)"]


def test_an_inserted_block_is_found_among_others_by_what_it_does() -> None:
    blocks = [
        mlp(),
        nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 8)),
        mlp(12),
        nn.Sequential(nn.Tanh()),
    ]
    before = recorded(Stack(*blocks), X)
    for place in range(len(blocks) + 1):
        new = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Softmax(1))
        after = recorded(Stack(*blocks[:place], new, *blocks[place:]), X)
        assert told(diff(before, after)) == [
            f"added blocks.{place} Sequential (144 parameters, 4 ops)"
        ]


def test_one_of_twelve_blocks_that_differs_is_named() -> None:
    before = recorded(Stack(*(mlp() for _ in range(12))), X)
    after = recorded(Stack(*(mlp(9 if number == 5 else 8) for number in range(12))), X)
    found = diff(before, after)
    assert told(found) == ["changed blocks.5.0 Linear(8 -> 8) -> Linear(8 -> 9)"]
    assert followed(found) == ["changed blocks.5.2 Linear(8 -> 8) -> Linear(9 -> 8)"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"num_hidden_layers": 4},
            ["added bert.encoder.layer.3 BertLayer (7,504 parameters, {ops} ops)"],
        ),
        ({"num_labels": 5}, ["changed classifier Linear(32 -> 2) -> Linear(32 -> 5)"]),
        (
            {"hidden_act": "relu"},
            [
                f"changed {_LAYER}.{n}.intermediate.intermediate_act_fn GELUActivation -> ReLU"
                for n in range(3)
            ],
        ),
        (
            {"max_position_embeddings": 64},
            [
                "changed bert.embeddings.position_embeddings "
                "Embedding(512 × 32) -> Embedding(64 × 32)"
            ],
        ),
    ],
)
def test_one_setting_of_bert_that_differs_is_named(
    changes: dict[str, object], expected: list[str]
) -> None:
    before = bert()
    found = [line for line in told(diff(before, bert(**changes))) if "buffer" not in line]
    # How many ops one layer has differs between versions of transformers.
    ops = sum(op.scope.startswith("bert/encoder/layer/0_BertLayer") for op in before.ops)
    assert ops > 20
    assert [line for line in found if "getitem" not in line and "expand" not in line] == [
        line.format(ops=ops) for line in expected
    ]


def test_the_ops_of_a_forward_are_compared_one_by_one() -> None:
    plain = recorded(Options(), X)
    assert told(diff(plain, recorded(Options(activation=torch.tanh), X))) == [
        "changed tanh relu -> tanh"
    ]
    assert told(diff(plain, recorded(Options(residual=False), X))) == ["removed add add"]


def test_an_op_that_reads_another_tensor_is_named_with_both() -> None:
    found = diff(recorded(Options(), X), recorded(Options(late=True), X))
    assert told(found) == [
        "changed third Linear(8 -> 8) (input comes from second.linear, was relu)"
    ]


def test_shared_weights_are_a_difference() -> None:
    found = diff(recorded(Options(), X), recorded(Options(tied=True), X))
    assert told(found) == ["changed third Linear(8 -> 8) (weight shared now (second.weight))"]
    back = diff(recorded(Options(tied=True), X), recorded(Options(), X))
    assert told(back) == ["changed third Linear(8 -> 8) (weight no longer shared (second.weight))"]


def test_a_parameter_that_no_op_uses_counts() -> None:
    found = diff(recorded(Options(spare=2), X), recorded(Options(spare=3), X))
    assert [(change.subject, change.name) for change in found.changes] == [("parameter", "spare")]


def test_inputs_and_outputs_that_come_and_go_are_named() -> None:
    found = diff(recorded(Options(), X), recorded(Options(outputs=2), X, torch.zeros(3, 8)))
    assert told(found) == [
        "added mul_1 mul",
        "added mask 3×8 float32",
        "added out[1] 3×8 float32",
    ]
    assert [change.subject for change in found.changes] == ["op", "input", "output"]


def test_an_input_of_another_kind_is_named_and_what_reads_it_follows() -> None:
    linear = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    half = copy.deepcopy(linear).double()
    found = diff(recorded(linear, X), recorded(half, X.double()))
    assert "changed input 3×8 float32 -> 3×8 float64" in told(found)


def test_the_class_of_the_model_and_an_early_end_count() -> None:
    graph = graph_of("article_cnn")
    other = replace(graph, class_name="elsewhere.Other", partial=True)
    assert told(diff(graph, other)) == [
        "changed ArticleCnn ArticleCnn -> Other (the forward ended early)"
    ]


# --- any networks


def layer(kind: int, width: int) -> nn.Module:
    makers: list[Callable[[], nn.Module]] = [
        nn.ReLU,
        nn.Tanh,
        lambda: nn.Dropout(width / 20),
        lambda: nn.LayerNorm(8),
        lambda: nn.Linear(8, 8, bias=width > 5),
        lambda: mlp(width),
    ]
    return makers[kind]()


layers = st.lists(st.tuples(st.integers(0, 5), st.integers(4, 7)), min_size=1, max_size=8)


def stacked(kinds: list[tuple[int, int]]) -> ModelGraph:
    return recorded(Stack(*(layer(*kind) for kind in kinds)), X)


@pytest.mark.slow
@given(layers, layers)
@settings(max_examples=60, deadline=None)
def test_differences_turn_round_with_the_graphs(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    before, after = stacked(one), stacked(two)
    there, back = diff(before, after), diff(after, before)
    for changes, others in ((there.changes, back.changes), (there.follows, back.follows)):
        expected = {turned(change) for change in others}
        assert {replace(change, details=()) for change in changes} == expected
    assert there.are_equal == (Analysis(before).fingerprint == Analysis(after).fingerprint)


@pytest.mark.slow
@given(layers, layers)
@settings(max_examples=40, deadline=None)
def test_both_graphs_in_one_are_a_sound_graph_with_nothing_lost(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    before, after = stacked(one), stacked(two)
    found = diff(before, after)
    joined = merge(found)
    check(joined.graph)
    names = {node.name for node in joined.graph.ops}
    assert {node.name for node in after.ops} <= names
    gone = {joined.old_names[name] for name in names - {node.name for node in after.ops}}
    kept = {name for name in found.matching.nodes if name not in gone}
    replaced = {
        node.name
        for node in before.ops
        if set(before.scopes_of(node.scope)) & found.matching.replaced
    }
    assert gone | kept | replaced >= {node.name for node in before.ops}


@pytest.mark.slow
@given(layers, st.integers(0, 8), st.integers(0, 5), st.integers(4, 7))
@settings(max_examples=60, deadline=None)
def test_one_inserted_layer_is_one_addition(
    kinds: list[tuple[int, int]], place: int, kind: int, width: int
) -> None:
    place = min(place, len(kinds))
    more = [*kinds[:place], (kind, width), *kinds[place:]]
    found = diff(stacked(kinds), stacked(more))
    assert [(change.kind, change.subject) for change in found.changes] == [("added", "module")]
    assert found.follows == ()


def pairs_of_networks() -> list[tuple[str, str]]:
    names = sorted(NETWORKS)
    return list(zip(names, [*names[1:], names[0]], strict=True))


@pytest.mark.parametrize(("one", "two"), pairs_of_networks())
def test_different_networks_differ_and_turn_round(one: str, two: str) -> None:
    there, back = diff(graph_of(one), graph_of(two)), diff(graph_of(two), graph_of(one))
    assert not there.are_equal
    assert {replace(change, details=()) for change in there.changes} == {
        turned(change) for change in back.changes
    }
    check(merge(there).graph)


@pytest.mark.process
def test_the_same_difference_reads_the_same_in_any_process(tmp_path: Path) -> None:
    for name in ("resnet18", "unet"):
        graph_of(name).save(tmp_path / f"{name}.json")
    code = (
        "import sys; from modelviz_callbacks import ModelGraph;"
        "from modelviz_callbacks.diff.diff import diff;"
        "from modelviz_callbacks.writers import diff_svg, diff_text;"
        "found = diff(*map(ModelGraph.load, sys.argv[1:]));"
        "sys.stdout.buffer.write(diff_text.render(found) + diff_svg.render(found))"
    )
    files = [str(tmp_path / f"{name}.json") for name in ("resnet18", "unet")]
    made = {
        subprocess.run(
            [sys.executable, "-c", code, *files],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            timeout=300,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1
    assert b"</svg>" in made.pop()


def test_a_graph_and_its_copy_through_json_are_told_apart_by_nothing() -> None:
    graph = graph_of("gpt")
    modules = without_functions(graph)  # all that is compared
    assert dumps(merge(diff(graph, graph)).graph) == dumps(replace(modules, notes=()))


class Juggling(nn.Module):
    """Few ops that compute and many that only change a layout: pictures tell it as one thing."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(3, 2, 4).transpose(1, 2).contiguous().flatten(1).unsqueeze(0).squeeze(0)
        x = (x * self.scale).t().contiguous().view(4, 2, 3).permute(2, 0, 1).reshape(3, 8)
        return x.unsqueeze(2).expand(3, 8, 2).select(2, 0)


def test_what_pictures_and_text_tell_as_one_thing_is_compared_as_one_thing() -> None:
    before, after = (sequential(nn.Linear(8, 8), Juggling(scale)) for scale in (2.0, 3.0))
    analysis = Analysis(before)
    (call,) = (call for call in before.modules if call.type_name == "Juggling")
    assert analysis.is_leaf(call)
    assert call.name in {box.name for box in overview(analysis).boxes}
    changes = diff(before, after).changes
    assert [(change.subject, change.name) for change in changes] == [("module", "1")]
