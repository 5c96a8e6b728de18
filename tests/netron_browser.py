"""A real Netron, and a model in it as a person looks at it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser import free_port, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_DRAWN_WITHIN_MS = 60_000


@contextlib.contextmanager
def running_netron(model: Path, log: Path) -> Iterator[str]:
    """Serves a model; yields the page's address.

    Args:
        model: The ONNX file.
        log: Where Netron's own output goes.
    """
    port = free_port()
    code = (
        "import netron, sys, time\n"
        "netron.serve(sys.argv[1], address=('127.0.0.1', int(sys.argv[2])))\n"
        "time.sleep(10**6)"
    )
    with serve([sys.executable, "-c", code, str(model), str(port)], port, log) as address:
        yield address


class ModelPage:
    """A model in a browser.

    Args:
        browser: A running browser.
        address: A running Netron.
        sharpness: Pixels of a picture for each point of the page.
    """

    def __init__(self, browser: Browser, address: str, sharpness: float = 1) -> None:
        context = browser.new_context(
            viewport={"width": 1100, "height": 1000}, device_scale_factor=sharpness
        )
        # Without it the first visit asks for consent to cookies, after asking the network
        # for the visitor's country.
        context.add_cookies(
            [{"name": "consent", "value": str(int(time.time() * 1000)), "url": address}]
        )
        context.route(
            lambda url: not url.startswith(address),
            lambda route: route.abort("internetdisconnected"),
        )
        # Netron switches eval off, which the questions asked of the page need.
        context.add_init_script(
            "const kept = window.eval;"
            "Object.defineProperty(window, 'eval', {get: () => kept, set: () => {}});"
        )
        self.page = context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address, wait_until="domcontentloaded")
        self.wait_until_drawn()

    def wait_until_drawn(self) -> None:
        """Waits for nodes on the page and for the end of its movement."""
        self.page.locator("g.node").first.wait_for(state="attached", timeout=_DRAWN_WITHIN_MS)
        self.page.wait_for_timeout(700)

    def boxes(self) -> list[str]:
        """The titles of the boxes: op types, and functions by the last part of their names."""
        found: list[str] = self.page.locator("g.node g.node-item text").all_text_contents()
        return [text for text in found if text.strip()]

    def rows(self) -> list[str]:
        """The rows of the boxes: weights and attributes."""
        found: list[str] = self.page.locator("g.node-argument text").evaluate_all(
            "rows => rows.map(row => [...row.querySelectorAll('tspan')]"
            ".map(part => part.textContent).join(''))"
        )
        return found

    def edge_labels(self) -> list[str]:
        """The texts on the edges."""
        found: list[str] = self.page.locator("text.edge-label").all_text_contents()
        return [text.strip() for text in found if text.strip()]

    def size(self) -> tuple[float, float]:
        """Width and height of all that is drawn, in CSS pixels before any zoom."""
        width, height = self.page.evaluate(
            "() => { const box = document.querySelector('#canvas > g, #origin').getBBox();"
            " return [box.width, box.height]; }"
        )
        return float(width), float(height)

    def open(self, title: str) -> None:
        """Opens a function by the sign on its box."""
        name = self.page.locator("g.node-item text").get_by_text(title, exact=True).first
        sign = self.page.locator("g.node", has=name).locator("g.node-item").filter(has_text="ƒ")
        sign.first.click()
        self.wait_until_drawn()

    def picture(self, path: Path, only_graph: bool = False) -> None:
        """Takes a screenshot of the page, or of its graph alone, without the pointer."""
        self.page.mouse.move(1, 500)
        self.page.wait_for_timeout(200)
        if not only_graph:
            self.page.screenshot(path=path)
            return
        left, top, right, bottom = self.page.evaluate(
            "() => { const box = document.querySelector('#canvas > g, #origin')"
            ".getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; }"
        )
        left, top = max(0, left - 12), max(0, top - 12)
        clip = {"x": left, "y": top, "width": right + 12 - left, "height": bottom + 12 - top}
        # Below the graph stand the page's own buttons.
        clip["height"] = min(clip["height"], 940 - top)
        self.page.screenshot(path=path, clip=clip)  # type: ignore[arg-type]
