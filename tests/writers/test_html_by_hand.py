"""What a person does on the interactive page: mouse, fingers, keys, links and history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.graph.model import ModelGraph
from tests.browser import open_browser
from tests.networks import graph_of, recorded
from tests.samples import one_and_the_rest_slow
from tests.writers.page_visit import Visit, ready

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LAYER = "bert/encoder/layer/0_BertLayer"


@pytest.fixture(scope="module", params=one_and_the_rest_slow(["chromium", "firefox"]))
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with open_browser(request.param) as started:
        yield started


@pytest.fixture
def cnn(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    visit = Visit(browser, graph_of("article_cnn"), tmp_path)
    yield visit
    assert visit.errors == []
    visit.page.close()


@pytest.fixture
def bert(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    visit = Visit(browser, graph_of("bert"), tmp_path)
    yield visit
    assert visit.errors == []
    assert set(visit.requests) <= {visit.url}
    visit.page.close()


# --- moving


def test_a_drag_moves_the_picture_as_far_as_the_pointer(cnn: Visit) -> None:
    before = cnn.corner("fc")
    x, y = cnn.middle("cnn")
    cnn.page.mouse.move(x, y)
    cnn.page.mouse.down()
    cnn.page.mouse.move(x + 80, y + 40, steps=4)
    cnn.page.mouse.up()
    after = cnn.corner("fc")
    assert after == pytest.approx((before[0] + 80, before[1] + 40), abs=1)
    assert cnn.page.locator(".chosen").count() == 0  # a drag is no click


def test_the_wheel_zooms_at_the_pointer(cnn: Visit) -> None:
    point = cnn.middle("fc")
    before = cnn.view()["k"]
    cnn.page.mouse.move(*point)
    cnn.page.mouse.wheel(0, -300)
    cnn.until("k => modelviz.camera.view.k > k", before * 1.2)
    assert cnn.middle("fc") == pytest.approx(point, abs=1.5)
    cnn.page.mouse.wheel(0, 600)
    cnn.until("k => modelviz.camera.view.k < k", before)
    assert cnn.middle("fc") == pytest.approx(point, abs=1.5)


def test_a_double_click_beside_boxes_zooms_in(cnn: Visit) -> None:
    before = cnn.view()["k"]
    cnn.double_click(20, 200)
    cnn.until("k => modelviz.camera.view.k > k", before * 1.9)


def test_the_map_shows_where_one_is_and_leads_elsewhere(cnn: Visit) -> None:
    assert cnn.page.locator("#minimap").is_hidden()  # all is in sight
    cnn.page.locator("#zoomin").click()
    cnn.page.locator("#zoomin").click()
    cnn.at_rest()
    before = cnn.view()
    cnn.page.locator("#minimap").click(position={"x": 20, "y": 20})
    after = cnn.view()
    assert after["x"] > before["x"]
    assert after["y"] > before["y"]
    cnn.page.locator("#fit").click()
    cnn.at_rest()
    assert cnn.page.locator("#minimap").is_hidden()


# --- opening


def test_a_double_click_opens_a_box_in_place_and_closes_it_again(bert: Visit) -> None:
    name = f"{LAYER}/attention/self"
    bert.search("BertSelfAttention layer/0_")
    bert.page.keyboard.press("Enter")
    bert.at_rest()
    before = bert.corner(name)
    view = bert.view()
    bert.double_click(*bert.middle(name))
    bert.page.locator(f'.box[data-name="{name}/query"]').wait_for()
    assert bert.corner(name) == pytest.approx(before, abs=1)
    assert bert.view() == view  # neither the scale nor the place
    bert.double_click(before[0] + 120, before[1] + 10)
    bert.page.locator(f'.box[data-name="{name}/query"]').wait_for(state="detached")
    assert bert.corner(name) == pytest.approx(before, abs=1)


def test_the_sign_opens_and_closes_a_box_without_the_pointer_moving(bert: Visit) -> None:
    name = "bert/embeddings"
    sign = bert.box(name).locator(".sign .plate").bounding_box()
    assert sign is not None
    bert.page.mouse.move(sign["x"] + 5, sign["y"] + 5)
    for state in ("true", "false", "true"):
        bert.page.mouse.click(sign["x"] + 5, sign["y"] + 5)
        bert.at_rest()
        assert bert.box(name).get_attribute("aria-expanded") == state


def test_levels_open_all_boxes_so_deep(bert: Visit) -> None:
    levels = bert.page.locator("#levels button")
    levels.nth(0).click()
    assert set(bert.names()) == {"input_ids", "bert", "dropout", "classifier", "out.logits"}
    levels.nth(1).click()
    assert "bert/encoder" in bert.names()
    assert LAYER not in bert.names()
    levels.nth(2).click()
    assert LAYER in bert.names()
    levels.nth(3).click()
    assert f"{LAYER}/attention/self/query" in bert.names()
    bert.page.keyboard.press("x")
    assert "bert/encoder" not in bert.names()


def test_one_looks_into_a_module_and_comes_back(bert: Visit) -> None:
    assert bert.path() == ["BertForSequenceClassification"]
    bert.box(LAYER).click(position={"x": 60, "y": 12})
    assert "BertLayer ×12" in bert.details()
    bert.page.locator("#focus").click()
    assert bert.path() == ["BertForSequenceClassification", "bert", "encoder", "layer.0–11"]
    assert bert.page.locator(".box.input").filter(has_text="hidden_states").count() == 1
    bert.page.go_back()
    assert bert.path() == ["BertForSequenceClassification"]
    bert.page.go_forward()
    bert.until("() => document.querySelector('#path').innerText.endsWith('layer.0–11')")
    bert.page.locator("#path button").first.click()
    assert bert.path() == ["BertForSequenceClassification"]


# --- edges


def test_an_edge_under_the_pointer_lights_its_tensor_and_names_it(cnn: Visit) -> None:
    x = cnn.middle("fc")[0]
    top = cnn.corner("fc")[1]
    cnn.page.mouse.move(x, top - 12)
    cnn.page.locator(".wire.lit").first.wait_for(state="attached")
    assert cnn.page.locator("#tip").inner_text() == "cat · 64×256 float32"
    lit = cnn.page.evaluate("[...document.querySelectorAll('.box.lit')].map(b => b.dataset.name)")
    assert sorted(lit) == ["cat", "fc"]
    cnn.page.mouse.move(5, 300)
    assert cnn.page.locator(".wire.lit").count() == 0
    cnn.page.mouse.click(x, top - 12)
    cnn.page.mouse.move(5, 300)
    assert cnn.page.locator(".wire.lit").count() == 1  # pinned
    assert "64×256" in cnn.details()
    assert "Tensor" in cnn.details()


def test_a_box_under_the_pointer_tells_its_shape(cnn: Visit) -> None:
    cnn.page.mouse.move(*cnn.middle("cnn/0_Conv2d"))
    tip = cnn.page.locator("#tip").inner_text()
    assert "Conv2d" in tip
    assert "64×32×28×28" in tip


# --- finding


def test_search_finds_names_classes_ops_shapes_and_source_lines(bert: Visit) -> None:
    assert any("bert.pooler.activation" in hit for hit in bert.search("pooler tanh"))
    assert any("BertIntermediate" in hit for hit in bert.search("bertintermediate"))
    assert any("2×4×8×8" in hit for hit in bert.search("4×8×8"))
    line = str(graph_of("bert").by_name[f"{LAYER}/attention/output/add"].source)
    assert any("add" in hit for hit in bert.search(line))
    assert bert.search("no such module") == ["Nothing found"]


def test_a_result_is_shown_wherever_it_is(bert: Visit) -> None:
    hits = bert.search("layer.7 attention.self value")
    assert "bert.encoder.layer.7.attention.self.value" in hits[0]
    bert.page.locator("#found li").first.click()
    name = bert.page.locator(".box.chosen").get_attribute("data-name")
    assert name == "bert/encoder/layer/7_BertLayer/attention/self/value"
    bert.at_rest()
    x, y = bert.middle(name)
    assert 0 < x < 1070
    assert 40 < y < 900


def test_the_tree_of_modules_follows_and_leads(bert: Visit) -> None:
    bert.search("bert.pooler.dense")
    bert.page.keyboard.press("Enter")
    chosen = bert.page.locator("#modules [aria-selected=true] > .row")
    assert chosen.inner_text().split() == ["dense", "Linear", "1,056"]
    first = bert.page.locator("#modules [role=treeitem]").first
    first.locator(".row").first.click()
    assert bert.page.locator(".box.chosen").get_attribute("data-name") == "bert"


def test_a_screen_reader_can_walk_the_tree(bert: Visit) -> None:
    bert.page.locator("#modules [role=treeitem]").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        bert.page.keyboard.press(key)
    focused = bert.page.evaluate(
        "[document.activeElement.getAttribute('role'),"
        " document.activeElement.getAttribute('aria-level')]"
    )
    assert focused[0] == "treeitem"
    assert int(focused[1]) > 1
    bert.page.keyboard.press("Enter")
    assert bert.page.locator(".box.chosen").count() == 1


# --- keys


def test_the_keyboard_does_it_all(bert: Visit) -> None:
    press = bert.page.keyboard.press
    press("x")
    press("ArrowDown")
    press("ArrowDown")
    assert bert.page.evaluate("modelviz.chosen") == "bert"
    press("Enter")
    assert bert.box("bert").get_attribute("aria-expanded") == "true"
    press("ArrowDown")
    assert bert.page.evaluate("modelviz.chosen") == "bert/embeddings"
    press("ArrowDown")
    assert bert.page.evaluate("modelviz.chosen") == "bert/encoder"
    press("f")
    assert bert.path()[-1] == "encoder"
    press("Backspace")
    assert bert.path()[-1] == "bert"
    press("/")
    bert.page.keyboard.type("intermediate dense")
    press("Enter")
    assert "intermediate.dense" in bert.details()
    press("Escape")
    assert bert.page.evaluate("modelviz.chosen") == ""
    before = bert.view()["k"]
    press("+")
    assert bert.view()["k"] > before
    press("?")
    assert bert.page.locator("#keys").is_visible()
    press("Escape")
    assert bert.page.locator("#keys").is_hidden()


# --- places


def test_back_forward_and_reload_keep_the_place(bert: Visit) -> None:
    bert.box("bert/embeddings").click(position={"x": 60, "y": 20})
    bert.page.mouse.move(400, 400)
    bert.page.mouse.wheel(0, -200)
    bert.at_rest()
    place = bert.view()
    bert.page.locator("#focus").click()
    assert bert.path()[-1] == "embeddings"
    bert.page.go_back()
    assert bert.view() == pytest.approx(place, abs=0.5)
    assert bert.page.evaluate("modelviz.chosen") == "bert/embeddings"
    bert.page.go_forward()
    bert.until("() => document.querySelector('#path').innerText.endsWith('embeddings')")
    bert.page.reload()
    ready(bert.page)
    assert bert.path()[-1] == "embeddings"


def test_a_link_leads_to_the_same_place_in_another_window(browser: Browser, tmp_path: Path) -> None:
    one = Visit(browser, graph_of("bert"), tmp_path)
    one.search("layer.7 attention.self value")
    one.page.keyboard.press("Enter")
    one.at_rest()
    one.until("() => location.hash.includes('v=')")
    one.page.wait_for_timeout(400)  # the address is written a moment after the last movement
    link = one.page.evaluate("location.hash")
    two = Visit(browser, graph_of("bert"), tmp_path)
    two.page.close()
    two = Visit(browser, graph_of("bert"), tmp_path)
    two.page.goto("about:blank")
    two.open(link)
    assert two.page.evaluate("modelviz.chosen") == one.page.evaluate("modelviz.chosen")
    assert two.view() == pytest.approx(one.view(), abs=1)
    assert two.errors == []


def test_somebody_elses_address_does_no_harm(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, graph_of("article_cnn"), tmp_path)
    for hash_ in ("#o=%E0%A4%A&v=1,2", "#g=99&f=nothing&s=constructor&t=99999", "#v=NaN,0,-1"):
        visit.page.goto("about:blank")
        visit.open(hash_)
        assert len(visit.names()) > 4
    assert visit.errors == []


# --- large graphs


class Chain(torch.nn.Module):
    """Many different ops in one forward."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops = [torch.tanh, torch.relu, torch.sin, torch.cos, torch.sigmoid]
        for number in range(self.count):
            x = ops[(number * number + number // 3) % 5](x)
        return x


@pytest.fixture(scope="module")
def long_graph() -> ModelGraph:
    return recorded(Chain(3000), torch.zeros(2))


def test_every_op_of_a_long_flat_graph_can_be_reached(
    browser: Browser, tmp_path: Path, long_graph: ModelGraph
) -> None:
    visit = Visit(browser, long_graph, tmp_path)
    assert len(visit.names()) < 70
    for node in (long_graph.ops[0], long_graph.ops[1500], long_graph.ops[-1]):
        visit.page.evaluate("name => modelviz.go(modelviz.graph.find(name))", node.name)
        assert visit.page.evaluate("modelviz.chosen") == node.name
        assert visit.box(node.name).count() == 1
    ops = visit.page.evaluate(
        """() => { const { tree } = modelviz, found = new Set();
             const visit = box => { const inside = tree.childrenOf(box);
               if (!inside.length) box.items.forEach(item => found.add(item));
               inside.forEach(visit) };
             visit(tree.root); return found.size }"""
    )
    assert ops == len(long_graph.ops) + 2  # and the input and the output
    assert visit.errors == []


class Encoder(nn.Module):
    """Modules whose op has parameters beside what goes in, one of them with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU())
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Bilinear(16, 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(self.stem(x))
        return self.head(hidden, hidden.relu())


def test_no_edge_runs_behind_a_box_when_modules_are_opened(
    browser: Browser, tmp_path: Path
) -> None:
    visit = Visit(browser, trace(Encoder(), torch.randn(2, 5, 8)).graph, tmp_path)
    visit.page.evaluate("modelviz.level(Infinity)")
    visit.at_rest()
    for name in ("stem/0_Linear", "stem/1_LayerNorm", "head"):
        visit.double_click(*visit.middle(name))
        visit.at_rest()
    assert visit.box("head/bilinear").count() == 1
    behind = visit.page.evaluate(
        """() => {
          const boxes = modelviz.scene.shapes.filter(one => !one.open);
          const lines = [...document.querySelectorAll('.wire .line')];
          return lines.flatMap(line => {
            const points = Array.from({length: Math.floor(line.getTotalLength() / 3)},
              (_, at) => line.getPointAtLength(3 * at));
            const isIn = (box, {x, y}) => box.x + 3 < x && x < box.x + box.w - 3 &&
              box.y + 3 < y && y < box.y + box.h - 3;
            return boxes.filter(box => points.some(one => isIn(box, one))).map(box => box.id);
          });
        }"""
    )
    assert behind == []
