"""Rules of a reader: what they hide, fold and rename, and that they draw no false edge."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.graph import ModelGraph, Ref, problems
from modelviz_callbacks.view.display_rules import Rules, apply
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.writers import html, svg
from tests.networks import NETWORKS, graph_of, recorded
from tests.writers.page_visit import content

PATTERNS = ("Linear", "Dropout", "ReLU", "BatchNorm2d", "LayerNorm", "view", "Block", "add")


def hidden(graph: ModelGraph, *patterns: str) -> ModelGraph:
    return apply(Analysis(graph), Rules.of(hide=patterns)).graph


def folded(graph: ModelGraph, *patterns: str) -> ModelGraph:
    return apply(Analysis(graph), Rules.of(fold=patterns)).graph


def reached_from(graph: ModelGraph, start: str) -> set[str]:
    """Every node that depends on one."""
    found: set[str] = set()
    waiting = deque([start])
    while waiting:
        name = waiting.popleft()
        for number in range(len(graph.by_name[name].outputs)):
            for reader in graph.consumers.get(Ref(name, number), ()):
                if reader.name not in found:
                    found.add(reader.name)
                    waiting.append(reader.name)
    return found


class TwoInputs(nn.Module):
    """A module of two inputs in the middle, and one right before the output."""

    def __init__(self) -> None:
        super().__init__()
        self.join = Join()
        self.last = Join()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = self.fc(self.join(x, y))
        return self.last(z, x)


class Join(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a + b) * 2


def two_inputs() -> ModelGraph:
    return recorded(TwoInputs(), torch.zeros(2, 4), torch.ones(2, 4))


def dropouts() -> ModelGraph:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout(0.1), nn.ReLU())
    return recorded(model, torch.zeros(2, 4))


@pytest.mark.alike
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_under_rules_is_sound_and_can_be_drawn(name: str, pattern: str) -> None:
    for changed in (hidden(graph_of(name), pattern), folded(graph_of(name), pattern)):
        assert list(problems(changed)) == []
        assert overview(changed).boxes


@pytest.mark.alike
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NETWORKS)
def test_hiding_keeps_who_depends_on_whom(name: str, pattern: str) -> None:
    before, after = graph_of(name), hidden(graph_of(name), pattern)
    left = {node.name for node in after.nodes}
    for node in after.nodes:
        if node.kind not in ("parameter", "buffer", "constant"):
            assert reached_from(after, node.name) == reached_from(before, node.name) & left


def test_what_read_a_hidden_module_reads_its_input() -> None:
    after = hidden(dropouts(), "Dropout")
    assert [call.name for call in after.modules] == ["0_Linear", "3_ReLU"]
    assert after.by_name["3_ReLU/relu"].inputs == (Ref("0_Linear/linear"),)
    (port,) = after.module_by_name["3_ReLU"].inputs
    assert port.ref == Ref("0_Linear/linear")


def test_a_hidden_op_is_left_out_too() -> None:
    after = hidden(dropouts(), "dropout")
    assert not any(node.op == "dropout" for node in after.nodes)
    assert after.by_name["3_ReLU/relu"].inputs == (Ref("0_Linear/linear"),)


def test_a_hidden_module_of_several_inputs_joins_them_all_to_its_reader() -> None:
    after = hidden(two_inputs(), "Join")
    assert after.by_name["fc/linear"].inputs[:2] == (Ref("x"), Ref("y"))


def test_what_makes_an_output_of_several_tensors_stays() -> None:
    after = hidden(two_inputs(), "Join")
    assert [call.name for call in after.modules] == ["fc", "last"]
    assert after.by_name["output"].inputs == two_inputs().by_name["output"].inputs


def test_parameters_of_what_is_hidden_are_hidden_and_still_counted() -> None:
    before = graph_of("resnet18")
    after = hidden(before, "BatchNorm2d")
    assert not any("bn" in node.name for node in after.nodes)
    assert after.parameter_count == before.parameter_count


def test_a_folded_class_is_one_op_as_costly_as_the_whole() -> None:
    before = graph_of("bert")
    after = folded(before, "BertLayer")
    layers = [call for call in after.modules if call.type_name == "BertLayer"]
    assert len(layers) == 12
    for call in layers:
        (op,) = [node for node in after.ops if node.scope == call.name]
        inside = [n for n in before.ops if n.name.startswith(f"{call.name}/")]
        assert op.flops == sum(node.flops or 0 for node in inside)
        assert op.outputs == (before.spec(before.module_by_name[call.name].outputs[0].ref),)
        held = {n.name for n in before.of_kind("parameter") if n.scope.startswith(f"{call.name}/")}
        assert {ref.node for ref in op.inputs} >= held
    (box,) = [box for box in overview(after).boxes if box.title.endswith("BertLayer")]
    assert box.times == 12
    (original,) = [group for group in overview(before).groups if group.title.endswith("BertLayer")]
    assert box.weights == original.weights


def test_a_folded_class_cannot_be_opened_in_the_page() -> None:
    page = content(html.render(Analysis(folded(graph_of("bert"), "BertLayer"))))
    assert "BertLayer" in page
    assert "BertSelfAttention" not in page
    assert "BertSelfAttention" in content(html.render(Analysis(graph_of("bert"))))


def test_a_folded_call_keeps_who_depends_on_whom() -> None:
    before, after = graph_of("unet"), folded(graph_of("unet"), "DoubleConv")
    for node in after.of_kind("input"):
        assert {n.name for n in after.of_kind("output")} <= reached_from(after, node.name)
    left = {node.name for node in after.nodes} & {node.name for node in before.nodes}
    for name in left:
        if before.by_name[name].is_call:
            assert reached_from(after, name) & left == reached_from(before, name) & left


def test_renaming_changes_what_is_shown_and_no_name() -> None:
    before = graph_of("bert")
    rules = Rules.of(rename={"Bert*Attention": "Attention", "sdpa_attention*": "attend"})
    after = apply(Analysis(before), rules).graph
    assert [node.name for node in after.nodes] == [node.name for node in before.nodes]
    shown = svg.render(Analysis(after)).decode()
    assert ">Attention" in shown
    assert ">attend<" in shown
    assert "BertSelfAttention" not in shown
    assert {call.type_name for call in after.modules} & {
        "BertAttention",
        "BertSelfAttention",
    } == set()


def test_a_renamed_class_of_torch_is_still_told_as_one_thing() -> None:
    after = apply(Analysis(graph_of("article_cnn")), Rules.of(rename={"Conv2d": "Convolution"}))
    assert sum(box.title == "Convolution" for box in overview(after).boxes) == 2


def test_classes_can_be_named_with_their_module() -> None:
    assert hidden(dropouts(), "torch.nn.*.Dropout") == hidden(dropouts(), "Dropout")


@pytest.mark.parametrize("rules", [Rules(), Rules.of("Nothing", "Nothing", {"Nothing": "Else"})])
def test_rules_that_match_nothing_change_nothing(rules: Rules) -> None:
    analysis = Analysis(graph_of("gan"))
    assert apply(analysis, rules) is analysis


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rules.of(hide=[""]), "nothing to hide"),
        (lambda: Rules.of(fold=[3]), "nothing to fold"),  # type: ignore[list-item]
        (lambda: Rules.of(rename={"Conv2d": ""}), "cannot be renamed"),
        (lambda: Rules.of(rename={"Conv2d": "a.b"}), "no dot"),
    ],
)
def test_rules_that_mean_nothing_are_refused(make: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()  # type: ignore[operator]
