"""A page opened in a browser, and what a person does there."""

from __future__ import annotations

import gzip
import re
import time
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.health import StepHealth
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.writers import html
from tests.browser import new_tab

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Locator, Page

_SIZE: Any = {"width": 1400, "height": 900}


class Visit:
    """A page in the browser, and what went wrong on it.

    Args:
        browser: The browser.
        data: The page, or a graph to make it of.
        folder: Where its file goes.
        times_us: As for the writer.
        health: Likewise.
        **options: Of a window of its own; without any it is a page beside others in one.
    """

    def __init__(
        self,
        browser: Browser,
        data: bytes | ModelGraph,
        folder: Path,
        times_us: dict[str, float] | None = None,
        health: StepHealth | None = None,
        **options: Any,
    ) -> None:
        path = folder / "index.html"
        if isinstance(data, ModelGraph):
            data = html.render(Analysis(data), times_us=times_us, health=health)
        path.write_bytes(data)
        self.url = path.as_uri()
        self.page: Page
        if options:
            self.page = browser.new_page(**{"viewport": _SIZE, **options})
        else:
            self.page = new_tab(browser)
            self.page.set_viewport_size(_SIZE)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.open()

    def open(self, hash_: str = "") -> None:
        """Opens it, at a place."""
        self.page.goto(self.url + hash_)
        ready(self.page)

    def box(self, name: str) -> Locator:
        """The box of a module call or node."""
        return self.page.locator(f'.box[data-name="{name}"]')

    def names(self) -> list[str]:
        """The names of all boxes that are drawn."""
        found: list[str] = self.page.evaluate(
            "[...document.querySelectorAll('.box')].map(box => box.dataset.name)"
        )
        return found

    def middle(self, name: str) -> tuple[float, float]:
        """Where on the screen the middle of a box is."""
        place = self.box(name).locator("rect.body").last.bounding_box()
        assert place is not None
        return place["x"] + place["width"] / 2, place["y"] + place["height"] / 2

    def corner(self, name: str) -> tuple[float, float]:
        """Where on the screen the upper left corner of a box is, at rest."""
        self.at_rest()
        place = self.box(name).locator("rect.body").last.bounding_box()
        assert place is not None
        return place["x"], place["y"]

    def double_click(self, x: float, y: float) -> None:
        """Clicks twice at a place on the screen."""
        self.page.mouse.dblclick(x, y)
        browser = self.page.context.browser
        if browser is not None and browser.browser_type.name == "firefox":
            # Driven from outside it takes them for two clicks that belong to nothing.
            self.page.evaluate(
                """([x, y]) => document.elementFromPoint(x, y).dispatchEvent(new MouseEvent(
                     "dblclick", {bubbles: true, cancelable: true, clientX: x, clientY: y}))""",
                [x, y],
            )

    def until(self, expression: str, argument: object = None) -> None:
        """Waits until an expression holds."""
        until(self.page, expression, argument)

    def at_rest(self) -> None:
        """Waits until nothing moves any more."""
        self.until("() => document.getAnimations().every(one => one.playState !== 'running')")
        self.page.evaluate("window.lastView = ''")
        self.until(
            """() => { const view = JSON.stringify(modelviz.camera.view);
                 const still = view === window.lastView; window.lastView = view; return still }"""
        )

    def view(self) -> dict[str, float]:
        """Where one looks: ``x``, ``y`` and the scale ``k``."""
        self.at_rest()
        found: dict[str, float] = self.page.evaluate("modelviz.camera.view")
        return found

    def path(self) -> list[str]:
        """The breadcrumb."""
        return self.page.locator("#path button").all_inner_texts()

    def details(self) -> str:
        """What the panel says."""
        return self.page.locator("#details").inner_text()

    def search(self, text: str) -> list[str]:
        """Types into the search, and says what is found."""
        self.page.locator("#search").fill(text)
        return self.page.locator("#found li").all_inner_texts()


def content(page: bytes) -> str:
    """The data in a page, as JSON."""
    found = re.search(rb'id="data">([^<]*)<', page)
    assert found
    return gzip.decompress(b64decode(found[1])).decode()


def until(page: Page | Frame, expression: str, argument: object = None) -> None:
    """Waits until an expression holds (the page's policy forbids Playwright's own way)."""
    end = time.monotonic() + 20
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"{expression} with {argument!r} does not come true"
        page.wait_for_timeout(40)


def ready(page: Page | Frame) -> None:
    """Waits until a page has drawn its graph."""
    page.wait_for_selector("html[data-ready]", state="attached")
