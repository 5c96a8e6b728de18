"""The output of a notebook's cell, put into a page as a notebook does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.writers import notebook
from tests.browser import new_tab, open_browser
from tests.networks import Stack, graph_of, mlp, recorded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "\"></iframe><script>window.hurt=1</script><img src=x onerror=window.hurt=1>'&"
STYLE = "<style>rect, text { fill: rgb(1, 2, 3) !important } p { color: rgb(4, 5, 6) }</style>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


def cell(browser: Browser, graph: ModelGraph) -> Page:
    page = new_tab(browser)
    page.set_content(f"<!doctype html>{STYLE}<p>before</p><div>{notebook.render(graph)}</div>")
    return page


def test_the_picture_is_shown_at_once(browser: Browser) -> None:
    page = cell(browser, graph_of("article_cnn"))
    size = page.evaluate("(i => [i.naturalWidth, i.naturalHeight])(document.images[0])")
    assert min(size) > 300
    page.close()


def test_the_page_opens_below_it_and_can_be_used(browser: Browser) -> None:
    page = cell(browser, graph_of("bert"))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.locator("summary").click()
    frame = page.frame_locator("iframe")
    heading = frame.locator(".box").filter(has_text="BertLayer ×12").first
    heading.click(position={"x": 60, "y": 10})
    frame.locator("#focus").click()
    assert frame.locator("#path button").last.inner_text() == "layer.0–11"
    frame.locator("#path button").first.click()
    assert frame.locator("#path button").count() == 1
    assert errors == []
    page.close()


def test_it_takes_no_style_from_the_notebook_and_gives_none(browser: Browser) -> None:
    page = cell(browser, graph_of("article_cnn"))
    page.locator("summary").click()
    texts = page.frame_locator("iframe").locator("#picture text")
    assert texts.first.evaluate("t => getComputedStyle(t).fill") != "rgb(1, 2, 3)"
    colour = page.locator("p").evaluate("p => getComputedStyle(p).color")
    assert colour == "rgb(4, 5, 6)"
    assert page.evaluate("document.querySelectorAll('body style').length") == 0
    page.close()


def test_hostile_names_do_no_harm(browser: Browser) -> None:
    graph = replace(graph_of("gan"), name=HOSTILE)
    page = cell(browser, graph)
    page.locator("summary").click()
    frame = page.frame_locator("iframe")
    assert frame.locator("#path").inner_text() == HOSTILE
    assert page.evaluate("window.hurt") is None
    assert page.evaluate("document.images.length") == 1
    page.close()


def test_a_model_of_many_different_modules_stays_a_small_cell() -> None:
    blocks = [nn.Sequential(mlp(4 + n % 7), mlp(4 + n % 5)) for n in range(120)]
    made = notebook.render(recorded(Stack(*blocks), torch.zeros(2, 8)))
    assert len(made) < 1_500_000
