"""Makes the pictures of what a step costs: the page of a timed step, by backward time and memory.

Needs Chromium.

Run it with ``python docs/make_costs.py [folder]``; pictures go to the folder, ``docs/images``
unless another is given.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from modelviz_callbacks import GraphHook  # noqa: E402
from tests.browser import open_browser  # noqa: E402

_WINDOW = {"width": 1200, "height": 760}


class Net(nn.Module):
    """Convolutions, and attention over what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        self.encoder = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All of it."""
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        found: torch.Tensor = self.head(self.encoder(tokens).mean(1))
        return found


def page_in(folder: Path) -> Path:
    """Trains for a few steps, one of them timed; gives the page."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    with GraphHook(
        model, dirpath=folder, profile_step=3, background=False, mlflow=False, onnx=False
    ):
        for _ in range(5):
            optimizer.zero_grad()
            logits = model(torch.randn(16, 3, 32, 32))
            nn.functional.cross_entropy(logits, torch.randint(0, 10, (16,))).backward()
            optimizer.step()
    print((folder / "graph.txt").read_text(encoding="utf-8"))
    return folder / "index.html"


def main(folder: Path) -> None:
    """Takes a picture of three colours and of the curve, with the panel of a box."""
    with tempfile.TemporaryDirectory() as scratch, open_browser() as browser:
        page = browser.new_page(viewport=_WINDOW)
        page.goto(page_in(Path(scratch)).as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        page.click("[data-level='2']")
        page.locator("[data-name='encoder/linear1']").click(position={"x": 20, "y": 8})
        page.locator(".curve").scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / "costs_curve.png")
        for colour in ("backward", "kept", "time"):
            page.select_option("#colour", colour)
            page.wait_for_timeout(1000)  # until what has moved is at its place
            page.screenshot(path=folder / f"costs_{colour}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs" / "images")
