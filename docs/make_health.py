"""Makes the pictures of a step that was looked into: a network with two faults, its page.

One layer of the last block is dead, and the head's learning rate is thirty times too large.
Needs Chromium.

Run it with ``python docs/make_health.py [folder]``; pictures go to the folder, ``docs/images``
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


class Block(nn.Module):
    """Two convolutions and a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block."""
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        found: torch.Tensor = self.relu(h + self.skip(x))
        return found


class Net(nn.Module):
    """A small residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = Block(3, 16), Block(16, 32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 10)
        self.layer2.bn1.bias.data.fill_(-2.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All of it."""
        found: torch.Tensor = self.head(self.pool(self.layer2(self.layer1(x))).flatten(1))
        return found


def page_in(folder: Path) -> Path:
    """Trains for a few steps, one of them looked into; gives the page."""
    torch.manual_seed(0)
    model = Net()
    body = [one for name, one in model.named_parameters() if not name.startswith("head")]
    groups = [{"params": body}, {"params": model.head.parameters(), "lr": 0.03}]
    optimizer = torch.optim.Adam(groups, lr=1e-3)
    with GraphHook(
        model, dirpath=folder, inspect_step=3, background=False, mlflow=False, onnx=False
    ) as hook:
        for _ in range(5):
            optimizer.zero_grad()
            logits = model(torch.randn(16, 3, 16, 16))
            nn.functional.cross_entropy(logits, torch.randint(0, 10, (16,))).backward()
            optimizer.step()
    print(*hook.report.remarks, sep="\n")
    return folder / "index.html"


def main(folder: Path) -> None:
    """Takes a picture of two colours."""
    with tempfile.TemporaryDirectory() as scratch, open_browser() as browser:
        page = browser.new_page(viewport=_WINDOW)
        page.goto(page_in(Path(scratch)).as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        page.click("[data-level='2']")
        for colour in ("zeros", "update"):
            page.select_option("#colour", colour)
            page.wait_for_timeout(1000)  # until what has moved is at its place
            page.screenshot(path=folder / f"health_{colour}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs" / "images")
