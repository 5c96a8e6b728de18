"""Makes the pictures of an MLflow run's page: a real server, a short run, a browser.

The model is the digits CNN of ``examples/lightning_cnn.py``. Needs Chromium.

Run it with ``python docs/make_mlflow.py [folder]``; pictures go to the folder, ``docs/images``
unless another is given.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import torch
from sklearn.datasets import load_digits

HOME = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HOME), str(HOME / "examples")]

from lightning_cnn import CNN  # noqa: E402

from modelviz_callbacks import GraphHook  # noqa: E402
from tests.browser import open_browser  # noqa: E402
from tests.mlflow_server import running_server  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

# What of the run is looked at: the file, and what stands on the page when it is shown.
SHOWN = {
    "run": ("", "img[src*='get-artifact']"),
    "page": ("/artifacts/model_graph/index.html", "iframe"),
    "svg": ("/artifacts/model_graph/graph.svg", "img[alt*='graph.svg']"),
    "txt": ("/artifacts/model_graph/graph.txt", "text=Conv2d"),
    "json": ("/artifacts/model_graph/graph.json", "text=schema"),
}


def main(folder: Path) -> None:
    """Makes the pictures.

    Args:
        folder: Where they go.
    """
    with tempfile.TemporaryDirectory() as scratch, running_server(Path(scratch)) as server:
        mlflow.set_tracking_uri(server.uri)
        run = mlflow.set_experiment("digits").experiment_id, train(Path(scratch))
        with open_browser() as browser:
            size = {"width": 1240, "height": 760}
            page = browser.new_page(viewport=size)  # type: ignore[arg-type]
            page.goto(server.uri)
            page.get_by_text("Model training").first.click()
            for name, (path, wanted) in SHOWN.items():
                show(page, f"{server.uri}/#/experiments/{run[0]}/runs/{run[1]}{path}", wanted)
                page.screenshot(path=folder / f"mlflow_{name}.png")


def train(folder: Path) -> str:
    """Trains for a few steps; returns the run's id."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(images, size=(28, 28))
    targets = torch.tensor(digits.target)
    model = CNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with mlflow.start_run(run_name="cnn") as run, GraphHook(model, dirpath=folder / "graph"):
        for step in range(20):
            batch = slice(64 * step, 64 * step + 64)
            loss = torch.nn.functional.cross_entropy(model(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mlflow.log_metric("loss", loss.item(), step)
    return str(run.info.run_id)


def show(page: Page, address: str, wanted: str) -> None:
    """Opens a page of the run, without MLflow's assistant beside it."""
    page.goto(address)
    page.reload()  # an address that differs after its # alone changes nothing
    page.locator(wanted).first.wait_for(timeout=60_000)
    page.wait_for_timeout(2000)  # pictures and frames are loaded
    for closing in page.locator("[aria-label='Close']:visible").all():
        closing.click()
        page.wait_for_timeout(1000)
    for more in page.get_by_text("Show more").all():
        more.click()  # of a long description MLflow shows the beginning


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs" / "images")
