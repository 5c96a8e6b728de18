"""What Firefox cannot be made to do from outside: fingers, a phone, a dark screen, saved files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from tests.browser import open_browser
from tests.networks import graph_of
from tests.writers.page_visit import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LAYER = "bert/encoder/layer/0_BertLayer"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


def touch(visit: Visit) -> Any:
    session = visit.page.context.new_cdp_session(visit.page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        marks = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": marks})

    return send


def test_two_fingers_zoom_and_one_moves(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, graph_of("article_cnn"), tmp_path, has_touch=True)
    send = touch(visit)
    x, y = visit.middle("fc")
    before = visit.view()["k"]
    send("touchStart", (x - 40, y), (x + 40, y))
    for reach in (60, 80, 100):
        send("touchMove", (x - reach, y), (x + reach, y))
    send("touchEnd")
    visit.until("k => modelviz.camera.view.k > k", before * 1.8)
    assert visit.middle("fc") == pytest.approx((x, y), abs=4)
    send("touchStart", (x, y))
    send("touchMove", (x + 30, y))
    send("touchMove", (x + 60, y))
    send("touchEnd")
    assert visit.middle("fc")[0] > x + 20
    assert visit.errors == []


def test_what_is_seen_is_saved_as_svg_and_png(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, graph_of("article_cnn"), tmp_path)
    for kind in ("svg", "png"):
        visit.page.locator("#more").click()
        with visit.page.expect_download() as download:
            visit.page.locator(f"#save{kind}").click()
        assert download.value.suggested_filename == f"ArticleCnn.{kind}"
        data = Path(download.value.path()).read_bytes()
        if kind == "png":
            assert data.startswith(b"\x89PNG")
            assert len(data) > 20_000
            continue
        root = ElementTree.fromstring(data)
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "MaxPool2d" in texts
        assert "64×256" in texts
        fills = {node.get("fill") for node in root.iter("{http://www.w3.org/2000/svg}rect")}
        assert len(fills) > 3
    assert visit.errors == []
    visit.page.close()


def test_on_a_phone_there_is_one_row_of_tools_and_a_drawer(
    browser: Browser, tmp_path: Path
) -> None:
    visit = Visit(
        browser,
        graph_of("article_cnn"),
        tmp_path,
        viewport={"width": 390, "height": 800},
        has_touch=True,
    )
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    bar = visit.page.locator("#bar").bounding_box()
    assert bar is not None
    assert bar["height"] < 50
    assert visit.page.locator("#panel").is_hidden()
    visit.box("fc").tap()
    assert visit.page.locator("#details h2").inner_text() == "Linear"
    visit.page.locator("#handle").tap()
    assert "2,570" in visit.details()
    panel = visit.page.locator("#panel").bounding_box()
    assert panel is not None
    assert panel["width"] == 390
    visit.page.locator("#more").tap()
    visit.page.locator("#colour").select_option("params")
    assert visit.page.locator("#legend").is_visible()
    assert visit.errors == []


def test_it_is_dark_where_the_reader_likes_it_dark(browser: Browser, tmp_path: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        visit = Visit(browser, graph_of("article_cnn"), tmp_path, color_scheme=scheme)
        colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(int(part) for part in colour[4:-1].split(",")))
        text = visit.page.evaluate(
            "getComputedStyle(document.querySelector('.box.op:not(.quiet) text')).fill"
        )
        grounds.append(sum(int(part) for part in text[4:-1].split(",")))
    light, dark_text, dark, light_text = grounds
    assert light > 700
    assert dark_text < 200
    assert dark < 120
    assert light_text > 600
