"""The pictures: read back as files, measured in a browser."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.writers import png, svg
from tests.browser import new_tab, open_browser
from tests.networks import NETWORKS, Stack, backward_graph, graph_of, mlp, recorded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script>&\"'\x07"


class Busy(nn.Module):
    """Hundreds of ops, parameters of its own, many inputs and outputs, no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(n % 5 + 1)) for n in range(80))

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for number, scale in enumerate(self.scales):
            found.append((inputs[number % len(inputs)] * scale.sum()).relu() + number % 7)
        return found


def busy_graph() -> ModelGraph:
    return recorded(Busy(), *(torch.zeros(3) for _ in range(30)))


def wide_graph() -> ModelGraph:
    """A chain of 200 layers no two of which are alike."""
    sizes = [8 + (7 * n) % 61 for n in range(201)]
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return recorded(nn.Sequential(*layers), torch.zeros(1, 8))


GRAPHS = {name: (lambda name=name: graph_of(name)) for name in NETWORKS}
GRAPHS |= {"busy": busy_graph, "wide": wide_graph}
GRAPHS |= {f"{name} backward": (lambda name=name: backward_of(name)) for name in NETWORKS}


@cache
def backward_of(name: str) -> ModelGraph:
    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    return backward_graph(model, *inputs)


def elements(graph: ModelGraph, depth: int | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(svg.render(Analysis(graph), depth=depth))


def rectangles(root: ElementTree.Element, kind: str) -> dict[str, tuple[float, ...]]:
    """Left, top, right and bottom of each box or group, by its name."""
    found = {}
    for group in root.iter(f"{_SVG}g"):
        if group.get("class") == kind:
            rect = group.find(f"{_SVG}rect")
            assert rect is not None
            x, y, w, h = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
            found[group.get("data-name", "")] = (x, y, x + w, y + h)
    return found


def pieces(root: ElementTree.Element, kind: str) -> list[tuple[str, tuple[float, ...]]]:
    """Name and place of each frame or heading; one that was cut into columns has several."""
    found = []
    for group in root.iter(f"{_SVG}g"):
        if group.get("class") == kind:
            for rect in group.iter(f"{_SVG}rect"):
                x, y, w, h = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
                found.append((group.get("data-name", ""), (x, y, x + w, y + h)))
    return found


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_picture_has_at_most_60_boxes_and_groups_whatever_the_model(name: str) -> None:
    root = elements(GRAPHS[name]())
    assert 3 <= len(rectangles(root, "box")) + len(rectangles(root, "group")) <= 60


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_do_not_overlap_and_lie_within_the_picture(name: str) -> None:
    root = elements(GRAPHS[name]())
    boxes = list(rectangles(root, "box").values())
    for number, box in enumerate(boxes):
        assert not any(overlap(box, other) for other in boxes[:number])
    whole = (0.0, 0.0, float(root.get("width", "")), float(root.get("height", "")))
    for place in (*boxes, *rectangles(root, "group").values()):
        assert whole[0] <= place[0] < place[2] <= whole[2]
        assert whole[1] <= place[1] < place[3] <= whole[3]


@pytest.mark.parametrize("name", GRAPHS)
def test_headings_lie_on_no_box_and_on_no_other_heading(name: str) -> None:
    root = elements(GRAPHS[name]())
    headings = [place for _, place in pieces(root, "heading")]
    boxes = list(rectangles(root, "box").values())
    for number, heading in enumerate(headings):
        assert not any(overlap(heading, other) for other in (*boxes, *headings[:number]))


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_lie_within_their_group_and_outside_of_others(name: str) -> None:
    graph = GRAPHS[name]()
    view, root = overview(graph), elements(graph)
    boxes, groups = rectangles(root, "box"), pieces(root, "group")
    around = {group.name: group.group for group in view.groups}
    for box in view.boxes:
        scopes = set()
        scope = box.group
        while scope:
            scopes.add(scope)
            scope = around[scope]
        found = {other for other, frame in groups if overlap(boxes[box.name], frame)}
        assert found == scopes


@pytest.mark.parametrize("name", GRAPHS)
def test_every_box_and_group_has_a_label(name: str) -> None:
    root = elements(GRAPHS[name]())
    for kind in ("box", "heading"):
        for group in root.iter(f"{_SVG}g"):
            if group.get("class") == kind:
                texts = [text.text or "" for text in group.iter(f"{_SVG}text")]
                assert any(text.strip() for text in texts)
    assert len(rectangles(root, "heading")) == len(rectangles(root, "group"))


@pytest.mark.parametrize("name", GRAPHS)
def test_arrows_end_at_the_boxes_they_join(name: str) -> None:
    graph = GRAPHS[name]()
    view, root = overview(graph), elements(graph)
    boxes = rectangles(root, "box")
    lines = [path.get("d", "") for path in root.iter(f"{_SVG}path")]
    heads = [head.get("points", "") for head in root.iter(f"{_SVG}polygon")]
    assert len(lines) == len(heads) == len(view.edges)
    for edge, line, head in zip(view.edges, lines, heads, strict=True):
        start = [float(number) for number in re.findall(r"-?[\d.]+", line)[:2]]
        tip = [float(number) for number in head.split(" ")[0].split(",")]
        for (x, y), name_ in ((start, edge.source), (tip, edge.target)):
            left, top, right, bottom = boxes[name_]
            assert left - 3 <= x <= right + 3
            assert top - 3 <= y <= bottom + 3


def edge_roles(graph: ModelGraph) -> dict[tuple[str, str], str]:
    paths = elements(graph).iter(f"{_SVG}path")
    roles = [path.get("class", "").removeprefix("line ") for path in paths]
    edges = [(edge.source, edge.target) for edge in overview(graph).edges]
    return dict(zip(edges, roles, strict=True))


def test_skip_connections_stand_out() -> None:
    roles = edge_roles(graph_of("unet"))
    skipping = {edge for edge, role in roles.items() if role == "skip"}
    assert {target for _, target in skipping} == {"cat", "cat_1", "cat_2"}
    assert set(edge_roles(graph_of("article_cnn")).values()) == {"flow"}


def test_folded_layers_are_one_group_with_their_number() -> None:
    headings = [
        "".join(group.itertext())
        for group in elements(graph_of("bert")).iter(f"{_SVG}g")
        if group.get("class") == "heading"
    ]
    assert sum("BertLayer ×12" in heading for heading in headings) == 1
    assert sum("BertAttention" in heading for heading in headings) == 1


def test_trained_and_frozen_boxes_are_told_apart_by_look_and_word() -> None:
    model = Stack(nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU())
    model.blocks[0].requires_grad_(False)
    root = elements(recorded(model, torch.zeros(2, 8)))
    found = {}
    for group in root.iter(f"{_SVG}g"):
        rect = group.find(f"{_SVG}rect")
        if group.get("class") == "box" and rect is not None:
            found[group.get("data-name")] = (rect.get("class"), "".join(group.itertext()))
    assert found["blocks/0_Linear"][0] == "frozen"
    assert "frozen" in found["blocks/0_Linear"][1]
    assert found["blocks/1_Linear"][0] == "trainable"
    assert "frozen" not in found["blocks/1_Linear"][1]
    assert found["blocks/2_ReLU"][0] == "module"


def test_a_parameter_is_a_box_only_where_an_op_of_that_level_reads_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))
            self.fc = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * self.scale

    boxes = rectangles(elements(recorded(Scaled(), torch.zeros(2, 8))), "box")
    assert set(boxes) == {"x", "fc", "scale", "mul", "output"}


def test_a_shape_op_is_quiet() -> None:
    root = elements(graph_of("article_cnn"))
    (rect,) = [r for r in root.iter(f"{_SVG}rect") if r.get("class") == "quiet"]
    assert rect is not None


def test_a_depth_shows_that_many_levels() -> None:
    root = elements(graph_of("bert"), depth=1)
    assert not rectangles(root, "group")
    assert "bert" in rectangles(root, "box")
    assert set(rectangles(elements(graph_of("bert"), depth=2), "group")) == {"bert"}


def test_a_hostile_name_survives_as_text() -> None:
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.Linear(2, 2))
    model.add_module("two", nn.ReLU())
    root = elements(recorded(model, torch.zeros(1, 2)))
    assert root.find(f".//{_SVG}script") is None
    shown = [text.text or "" for text in root.iter(f"{_SVG}text")]
    assert any(text.startswith("<script>") and "&\"'" in text for text in shown)


@pytest.mark.slow
@pytest.mark.process
def test_pictures_need_no_graphviz_on_the_path(tmp_path: Path) -> None:
    program = (
        "import shutil, sys\n"
        "from tests.networks import graph_of\n"
        "from modelviz_callbacks.writers import html, notebook, png, svg\n"
        "assert shutil.which('dot') is None\n"
        "from modelviz_callbacks.analysis import Analysis\n"
        "analysis = Analysis(graph_of('unet'))\n"
        "assert svg.render(analysis).startswith(b'<svg')\n"
        "assert png.render(analysis).startswith(b'\\x89PNG')\n"
        "assert html.render(analysis).startswith(b'<!doctype html>')\n"
        "assert '<img' in notebook.render(graph_of('unet'))\n"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"PATH": ""}, check=True)


def test_the_png_is_the_picture_at_twice_its_size_on_white() -> None:
    graph = graph_of("article_cnn")
    made = png.render(Analysis(graph))
    assert made[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, bits, colour = struct.unpack(">IIBB", made[16:26])
    root = elements(graph)
    assert width == pytest.approx(2 * float(root.get("width", "")), abs=4)
    assert height == pytest.approx(2 * float(root.get("height", "")), abs=4)
    pixels, at = b"", 8
    while at < len(made):
        (length,) = struct.unpack(">I", made[at : at + 4])
        if made[at + 4 : at + 8] == b"IDAT":
            pixels += made[at + 8 : at + 8 + length]
        at += 12 + length
    assert bits == 8
    samples = 4 if colour == 6 else 3
    # The first pixel stands unchanged after the row's filter byte, whichever the filter is.
    assert zlib.decompress(pixels)[1 : 1 + samples] == b"\xff" * samples


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


def opened(browser: Browser, graph: ModelGraph, tmp_path: Path, scheme: str = "") -> Page:
    path = tmp_path / "graph.svg"
    path.write_bytes(svg.render(Analysis(graph)))
    page = browser.new_page(color_scheme=scheme) if scheme else new_tab(browser)  # type: ignore[arg-type]
    page.goto(path.as_uri())
    return page


_OUTSIDE = """() => {
  const found = [];
  const inside = (t, r) => t.x >= r.x - 0.5 && t.y >= r.y - 0.5 &&
    t.x + t.width <= r.x + r.width + 0.5 && t.y + t.height <= r.y + r.height + 0.5;
  // The words of a frame that goes on in another column stand on a ground of their own there.
  const ground = t => {
    let before = t.previousElementSibling;
    while (before.tagName !== 'rect') before = before.previousElementSibling;
    return before;
  };
  for (const group of document.querySelectorAll('g.box, g.heading')) {
    const elements = [...group.querySelectorAll('text')];
    const texts = elements.map(t => [t.textContent, t.getBBox(), ground(t)]);
    for (const [words, box, on] of texts) {
      if (box.width === 0) found.push('nothing is shown of ' + words);
      const middle = {x: box.x, width: box.width, y: box.y + box.height / 4,
                      height: box.height / 2};
      if (!inside(middle, on.getBBox())) found.push(words + ' leaves its box');
    }
    for (let i = 1; i < texts.length; i++)
      if (texts[i][2] === texts[i - 1][2] && texts[i][1].y + texts[i][1].height / 4 <
          texts[i - 1][1].y + texts[i - 1][1].height * 3 / 4)
        found.push(texts[i][0] + ' lies on the line above it');
  }
  return found;
}"""


_TEXTS_ON_TEXTS = """() => {
  const places = [...document.querySelectorAll('text')].map(text => {
    const box = text.getBBox();  // its height is that of the line, with room above and below
    return [text.textContent, box.x, box.y + box.height / 4,
            box.x + box.width, box.y + box.height * 3 / 4];
  });
  const found = [];
  for (let i = 0; i < places.length; i++)
    for (let k = 0; k < i; k++) {
      const [a, b] = [places[i], places[k]];
      if (a[1] < b[3] && b[1] < a[3] && a[2] < b[4] && b[2] < a[4])
        found.push(a[0] + ' lies on ' + b[0]);
    }
  return found;
}"""


@pytest.mark.parametrize("name", GRAPHS)
def test_in_a_browser_no_text_lies_on_another(name: str, browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, GRAPHS[name](), tmp_path)
    assert page.evaluate("document.querySelectorAll('text').length") > 5
    assert page.evaluate(_TEXTS_ON_TEXTS) == []
    page.close()


@pytest.mark.parametrize("name", GRAPHS)
def test_in_a_browser_all_text_fits_its_box(name: str, browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, GRAPHS[name](), tmp_path)
    assert page.evaluate(_OUTSIDE) == []
    page.close()


_CONTRASTS = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = parts(colour).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const page = getComputedStyle(document.querySelector('rect.page')).fill;
  const found = [];
  for (const text of document.querySelectorAll('text')) {
    const rect = text.closest('g')?.querySelector('rect');
    let ground = rect ? getComputedStyle(rect).fill : page;
    if (ground === 'none') ground = page;
    const [a, b] = [light(getComputedStyle(text).fill), light(ground)];
    found.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return [page, Math.min(...found)];
}"""


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", None)])
def test_text_is_legible_on_light_and_on_dark_ground(
    scheme: str, ground: str | None, browser: Browser, tmp_path: Path
) -> None:
    page = opened(browser, graph_of("bert"), tmp_path, scheme)
    colour, contrast = page.evaluate(_CONTRASTS)
    page.close()
    assert (colour == "rgb(255, 255, 255)") == (ground is not None)
    assert contrast >= 4.5  # what WCAG 2.2 asks of body text


def test_a_block_stack_deeper_than_the_page_is_still_one_picture() -> None:
    graph = recorded(Stack(*(mlp(4 + n % 3) for n in range(90))), torch.zeros(2, 8))
    root = elements(graph)
    assert len(rectangles(root, "box")) + len(rectangles(root, "group")) <= 60
