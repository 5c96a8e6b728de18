"""The page of a difference: both graphs in one, and a list to step through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from modelviz_callbacks.diff.diff import GraphDiff, diff
from modelviz_callbacks.writers import diff_html
from tests.browser import open_browser
from tests.networks import NETWORKS, graph_of, recorded
from tests.writers.page_visit import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as started:
        yield started


def small() -> GraphDiff:
    x = torch.zeros(3, 8)
    before = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.ReLU(), nn.Linear(16, 10))
    after = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 20))
    return diff(recorded(before, x), recorded(after, x))


def test_each_difference_is_coloured_and_in_the_list(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, diff_html.render(small()), tmp_path)
    for name, kind in (("1_Tanh", "removed"), ("2_Dropout", "added"), ("3_Linear", "changed")):
        assert f"is-{kind}" in str(visit.box(name).get_attribute("class"))
    assert "is-" not in str(visit.box("0_Linear").get_attribute("class"))
    assert "was Linear(16 -> 10)" in str(visit.box("3_Linear").text_content())
    assert visit.page.locator(".differences li").count() == 3
    legend = visit.page.locator("#legend").inner_text()
    assert all(word in legend for word in ("added", "removed", "changed"))
    assert visit.errors == []


def test_one_steps_through_the_differences(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, diff_html.render(small()), tmp_path)
    chosen = []
    for key in ("n", "n", "n", "n", "p"):
        visit.page.keyboard.press(key)
        chosen.append(visit.page.evaluate("modelviz.chosen"))
    assert set(chosen[:3]) == {"1_Tanh", "2_Dropout", "3_Linear"}
    assert chosen[3] == chosen[0]
    assert chosen[4] == chosen[2]
    assert "3 of 3" in visit.page.locator("#status").inner_text()
    visit.page.locator("#more").click()
    visit.page.locator("#next").click()
    assert visit.page.evaluate("modelviz.chosen") == chosen[0]


def test_modules_are_open_at_first_where_something_differs(
    browser: Browser, tmp_path: Path
) -> None:
    model, inputs = NETWORKS["resnet18"]()
    model.get_submodule("layer3")[1].conv2 = nn.Conv2d(256, 256, 5, padding=2, bias=False)
    found = diff(graph_of("resnet18"), recorded(model, *inputs))
    visit = Visit(browser, diff_html.render(found), tmp_path)
    opened = visit.page.locator(".box.open").evaluate_all("all => all.map(b => b.dataset.name)")
    assert sorted(opened) == ["layer3", "layer3/1_Block"]
    visit.page.select_option("#graph", label="ResNet, before")
    assert visit.page.locator(".box.is-changed").count() == 0
    assert visit.errors == []
