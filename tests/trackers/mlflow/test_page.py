"""A real MLflow server in a real browser: what people see on their run's page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from playwright.sync_api import Browser, Page, expect

from modelviz_callbacks import GraphHook
from tests.browser import open_browser
from tests.mlflow_server import MlflowServer
from tests.models import build

PATIENCE_MS = 60_000
# Where to keep the pictures for people, if anywhere.
KEEP = os.environ.get("MODELVIZ_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def run_url(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run_page")
    run = MlflowClient(server.uri).create_run("0", run_name="digits")
    model, args, kwargs = build("TwoBranches")
    mlflow.set_tracking_uri(server.uri)
    try:
        with GraphHook(
            model, dirpath=folder, mlflow=run.info.run_id, background=False, tensorboard=False
        ) as hook:
            model(*args, **kwargs).sum().backward()
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert hook.report.refused == []
    assert torch.is_grad_enabled()
    return f"{server.uri}/#/experiments/0/runs/{run.info.run_id}"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield opened
    opened.close()


def keep(page: Page, name: str) -> None:
    if KEEP:
        page.screenshot(path=Path(KEEP, f"mlflow_{name}.png"))


def test_the_description_shows_the_picture_and_the_figures(page: Page, run_url: str) -> None:
    page.goto(run_url)
    picture = page.locator("img[src*='get-artifact']")
    expect(picture).to_be_visible()
    page.wait_for_function(
        "() => { const i = document.querySelector(\"img[src*='get-artifact']\");"
        " return i && i.complete && i.naturalWidth > 0 }"
    )
    expect(page.get_by_text("FLOPs per sample").first).to_be_visible()
    keep(page, "description")


@pytest.mark.alike
@pytest.mark.parametrize(
    ("name", "text"),
    [("graph.txt", "Conv2d"), ("graph.json", "modules"), ("graph.md", "Conv2d")],
)
def test_text_is_shown_inline(page: Page, run_url: str, name: str, text: str) -> None:
    page.goto(f"{run_url}/artifacts/model_graph/{name}")
    expect(page.get_by_text(re.compile(text)).first).to_be_visible()
    keep(page, name.replace(".", "_"))


def test_the_picture_is_shown_inline(page: Page, run_url: str) -> None:
    page.goto(f"{run_url}/artifacts/model_graph/graph.svg")
    picture = page.get_by_alt_text("model_graph/graph.svg")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
    keep(page, "graph_svg")


@pytest.mark.slow
def test_the_interactive_page_works_inside_mlflows_frame(page: Page, run_url: str) -> None:
    page.goto(f"{run_url}/artifacts/model_graph/index.html")
    frame = page.frame_locator("iframe").first
    heading = frame.locator('.box[data-name="cnn"]').first
    expect(heading).to_be_visible()
    keep(page, "page")
    heading.click(position={"x": 50, "y": 8})
    frame.locator("#focus").click()
    expect(frame.locator("#path")).to_contain_text("cnn")
    keep(page, "page_inside")
