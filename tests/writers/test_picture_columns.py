"""A picture is neither three times as high as wide nor three times as wide as high."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.writers.picture import Arrow, Picture, Rectangle, picture
from tests.networks import NETWORKS, graph_of, recorded


@pytest.fixture(scope="module")
def chain() -> Analysis:
    kinds = (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.ELU)
    chosen = Random(0)
    layers: list[nn.Module] = [nn.Linear(8, 8)]
    layers += [chosen.choice(kinds)() for _ in range(40)]
    return Analysis(recorded(nn.Sequential(*layers), torch.zeros(2, 8)))


def ratio(drawn: Picture) -> float:
    return drawn.width / drawn.height


@pytest.mark.parametrize("name", NETWORKS)
def test_every_picture_can_be_looked_at(name: str) -> None:
    assert 1 / 3 <= ratio(picture(Analysis(graph_of(name)))) <= 3


def test_a_long_chain_goes_on_in_columns_unless_a_direction_is_asked_for(chain: Analysis) -> None:
    assert 1 / 3 <= ratio(picture(chain)) <= 3
    assert ratio(picture(chain, direction="down")) < 1 / 3
    assert ratio(picture(chain, direction="right")) > 3


def test_columns_lose_no_box_and_no_edge(chain: Analysis) -> None:
    drawn, whole = picture(chain), picture(chain, direction="down")
    boxes = {s.name for s in drawn.shapes if isinstance(s, Rectangle) and s.name}
    assert boxes == {s.name for s in whole.shapes if isinstance(s, Rectangle) and s.name}
    edges = {(edge.source, edge.target) for edge in overview(chain).edges}
    assert {(s.source, s.target) for s in drawn.shapes if isinstance(s, Arrow)} == edges


def test_an_edge_across_a_cut_begins_and_ends_at_its_boxes(chain: Analysis) -> None:
    drawn = picture(chain)
    places = {s.name: s.place for s in drawn.shapes if isinstance(s, Rectangle) and s.name}
    for arrow in (shape for shape in drawn.shapes if isinstance(shape, Arrow)):
        start, end = places[arrow.source], places[arrow.target]
        (x, y), (goal, tip) = arrow.points[0], arrow.points[-1]
        assert start.x - 1 <= x <= start.x + start.width + 1
        assert abs(y - start.y - start.height) < 2
        assert end.x - 1 <= goal <= end.x + end.width + 1
        assert abs(tip - end.y) < 2
        # One path: each piece of it is a whole Bezier curve, and the arrow's tip comes last.
        assert len(arrow.points) % 3 == 2


def test_columns_begin_between_frames_where_they_can() -> None:
    kinds = (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.CELU, nn.SELU)
    blocks = [nn.Sequential(nn.Linear(8, 8), kind(), nn.Dropout(0.1)) for kind in kinds]
    drawn = picture(Analysis(recorded(nn.Sequential(*blocks), torch.zeros(2, 8))), depth=2)
    frames = [s.name for s in drawn.shapes if isinstance(s, Rectangle) and s.role == "group0"]
    assert len(frames) == len(set(frames)) == 9
    boxes = [s.place for s in drawn.shapes if isinstance(s, Rectangle) and s.name.count("/") == 1]
    assert len({round((place.x + place.width / 2) / 100) for place in boxes}) > 1


class TwoTowers(nn.Module):
    """A long tower, then a short one that reads it, which a layout may put on any side."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.long = nn.Sequential(*(nn.Tanh() if n % 2 else nn.ReLU() for n in range(parts)))
        self.start, self.short = nn.Linear(4, 8), nn.Bilinear(8, 8, 8)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        read = self.long(x)
        made: torch.Tensor = self.short(self.start(y).relu(), read)
        return made


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_of_two_ways_beside_each_other_the_earlier_one_is_on_the_left(parts: int) -> None:
    model = TwoTowers(parts)
    drawn = picture(Analysis(recorded(model, torch.zeros(2, 8), torch.zeros(2, 4))))
    places = {s.name: s.place for s in drawn.shapes if isinstance(s, Rectangle) and s.name}
    tower = [place.x for name, place in places.items() if name.startswith("long/")]
    assert max(tower) < places["start"].x
