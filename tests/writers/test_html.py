"""The interactive page, used in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.writers import html
from tests.browser import open_browser
from tests.networks import NETWORKS, Stack, backward_graph, graph_of, recorded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>&\"'@@DATA@@"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


class Visit:
    """A page opened in the browser, and what went wrong on it."""

    def __init__(
        self,
        browser: Browser,
        graph: ModelGraph,
        folder: Path,
        times_us: dict[str, float] | None = None,
        **options: object,
    ) -> None:
        path = folder / "index.html"
        path.write_bytes(html.render(Analysis(graph), times_us=times_us))
        self.page: Page = browser.new_page(**options)  # type: ignore[arg-type]
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def path(self) -> list[str]:
        return self.page.locator("#path button").all_inner_texts()

    def box(self, name: str) -> object:
        return self.page.locator("g.box, g.heading").and_(
            self.page.locator(f'[data-name="{name}"]')
        )

    def panel(self) -> str:
        return str(self.page.locator("#panel").inner_text())


@pytest.fixture
def bert(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    visit = Visit(browser, graph_of("bert"), tmp_path)
    yield visit
    assert visit.errors == []
    assert len(visit.requests) == 1  # the page itself
    visit.page.close()


LAYER = "bert/encoder/layer/0_BertLayer"


def test_one_looks_into_a_module_and_comes_back(bert: Visit) -> None:
    assert bert.path() == ["BertForSequenceClassification"]
    bert.box(LAYER).click()  # type: ignore[attr-defined]
    assert "BertLayer ×12" in bert.panel()
    bert.page.locator("#open").click()
    assert bert.path()[-2:] == ["encoder", "layer.0"]
    assert bert.page.locator("g.box").filter(has_text="hidden_states").count() == 1
    bert.page.go_back()
    assert bert.path() == ["BertForSequenceClassification"]
    bert.page.go_forward()
    assert bert.path()[-1] == "layer.0"
    bert.page.locator("#path button").first.click()
    assert bert.path() == ["BertForSequenceClassification"]


def test_the_keyboard_does_it_all(bert: Visit) -> None:
    bert.box(LAYER).focus()  # type: ignore[attr-defined]
    bert.page.keyboard.press("Enter")
    assert bert.path()[-1] == "layer.0"
    bert.page.keyboard.press("Backspace")
    assert bert.path()[-1] == "encoder"
    bert.page.keyboard.press("/")
    bert.page.keyboard.type("intermediate dense")
    bert.page.keyboard.press("Enter")
    assert f"{LAYER}/intermediate/dense" in bert.panel()


def test_search_finds_by_name_and_class_and_says_when_there_is_nothing(bert: Visit) -> None:
    bert.page.locator("#search").fill("pooler tanh")
    assert bert.page.locator("#found li").count() == 1
    bert.page.locator("#found li").click()
    assert "bert/pooler/activation" in bert.panel()
    assert bert.page.locator("g.chosen").count() == 1
    bert.page.locator("#search").fill("no such module")
    assert bert.page.locator("#found").inner_text() == "Nothing found"


def test_the_panel_tells_parameters_shapes_arguments_and_source(bert: Visit) -> None:
    name = f"{LAYER}/attention/self/scaled_dot_product_attention"
    bert.box(name).click()  # type: ignore[attr-defined]
    node = graph_of("bert").by_name[name]
    panel = bert.panel()
    assert str(node.source) in panel
    assert "2×4×8×8 float32" in panel
    assert all(argument.name in panel for argument in node.arguments)
    bert.box(f"{LAYER}/attention/self/query").click()  # type: ignore[attr-defined]
    assert "parameter weight" in bert.panel()
    assert "32×32 float32" in bert.panel()


_FILLS = """() => Object.fromEntries([...document.querySelectorAll('g.box')].map(
  g => [g.dataset.name, getComputedStyle(g.querySelector('rect')).fill]))"""


def test_boxes_are_coloured_by_parameters_flops_dtype_and_training(
    browser: Browser, tmp_path: Path
) -> None:
    model = Stack(nn.Linear(8, 64), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    model.blocks[0].requires_grad_(False)
    graph = recorded(model, torch.zeros(2, 8))
    nodes = (replace(node, flops={"linear": 900}.get(node.op)) for node in graph.nodes)
    visit = Visit(browser, replace(graph, nodes=tuple(nodes)), tmp_path)
    large, same, none, small = (
        f"blocks/{number}_{kind}"
        for number, kind in enumerate(["Linear", "Linear", "ReLU", "Linear"])
    )
    visit.page.select_option("#colour", "params")
    fills = visit.page.evaluate(_FILLS)
    assert len({fills[large], fills[small], fills[none]}) == 3
    visit.page.select_option("#colour", "training")
    fills = visit.page.evaluate(_FILLS)
    assert fills[same] == fills[small] != fills[large]
    assert "frozen" in visit.page.locator("#legend").inner_text()
    visit.page.select_option("#colour", "dtype")
    assert "float32" in visit.page.locator("#legend").inner_text()
    visit.page.select_option("#colour", "flops")
    fills = visit.page.evaluate(_FILLS)
    assert fills[large] == fills[same] == fills[small] != fills[none]
    assert visit.errors == []


def options(visit: Visit) -> list[str]:
    return visit.page.locator("#colour option").all_inner_texts()


def test_boxes_are_coloured_by_time_where_a_step_was_timed(
    browser: Browser, tmp_path: Path
) -> None:
    graph = recorded(Stack(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)), torch.zeros(2, 8))
    times = {"blocks/0_Linear/linear": 4000.0, "blocks/2_Linear/linear": 50.0}
    visit = Visit(browser, graph, tmp_path, times_us=times)
    visit.page.select_option("#colour", "time")
    fills = visit.page.evaluate(_FILLS)
    names = ["blocks/0_Linear", "blocks/1_ReLU", "blocks/2_Linear"]
    assert len({fills[name] for name in names}) == 3
    assert "4,000 µs" in visit.page.locator("#legend").inner_text()
    visit.box("blocks/0_Linear").click()  # type: ignore[attr-defined]
    assert "4 ms" in visit.panel()
    assert visit.errors == []


def test_the_time_of_repeats_is_that_of_the_mean(browser: Browser, tmp_path: Path) -> None:
    graph = recorded(Stack(*(nn.Sequential(nn.Linear(8, 8)) for _ in range(4))), torch.ones(1, 8))
    times = {node.name: 10.0 * n for n, node in enumerate(graph.ops)}
    visit = Visit(browser, graph, tmp_path, times_us=times)
    visit.page.locator("g.heading, g.box").filter(has_text="×4").first.click()
    assert "15 µs" in visit.panel()


def test_a_colour_of_which_nothing_is_known_is_not_offered(
    browser: Browser, tmp_path: Path
) -> None:
    model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.zeros(2, 8)
    forward = Visit(browser, recorded(model, x), tmp_path)
    assert options(forward) == ["kind", "parameters", "FLOPs", "dtype", "trainable"]
    backward = Visit(browser, backward_graph(model, x), tmp_path)
    assert options(backward) == ["kind", "parameters", "dtype", "trainable"]


def test_the_page_of_a_backward_leads_to_the_gradients_of_parameters(
    browser: Browser, tmp_path: Path
) -> None:
    model = NETWORKS["article_cnn"]()
    visit = Visit(browser, backward_graph(model[0], *model[1]), tmp_path)
    visit.box("cnn/3_Conv2d").dblclick()  # type: ignore[attr-defined]
    assert visit.path()[-1] == "3"
    visit.box("cnn/3_Conv2d/weight").click()  # type: ignore[attr-defined]
    assert "cnn.3.weight" in visit.panel()
    assert "64×32×3×3" in visit.panel()
    assert visit.errors == []


def test_hostile_names_do_no_harm(browser: Browser, tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module(HOSTILE.replace(".", ""), nn.TransformerEncoderLayer(4, 2, 8))
    graph = replace(recorded(model, torch.zeros(2, 1, 4)), name=f"@@STYLE@@{HOSTILE}")
    visit = Visit(browser, graph, tmp_path)
    assert visit.page.title() == f"@@STYLE@@{HOSTILE}"
    assert visit.page.locator("#path").inner_text() == f"@@STYLE@@{HOSTILE}"
    for box in visit.page.locator("g.box").all():
        box.click()
    visit.page.locator("#search").fill("script")
    assert visit.page.evaluate("window.hurt") is None
    assert visit.page.locator("img").count() == 0
    assert visit.errors == []
    assert len(visit.requests) == 1


def test_it_works_in_a_sandboxed_frame_without_an_origin(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content("<iframe sandbox='allow-scripts' style='width:1000px;height:700px'></iframe>")
    page.evaluate(
        """text => { document.querySelector('iframe').src =
             URL.createObjectURL(new Blob([text], {type: 'text/html'})) }""",
        html.render(Analysis(graph_of("bert"))).decode(),
    )
    frame = page.frame_locator("iframe")
    frame.locator(f'g.heading[data-name="{LAYER}"]').click()
    frame.locator("#open").click()
    assert frame.locator("#path button").last.inner_text() == "layer.0"
    frame.locator("#path button").first.click()
    assert frame.locator("#path button").count() == 1
    assert errors == []
    page.close()


def test_nothing_is_wider_than_a_phone(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(
        browser, graph_of("article_cnn"), tmp_path, viewport={"width": 390, "height": 800}
    )
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.box("fc").click()  # type: ignore[attr-defined]
    assert "2,570" in visit.panel()


def test_every_module_with_an_inside_can_be_reached(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, graph_of("gan"), tmp_path)
    views = visit.page.evaluate(
        "Object.entries(JSON.parse(document.getElementById('data').textContent).views)"
        ".map(([name, view]) => [name, view.parent,"
        " Object.values(view.boxes).map(box => box.open).filter(Boolean)])"
    )
    opened = {target for _, _, targets in views for target in targets}
    assert opened == {name for name, parent, _ in views if parent is not None}
    assert opened == {"generator", "discriminator", "discriminator_1"}


def test_repeats_are_in_the_page_once() -> None:
    def page(layers: int) -> bytes:
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return html.render(
            Analysis(recorded(nn.TransformerEncoder(block, layers), torch.zeros(1, 3, 8)))
        )

    assert len(page(24)) < 1.01 * len(page(12))
