"""Makes the pictures of steps that were looked into, compared, and searched for NaN.

Of a network with two faults (one layer of the last block is dead, and the head's learning rate is
thirty times too large) the page; of one whose layers are unfrozen the difference; of one with a
root at zero the picture that marks it. Needs Chromium.

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
from tests.tensorboard_browser import GraphPage, running_tensorboard  # noqa: E402

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


class Normed(nn.Module):
    """Divides by a length that is written by hand."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All of it."""
        length = x.square().sum(-1, keepdim=True).sqrt()
        return x / (length + 1e-6)


class Ranker(nn.Module):
    """Layers around a division by a length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(8, 16, bias=False), Normed()
        layers = [nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(3)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The loss."""
        scores = self.head(self.body(self.norm(self.embed(x))))
        return nn.functional.mse_loss(scores.squeeze(-1), wanted)


def picture_of_nan(folder: Path) -> bytes:
    """Trains until a row of zeros comes; gives the picture."""
    torch.manual_seed(0)
    model = Ranker()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(
        model, dirpath=folder, find_nonfinite=True, background=False, mlflow=False, onnx=False
    ):
        for step in range(4):
            x = torch.randn(16, 8)
            x[3] *= step < 3
            optimizer.zero_grad()
            model(x, torch.randn(16)).backward()
            optimizer.step()
    return (folder / "nonfinite.svg").read_bytes()


def page_of_change(folder: Path) -> Path:
    """Trains with a frozen body that is unfrozen later, and has an adapter then."""
    torch.manual_seed(0)
    model = Net()
    model.layer1.requires_grad_(False)
    with GraphHook(
        model, dirpath=folder, watch_changes=2, background=False, mlflow=False, onnx=False
    ):
        for step in range(5):
            if step == 3:
                model.layer1.requires_grad_(True)
                model.head = nn.Sequential(nn.Linear(32, 4), nn.Linear(4, 10))
            model(torch.randn(4, 3, 16, 16)).sum().backward()
    return folder / "graph_step_4.diff.html"


def draw_in_tensorboard(scratch: Path, picture: Path) -> None:
    """Takes a picture of the gradients in TensorBoard's graph."""
    page_in(scratch / "run")
    log = scratch / "log"
    with running_tensorboard(scratch / "run", log) as address, open_browser() as browser:
        dashboard = GraphPage(browser, address)
        dashboard.choose_tag("squared gradients")
        dashboard.show_profile()
        dashboard.expand("layer2")
        dashboard.color_by("Compute time")
        dashboard.fit()
        dashboard.page.screenshot(path=picture)


def main(folder: Path) -> None:
    """Takes a picture of each."""
    with tempfile.TemporaryDirectory() as scratch:
        draw_in_tensorboard(Path(scratch), folder / "health_tensorboard.png")
    with tempfile.TemporaryDirectory() as scratch:
        (folder / "nonfinite.svg").write_bytes(picture_of_nan(Path(scratch)))
    with tempfile.TemporaryDirectory() as scratch, open_browser() as browser:
        page = browser.new_page(viewport=_WINDOW)
        page.goto(page_of_change(Path(scratch)).as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / "changes.png")
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
