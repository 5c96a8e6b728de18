"""TensorBoard's first sight of a model is what it is made of, not a box around everything."""

from __future__ import annotations

import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.writers.graphdef import graph_def
from tests.analysis.test_wrappers import Block, Body, Framed, Headed, graph_of
from tests.writers.graphdef_rules import violations


class Summing(nn.Module):
    """One block reads what many others made, as a decoder reads masks and memories."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(14):
            self.add_module(f"block{number}", Block())
        self.last = nn.Bilinear(4, 4, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        made = []
        for block in [*self.children()][:-1]:
            x = block(x)
            made.append(x)
        return [self.last(torch.stack(made).sum(0), x)]


def boxes_at_the_top(graph: ModelGraph) -> list[str]:
    drawn = graph_def(Analysis(graph))
    assert violations(drawn, graph) == []
    scopes = {node.name.partition("/")[0]: None for node in drawn.node if "/" in node.name}
    return [name for name in scopes if name not in ("x", "input")]


def test_the_parts_of_a_wrapper_stand_at_the_top_under_its_name() -> None:
    layers = boxes_at_the_top(graph_of(Headed(Body([6, 6, 6, 6]))))
    stages = boxes_at_the_top(graph_of(Headed(Body([6, 7, 8, 9]))))

    assert layers == ["body.stem", "body.blocks", "body.norm", "head"]
    assert stages[1:-2] == [f"body.blocks.{number}_Block" for number in range(4)]


def test_in_wrappers_in_each_other_names_tell_the_innermost() -> None:
    found = boxes_at_the_top(graph_of(Framed(Headed(Body([6, 7, 8, 9])))))

    assert "body.blocks.0_Block" in found
    assert "inner.head" in found


def test_a_wrapper_stays_closed_where_the_page_would_put_a_part_of_it_aside() -> None:
    assert boxes_at_the_top(graph_of(Headed(Summing()))) == ["body", "head"]


def test_the_ops_of_a_wrapper_and_of_the_model_have_names_of_their_own() -> None:
    class Twice(Headed):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [made.relu().sigmoid() for made in super().forward(x)]

    class Rectified(Body):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return super().forward(x.relu().tanh())

    graph = trace(Twice(Rectified([6, 7, 8, 9])), torch.ones(2, 4)).graph
    drawn = graph_def(Analysis(graph))

    assert violations(drawn, graph) == []
    assert {"body.relu", "relu", "tanh", "sigmoid"} <= {node.name for node in drawn.node}
