"""What the interactive page shows, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.health import StepHealth, WeightHealth
from modelviz_callbacks.analysis.measured import Limit, MeasuredCosts
from modelviz_callbacks.writers import html
from tests.browser import open_browser
from tests.networks import NETWORKS, Stack, backward_graph, graph_of, recorded
from tests.writers.page_visit import Visit, ready, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>&\"'@@DATA@@"
LAYER = "bert/encoder/layer/0_BertLayer"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


@pytest.fixture
def bert(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    visit = Visit(browser, graph_of("bert"), tmp_path)
    yield visit
    assert visit.errors == []
    assert len(visit.requests) == 1  # the page itself
    visit.page.close()


@pytest.mark.alike
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_at_first_the_whole_is_in_sight_and_its_texts_can_be_read(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    visit = Visit(browser, graph_of(name), tmp_path)
    stage = visit.page.locator("#stage").bounding_box()
    assert stage is not None
    for box in visit.page.locator("rect.body").all():
        place = box.bounding_box()
        assert place is not None
        assert place["x"] >= stage["x"]
        assert place["x"] + place["width"] <= stage["x"] + stage["width"]
        assert place["y"] >= stage["y"]
        assert place["y"] + place["height"] <= stage["y"] + stage["height"]
    heights = visit.page.evaluate(
        "[...document.querySelectorAll('#picture text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(heights) > 7
    assert len(visit.names()) > 4
    assert visit.errors == []
    visit.page.close()


def test_repeats_are_one_box_whose_inside_is_that_of_the_first(bert: Visit) -> None:
    bert.box(LAYER).locator("text").first.wait_for()
    assert "BertLayer ×12" in bert.box(LAYER).text_content()  # type: ignore[operator]
    bert.box(LAYER).locator(".sign").click()
    bert.box(LAYER).locator(".sign").click()
    assert f"{LAYER}/attention" in bert.names()
    assert not any("layer/1_BertLayer" in name for name in bert.names())


def test_repeats_can_be_unrolled_and_rolled_up_again(bert: Visit) -> None:
    bert.page.evaluate("modelviz.level(2)")
    bert.page.evaluate("modelviz.level(3)")
    bert.box(LAYER).click(position={"x": 60, "y": 12})
    bert.page.locator("#unroll").click()
    layers = [name for name in bert.names() if name.endswith("_BertLayer")]
    assert len(layers) == 12
    bert.box(layers[7]).click(position={"x": 60, "y": 12})
    bert.page.locator("#roll").click()
    assert sum(name.endswith("_BertLayer") for name in bert.names()) == 1


def test_the_panel_tells_class_path_arguments_source_and_tensors(bert: Visit) -> None:
    name = f"{LAYER}/attention/self/scaled_dot_product_attention"
    bert.search("scaled_dot_product_attention layer/0_")
    bert.page.keyboard.press("Enter")
    node = graph_of("bert").by_name[name]
    panel = bert.details()
    assert str(node.source) in panel
    assert "2×4×8×8 float32" in panel
    assert all(argument.name in panel for argument in node.arguments)
    bert.search("attention.self.query layer.0")
    bert.page.keyboard.press("Enter")
    assert "weight" in bert.details()
    assert "32×32" in bert.details()


def test_the_tensors_in_the_panel_lead_to_who_made_and_who_uses_them(bert: Visit) -> None:
    bert.search("bert.pooler.dense")
    bert.page.keyboard.press("Enter")
    bert.page.locator("#details section").filter(has_text="Outputs").locator(".link").first.click()
    assert "Made by" in bert.details()
    assert "Used by 1 op" in bert.details()
    bert.page.locator("#details section").filter(has_text="Used by").locator(".link").click()
    assert "tanh" in bert.details()


def test_bookkeeping_is_shown_when_it_is_asked_for(bert: Visit) -> None:
    assert not any("embeddings/" in name and "expand" in name for name in bert.names())
    bert.page.evaluate("modelviz.level(Infinity)")
    before = len(bert.names())
    bert.page.locator("#more").click()
    bert.page.locator("#bookkeepingbox").check()
    bert.page.evaluate("modelviz.level(Infinity)")
    assert len(bert.names()) > before


_FILLS = """() => Object.fromEntries([...document.querySelectorAll('.box')].map(
  g => [g.dataset.name, getComputedStyle(g.querySelector('rect.body')).fill]))"""


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
    assert "576" in visit.page.locator("#legend").inner_text()
    visit.page.select_option("#colour", "training")
    fills = visit.page.evaluate(_FILLS)
    assert fills[same] == fills[small] != fills[large]
    assert "frozen" in visit.page.locator("#legend").inner_text()
    visit.page.select_option("#colour", "dtype")
    assert "float32" in visit.page.locator("#legend").inner_text()
    visit.page.select_option("#colour", "flops")
    fills = visit.page.evaluate(_FILLS)
    assert fills[large] == fills[same] == fills[small] != fills[none]
    assert "900 FLOP" in visit.page.locator("#legend").inner_text()
    assert visit.errors == []


def test_the_colours_of_a_legend_differ_for_the_colour_blind(
    browser: Browser, tmp_path: Path
) -> None:
    model = Stack(nn.Linear(8, 8), nn.Linear(8, 8))
    model.blocks[0].requires_grad_(False)
    visit = Visit(browser, recorded(model, torch.zeros(2, 8)), tmp_path)
    visit.page.select_option("#colour", "training")
    colours = visit.page.evaluate(
        "[...document.querySelectorAll('#legend i')].map(i => getComputedStyle(i).backgroundColor)"
    )
    one, two = ([int(part) for part in c[4:-1].split(",")] for c in colours)
    # What red-green blindness leaves: luminance, and blue against yellow.
    luminance = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b in (one, two)]
    blue = [b - (r + g) / 2 for r, g, b in (one, two)]
    assert abs(luminance[0] - luminance[1]) + abs(blue[0] - blue[1]) > 60


def options(visit: Visit) -> list[str]:
    return visit.page.locator("#colour option").all_inner_texts()[1:]


def test_boxes_are_coloured_by_what_a_step_was_like_where_one_was_looked_into(
    browser: Browser, tmp_path: Path
) -> None:
    graph = recorded(Stack(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)), torch.zeros(2, 8))
    names = ["blocks/0_Linear", "blocks/1_ReLU", "blocks/2_Linear"]
    health = StepHealth(
        4,
        {names[0]: (0, 128), names[1]: (96, 128)},
        {
            "blocks.0.weight": WeightHealth(9.0, 0.04, 4.0),
            "blocks.0.bias": WeightHealth(16.0, 0.0, 0.0),
            "blocks.2.weight": WeightHealth(float("inf"), 0.0001, 1.0),
        },
    )
    visit = Visit(browser, graph, tmp_path, health=health)
    for colour, number, told in (
        ("gradient", 0, "gradient norm, step 4"),
        ("zeros", 1, "share of zeros, step 4"),
        ("update", 2, "update ratio, step 4"),
    ):
        visit.page.select_option("#colour", colour)
        fills = visit.page.evaluate(_FILLS)
        assert len({fills[name] for name in names}) == (3 if colour == "update" else 2)
        assert told in visit.page.locator("#legend").inner_text()
        visit.box(names[number]).click()
        rows = ("gradient norm5", "zeros in its output75 %", "gradient normnot finite")
        assert rows[number] in "".join(visit.details().split("\n")).replace("\t", "")
    assert "update ratio0.01" in "".join(visit.details().split("\n")).replace("\t", "")
    assert visit.errors == []


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
    assert "4 ms" in visit.page.locator("#legend").inner_text()
    visit.box("blocks/0_Linear").click()
    assert "4 ms" in visit.details()
    assert visit.errors == []


def test_what_the_backward_and_the_optimizer_cost_is_a_colour_and_stands_in_the_panel(
    browser: Browser, tmp_path: Path
) -> None:
    layers = (nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))
    graph = recorded(Stack(*layers), torch.zeros(2, 8))
    first = "blocks/0_Linear"
    measured = MeasuredCosts(
        {f"{first}/linear": 4000.0},
        {f"{first}/linear": 7000.0},
        {"blocks/2_Linear": (300.0, 500.0)},
        {f"{first}/linear": Limit("memory", 0.41)},
        {"blocks.0.weight": 4096},
    )
    page = html.render(Analysis(graph).with_measured(measured))
    visit = Visit(browser, page, tmp_path)
    wanted = {"kept memory", "optimizer state", "time", "backward time"}
    assert wanted <= set(options(visit))
    visit.page.select_option("#colour", "backward")
    fills = visit.page.evaluate(_FILLS)
    assert len({fills[name] for name in (first, "blocks/1_ReLU", "blocks/2_Linear")}) == 3
    assert "7 ms" in visit.page.locator("#legend").inner_text()
    visit.box(first).click()
    said = visit.details().replace("\t", " ").replace("\n", " ")
    for text in ("their gradients", "optimizer state", "7 ms", "memory-bound, 41 % of peak"):
        assert text.replace(" %", "%") in said
    visit.box("blocks/2_Linear").click()
    assert "300 µs" in visit.details()
    assert visit.errors == []


def test_the_sums_of_repeats_are_those_of_them_all(browser: Browser, tmp_path: Path) -> None:
    graph = recorded(Stack(*(nn.Sequential(nn.Linear(8, 8)) for _ in range(4))), torch.ones(1, 8))
    times = {node.name: 10.0 * n for n, node in enumerate(graph.ops)}
    visit = Visit(browser, graph, tmp_path, times_us=times)
    visit.page.locator(".box").filter(has_text="×4").first.click(position={"x": 60, "y": 12})
    assert "60 µs" in visit.details()
    assert "288" in visit.details()


def test_a_colour_of_which_nothing_is_known_is_not_offered(
    browser: Browser, tmp_path: Path
) -> None:
    model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.zeros(2, 8)
    forward = Visit(browser, recorded(model, x), tmp_path)
    colours = ["parameters", "FLOPs", "bytes made", "kept memory", "dtype", "trainable"]
    assert options(forward) == colours
    backward = Visit(browser, backward_graph(model, x), tmp_path)
    assert "FLOPs" not in options(backward)
    assert "time" not in options(backward)


def test_the_page_of_a_backward_leads_to_the_gradients_of_parameters(
    browser: Browser, tmp_path: Path
) -> None:
    model = NETWORKS["article_cnn"]()
    visit = Visit(browser, backward_graph(model[0], *model[1]), tmp_path)
    visit.search("cnn.3.weight")
    visit.page.keyboard.press("Enter")
    assert "cnn.3.weight" in visit.details()
    assert "64×32×3×3" in visit.details()
    assert visit.errors == []


def test_only_skips_that_rejoin_are_orange(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, graph_of("unet"), tmp_path)
    skips = visit.page.evaluate(
        "modelviz.scene.wires.filter(wire => wire.skip).map(wire => wire.to)"
    )
    assert skips == ["cat", "cat_1", "cat_2"]
    visit = Visit(browser, graph_of("article_cnn"), tmp_path)
    assert visit.page.locator(".wire.skip").count() == 0


def test_hostile_names_do_no_harm(browser: Browser, tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module(HOSTILE.replace(".", ""), nn.TransformerEncoderLayer(4, 2, 8))
    graph = replace(recorded(model, torch.zeros(2, 1, 4)), name=f"@@STYLE@@{HOSTILE}")
    visit = Visit(browser, graph, tmp_path)
    assert visit.page.title() == f"@@STYLE@@{HOSTILE}"
    assert visit.page.locator("#path").inner_text() == f"@@STYLE@@{HOSTILE}"
    visit.page.evaluate("modelviz.level(Infinity)")
    for name in visit.names():
        visit.page.evaluate("name => modelviz.choose(name)", name)
    visit.search("script")
    assert visit.page.evaluate("window.hurt") is None
    assert visit.page.locator("img").count() == 0
    assert visit.errors == []
    assert len(visit.requests) == 1


def test_the_policy_lets_no_other_script_or_style_run(browser: Browser, tmp_path: Path) -> None:
    page = html.render(Analysis(graph_of("article_cnn")))
    added = b"<script>window.hurt=1</script><style>body{color:rgb(1,2,3)}</style>"
    added += b"<img src='x' onerror='window.hurt=2'></body>"
    visit = Visit(browser, page.replace(b"</body>", added), tmp_path)
    assert visit.page.evaluate("window.hurt") is None
    assert visit.page.evaluate("getComputedStyle(document.body).color") != "rgb(1, 2, 3)"
    assert any("Content Security Policy" in error for error in visit.errors)


def in_frame(browser: Browser, data: bytes, **size: int) -> tuple[Any, list[str]]:
    """The page in a sandboxed frame without an origin, as MLflow shows it."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    style = ";".join(f"{key}:{value}px" for key, value in size.items())
    page.set_content(f"<iframe sandbox='allow-scripts' style='{style}'></iframe>")
    page.evaluate(
        """text => { document.querySelector('iframe').src =
             URL.createObjectURL(new Blob([text], {type: 'text/html'})) }""",
        data.decode(),
    )
    page.wait_for_timeout(50)
    frame = page.frames[-1]
    ready(frame)
    return frame, errors


def test_it_works_in_a_sandboxed_frame_without_an_origin(browser: Browser) -> None:
    frame, errors = in_frame(
        browser, html.render(Analysis(graph_of("bert"))), width=1000, height=700
    )
    frame.locator(f'.box[data-name="{LAYER}"]').click(position={"x": 60, "y": 12})
    frame.locator("#focus").click()
    assert frame.locator("#path button").last.inner_text() == "layer.0–11"
    frame.evaluate("history.back()")
    until(frame, "() => document.querySelectorAll('#path button').length === 1")
    assert errors == []
    frame.page.close()


def test_in_a_narrow_frame_the_picture_comes_first(browser: Browser) -> None:
    frame, errors = in_frame(
        browser, html.render(Analysis(graph_of("article_cnn"))), width=560, height=480
    )
    assert frame.locator("#panel").is_hidden()
    stage = frame.locator("#stage").bounding_box()
    assert stage["height"] > 400
    frame.locator('.box[data-name="fc"]').click()
    assert frame.locator("#details h2").inner_text() == "Linear"
    assert frame.locator("#details").is_visible()
    assert errors == []
    frame.page.close()


def test_a_page_of_many_graphs_has_a_switch(browser: Browser, tmp_path: Path) -> None:
    data = html.render_pages(
        [
            html.PageGraph(Analysis(graph_of("article_cnn")), "first batch"),
            html.PageGraph(Analysis(graph_of("gan")), "evaluation"),
        ]
    )
    visit = Visit(browser, data, tmp_path)
    assert visit.page.locator("#graph option").all_inner_texts() == ["first batch", "evaluation"]
    visit.page.select_option("#graph", label="evaluation")
    assert visit.path() == ["Gan"]
    assert any(name.startswith("discriminator") for name in visit.names())
    visit.page.go_back()
    assert visit.path() == ["ArticleCnn"]
    assert visit.errors == []


def test_a_large_model_is_a_small_page(browser: Browser, tmp_path: Path) -> None:
    def page(layers: int) -> bytes:
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        return html.render(Analysis(recorded(model, torch.zeros(1, 3, 8))))

    assert len(page(48)) < 300_000
    assert len(html.render(Analysis(graph_of("bert")))) < 300_000


class Steps(nn.Module):
    """Each step reads what the one before made."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x[:, 0]
        for t in range(5):
            h = h + torch.tanh(self.inner(h)) * x[:, t]
        return h


@pytest.fixture
def steps(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    graph = recorded(Steps(), torch.zeros(2, 5, 4))
    source = graph.by_name["tanh"].source
    assert source is not None
    at = source.line
    lines = {at - 1: "    before", at: f"        {HOSTILE}", at + 9: "far"}
    visit = Visit(browser, html.render(Analysis(graph), code={source.file: lines}), tmp_path)
    yield visit
    assert visit.page.evaluate("window.hurt") is None
    assert visit.errors == []
    assert len(visit.requests) == 1
    visit.page.close()


def test_the_panel_shows_the_lines_around_an_op_as_texts(steps: Visit) -> None:
    steps.page.evaluate("modelviz.level(Infinity)")
    steps.box("tanh").click()
    assert steps.page.locator(".code code").all_inner_texts() == ["before", f"    {HOSTILE}"]
    assert steps.page.locator(".code .meant code").all_inner_texts() == [f"    {HOSTILE}"]
    steps.box("inner").click()
    assert HOSTILE in steps.page.locator(".code").inner_text()
    steps.box("x").click()
    assert steps.page.locator(".code").count() == 0


def test_what_a_step_of_a_loop_hands_to_the_next_one_is_an_edge_back(steps: Visit) -> None:
    steps.page.evaluate("modelviz.level(1)")
    assert steps.page.locator(".wire.carried").count() == 0
    assert steps.page.locator(".loop").count() == 1
    steps.page.evaluate("modelviz.level(Infinity)")
    steps.at_rest()
    ends = steps.page.evaluate(
        "modelviz.scene.wires.filter(one => one.carried).map(one => [one.from, one.to])"
    )
    assert sorted(ends) == [["add", "add"], ["add", "inner"]]
    assert steps.page.locator(".wire.carried").count() == 2
    assert steps.page.locator(".loop").count() == 0  # told inside


def test_the_memory_along_the_forward_is_a_curve_that_leads_to_its_ops(
    browser: Browser, tmp_path: Path
) -> None:
    graph = trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 500), nn.Tanh()), torch.ones(2, 4))
    visit = Visit(browser, graph.graph, tmp_path)
    page = visit.page
    curve = page.locator(".curve svg")
    label = curve.get_attribute("aria-label") or ""
    assert label.endswith("at most 7.88 KiB at 2_Tanh/tanh")  # 16 and twice 1000 floats
    # A step for each op: two low ones would be wrong, and so would be one of another height.
    path = page.locator(".curve .top").get_attribute("d") or ""
    assert [round(float(part.split("H")[0])) for part in path.split("V")[1:]] == [64, 33, 2]
    assert page.locator(".curve .chosen").count() == 0
    place = curve.bounding_box()
    assert place is not None
    curve.click(position={"x": place["width"] / 2, "y": 5})
    until(page, "document.querySelector('.curve .chosen') !== null")  # of the op in the middle
    assert (page.locator(".curve .chosen").get_attribute("x") or "")[:4] == "93.3"
    assert "at most 3.97 KiB of 7.88 KiB" in page.locator(".curve p").inner_text()
    assert page.locator(".curve .link").inner_text() == "1_Linear/linear"
    assert visit.errors == []
