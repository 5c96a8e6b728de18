"""Pages of models of all kinds: what is drawn is complete, apart and joined."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from modelviz_callbacks.graph.model import ModelGraph
from tests.browser import open_browser
from tests.networks import NETWORKS, backward_graph, graph_of, recorded
from tests.samples import one_and_the_rest_slow
from tests.writers.page_visit import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# What is wrong with a scene, as texts; and how many ops are drawn or in closed boxes.
_CHECK = """() => {
  const { scene, graph, tree } = modelviz, wrong = [];
  const apart = new Map();
  for (const shape of scene.shapes) {
    const beside = apart.get(shape.box.parent) || [];
    for (const other of beside)
      if (shape.x < other.x + other.w && other.x < shape.x + shape.w
        && shape.y < other.y + other.h && other.y < shape.y + shape.h)
        wrong.push(`${shape.id} lies on ${other.id}`);
    apart.set(shape.box.parent, [...beside, shape]);
    const around = scene.byId.get(shape.box.parent?.id);
    if (around && (shape.x < around.x || shape.y < around.y
      || shape.x + shape.w > around.x + around.w || shape.y + shape.h > around.y + around.h))
      wrong.push(`${shape.id} is not in its frame`);
  }
  for (const wire of scene.wires) {
    for (const id of [wire.from, wire.to])
      if (!/^(in|out):/.test(id) && !scene.byId.has(id)) wrong.push(`an edge ends at ${id}`);
    if (!wire.legs.flat(2).every(Number.isFinite)) wrong.push(`${wire.id} is nowhere`);
  }
  const held = new Set(), visit = box => {
    if (box.kind !== 'held') for (const item of [...box.items, ...box.copies.flat()])
      graph.opsIn(item).forEach(op => held.add(op));
  };
  scene.shapes.forEach(shape => visit(shape.box));
  graph.nodes.forEach((_, node) => {
    if (graph.isCall(node) && !tree.isHidden(node) && !held.has(node))
      wrong.push(`${graph.nodeName(node)} is lost`);
  });
  return wrong.slice(0, 5);
}"""


class Returns(nn.Module):
    """Many outputs, one of them an input, one of a branch that nothing else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, object]:
        y = self.lin(x) * self.scale
        parts = [y + n for n in range(5)]
        kept = y.masked_fill(mask, 0.0)
        return {"same": x, "parts": parts, "kept": kept, "top": y.topk(2), "mask": mask}


class Shared(nn.Module):
    """One module called from several places, and a loop that carries two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(2, 4)
        for _ in range(6):
            h, c = self.cell(self.inner(x), (h, c))
            x = x + self.inner(h)
        return self.inner(x) + c


@cache
def graphs() -> dict[str, ModelGraph]:
    return {
        "returns": recorded(Returns(), torch.randn(2, 4), torch.zeros(2, 4, dtype=torch.bool)),
        "shared": recorded(Shared(), torch.randn(2, 4)),
        "transformer": recorded(
            nn.Transformer(16, 2, 3, 3, 32, batch_first=True),
            torch.randn(2, 7, 16),
            torch.randn(2, 5, 16),
        ),
        "nothing": recorded(nn.Identity(), torch.zeros(3)),
        "empty": ModelGraph("Empty", "torch.nn.Identity"),
        "backward": backward_graph(nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.randn(2, 4)),
        **{name: graph_of(name) for name in NETWORKS},
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


@pytest.mark.parametrize(
    "name",
    one_and_the_rest_slow(
        ["transformer", "returns", "shared", "nothing", "empty", "backward", *sorted(NETWORKS)]
    ),
)
def test_boxes_are_apart_edges_have_ends_and_no_op_is_lost(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    visit = Visit(browser, graphs()[name], tmp_path)
    assert visit.page.evaluate(_CHECK) == []
    for level in ("0", "2", "Infinity"):
        visit.page.evaluate(f"modelviz.level({level})")
        assert visit.page.evaluate(_CHECK) == []
    visit.page.evaluate("modelviz.showBookkeeping(true)")
    visit.page.evaluate("modelviz.level(Infinity)")
    assert visit.page.evaluate(_CHECK) == []
    focused = visit.page.evaluate(
        """() => { const shape = modelviz.scene.shapes.find(shape => shape.open);
             if (shape) modelviz.focusOn(shape.id); return !!shape }"""
    )
    if focused:
        assert len(visit.path()) > 1
    assert visit.errors == []
    visit.page.close()
