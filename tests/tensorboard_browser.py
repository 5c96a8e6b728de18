"""A real TensorBoard, and its graph dashboard as a person uses it."""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser import free_port, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

_DRAWN_WITHIN_MS = 60_000

# Given a node, looks where each one is and at its colour, until seven looks in a row found the
# same; that takes as long as the page is busy, and no longer.
_COME_TO_REST = """async (first, within_ms) => {
    const root = first.getRootNode(), end = performance.now() + within_ms;
    const look = node => {
        const box = node.getBoundingClientRect();
        const shape = node.querySelector(".nodecolortarget");
        const fill = shape ? getComputedStyle(shape).fill : "";
        return [node.getAttribute("data-name"), box.x, box.y, box.width, box.height, fill];
    };
    for (let same = 0, before = ""; same < 7 && performance.now() < end; ) {
        await new Promise(done => setTimeout(done, 60));
        const now = [...root.querySelectorAll("g.node")].map(look).join();
        same = now === before ? same + 1 : 0;
        before = now;
    }
}"""


@contextlib.contextmanager
def running_tensorboard(log_dir: Path, log: Path, *options: str) -> Iterator[str]:
    """Runs TensorBoard over a folder; yields its address.

    Args:
        log_dir: The folder of runs.
        log: Where TensorBoard's own output goes.
        options: Further command line options.
    """
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--reload_interval", "1", *options]
    with serve(command, port, log, "/data/environment") as address:
        yield address


def ask(address: str, route: str, **query: str) -> Any:
    """What a plugin of a running TensorBoard answers; the route is, for example, ``graphs/info``.

    Raises:
        urllib.error.HTTPError: It has no such data (yet).
    """
    url = f"{address}/data/plugin/{route}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


class GraphPage:
    """The graph dashboard in a browser.

    Args:
        browser: A running browser.
        address: A running TensorBoard.
        sharpness: Pixels of a picture for each point of the page.
    """

    def __init__(self, browser: Browser, address: str, sharpness: float = 1) -> None:
        size = {"width": 1500, "height": 1000}
        self.page = browser.new_page(viewport=size, device_scale_factor=sharpness)  # type: ignore[arg-type]
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{address}/#graphs", wait_until="domcontentloaded")
        self.wait_until_drawn()

    def wait_until_drawn(self) -> None:
        """Waits for nodes on the page and for the end of its movement."""
        self.page.locator("g.node").first.wait_for(state="attached", timeout=_DRAWN_WITHIN_MS)
        self.settle()

    def settle(self) -> None:
        """Waits until nothing is loaded any more, no box moves and none changes its colour."""
        loading = self.page.locator("#progress-bar")
        while True:
            loading.wait_for(state="hidden", timeout=_DRAWN_WITHIN_MS)
            self.page.locator("g.node").first.evaluate(_COME_TO_REST, _DRAWN_WITHIN_MS)
            if not loading.is_visible():
                return

    def choose_tag(self, tag: str) -> None:
        """Takes another graph of the run."""
        self.page.locator("tf-graph-controls paper-dropdown-menu").nth(1).click()
        self.page.locator("tf-graph-controls paper-item").filter(has_text=tag).click()
        self.wait_until_drawn()

    def show_profile(self) -> None:
        """Takes the profile of the graph chosen."""
        self._press("Profile")
        self.wait_until_drawn()

    def fit(self) -> None:
        """Makes everything that is open fill the page."""
        self.page.get_by_text("Fit to screen").click()
        self.settle()

    def zoom(self, steps: int) -> None:
        """Comes nearer, as with the mouse wheel over the middle of the graph."""
        box = self.page.locator("g.node").first.bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(steps):
            self.page.mouse.wheel(0, -120)
            self.page.wait_for_timeout(100)
        self.settle()

    def color_by(self, label: str) -> None:
        """Chooses a colouring by the text beside its button."""
        self._press(label)
        self.settle()

    def _press(self, label: str) -> None:
        self.page.locator("tf-graph-controls paper-radio-button").filter(has_text=label).click()

    def node(self, name: str) -> Locator:
        """A node or box by its full name."""
        return self.page.locator(f'g.node[data-name="{name}"]')

    def expand(self, name: str) -> None:
        """Opens a box; what is not on the screen cannot be clicked, so all is made visible."""
        self.fit()
        self.node(name).locator("> g.nodeshape").first.dblclick()
        self.page.wait_for_timeout(300)
        self.settle()

    def select(self, name: str) -> str:
        """Opens a node's card; returns its text."""
        self.node(name).locator("> g.nodeshape").first.click()
        self.page.locator("tf-node-info .node-name").filter(
            has_text=name.rpartition("/")[2]
        ).first.wait_for()
        text: str = self.page.locator("tf-node-info .expandedInfo").first.inner_text()
        return text

    def circles(self, name: str) -> list[str]:
        """The names of the circles at an op: its parameters, buffers and constants."""
        found: list[str] = (
            self.node(name)
            .locator("g.annotation.constant text.annotation-label")
            .evaluate_all("texts => texts.map(text => text.firstChild.textContent)")
        )
        return found

    def names(self) -> list[str]:
        """The full names of every node and box drawn now."""
        found: list[str] = self.page.locator("g.node").evaluate_all(
            "nodes => nodes.map(node => node.getAttribute('data-name'))"
        )
        return [name for name in found if name and "~~" not in name]  # "~~": an edge's ends

    def labels(self) -> list[str]:
        """The texts beside the nodes and boxes that are drawn now."""
        found: list[str] = self.page.locator("g.node > text.nodelabel").evaluate_all(
            "texts => texts.map(text => text.firstChild.textContent)"
        )
        return found

    def edge_labels(self) -> list[str]:
        """The texts on the edges."""
        found: list[str] = self.page.locator("text.edge-label, textPath").all_text_contents()
        return [text.strip() for text in found if text.strip()]

    def scale(self) -> list[str]:
        """The two ends of the numeric scale in the legend."""
        ends = self.page.locator("tf-graph-controls .domainValues > div")
        return [text.strip() for text in ends.all_inner_texts()]

    def picture(self, path: Path, only_graph: bool = False) -> None:
        """Takes a screenshot of the page, or of its graph alone."""
        if not only_graph:
            self.page.screenshot(path=path)
            return
        self.page.mouse.click(1250, 600)  # beside the graph: nothing stays selected
        self.page.get_by_text("Main Graph", exact=True).evaluate("title => title.remove()")
        self.settle()
        boxes = [box for node in self.page.locator("g.node").all() if (box := node.bounding_box())]
        left, top = (min(box[side] for box in boxes) - 16 for side in ("x", "y"))
        right = max(box["x"] + box["width"] for box in boxes) + 16
        bottom = max(box["y"] + box["height"] for box in boxes) + 16
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        self.page.screenshot(path=path, clip=clip)  # type: ignore[arg-type]
