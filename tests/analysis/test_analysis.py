"""Everything about one graph is computed once, and told alike by all who ask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.costs import Cost
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.writers.picture import picture
from tests.networks import Stack, graph_of, mlp, recorded


@pytest.fixture
def analysis() -> Analysis:
    return Analysis(recorded(Stack(mlp(), mlp(), nn.Linear(8, 2)), torch.zeros(2, 8)))


def test_what_was_computed_is_given_again(analysis: Analysis) -> None:
    for sizes in (False, True):
        assert analysis.steps(sizes=sizes) is analysis.steps(sizes=sizes)
        assert analysis.folds(sizes=sizes) is analysis.folds(sizes=sizes)
    assert analysis.outline is analysis.outline is analysis.exact.outline
    assert overview(analysis) is overview(analysis, scope="", depth=None)
    assert overview(analysis, depth=1) is not overview(analysis)


def test_what_failed_is_tried_again(analysis: Analysis) -> None:
    tries: list[int] = []

    def fails_first(_: Analysis, number: int) -> int:
        tries.append(number)
        if len(tries) == 1:
            raise ValueError("not yet")
        return number

    with pytest.raises(ValueError, match="not yet"):
        analysis.once(fails_first, 7)
    assert [analysis.once(fails_first, 7) for _ in range(3)] == [7, 7, 7]
    assert tries == [7, 7]


def test_an_analysis_of_an_analysis_is_itself(analysis: Analysis) -> None:
    assert Analysis.of(analysis) is analysis
    assert Analysis.of(analysis.graph).graph is analysis.graph


def test_a_picture_does_not_depend_on_the_one_drawn_before(analysis: Analysis) -> None:
    framed = picture(analysis)
    bare = picture(analysis, framed=False)
    assert framed != bare
    assert picture(analysis) == framed == picture(Analysis(analysis.graph))
    assert bare == picture(Analysis(analysis.graph), framed=False)


def test_filling_in_flops_keeps_what_does_not_depend_on_them(analysis: Analysis) -> None:
    graph = analysis.graph
    folds, fingerprint = analysis.folds(), analysis.fingerprint
    nodes = tuple(replace(node, flops=3) if node.is_call else node for node in graph.nodes)
    costed = analysis.with_flops(replace(graph, nodes=nodes))
    assert costed.folds() is folds
    assert costed.fingerprint is fingerprint
    assert costed.folds(sizes=True) == analysis.folds(sizes=True)
    assert costed.costs.total.flops == 3 * len(graph.ops)
    assert analysis.costs.total.flops != costed.costs.total.flops


@pytest.mark.parametrize("name", ["resnet18", "bert", "gan"])
def test_the_costs_of_a_scope_are_the_sums_of_what_is_in_it(name: str) -> None:
    analysis = Analysis(graph_of(name))
    outline, costs = analysis.outline, analysis.costs
    for call in analysis.graph.modules:
        if call.called:
            ops = list(outline.calls_in(call))
            known = [node.flops for node in ops if node.flops is not None]
            cost = costs.of(call)
            assert (cost.ops, cost.flops) == (len(ops), sum(known) if known else None)
            assert cost.made_bytes == sum(costs.of(node).made_bytes for node in ops)
    assert costs.total.ops == len(analysis.graph.ops)


def test_costs_that_are_not_known_are_not_nothing() -> None:
    assert (Cost(1, None, 4) + Cost(1, None, 4)).flops is None
    assert Cost(1, None) + Cost(2, 5, 8) == Cost(3, 5, 8)


def test_an_op_that_writes_in_place_makes_no_new_memory() -> None:
    graph = recorded(nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)), torch.zeros(2, 8))
    analysis = Analysis(graph)
    sizes = {node.op: analysis.costs.of(node).made_bytes for node in graph.ops}
    assert sizes == {"linear": 64, "relu": 0}
