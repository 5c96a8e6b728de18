"""Makes the pictures of TensorBoard in docs/pictures.md: four models, each graph, each colour.

The models, the times and the events are those of ``tests/test_tensorboard_pages.py``; beside
them is what ``SummaryWriter.add_graph`` makes of the same model, or the error it raises, which is
printed. Needs Chromium.

Run it with ``python docs/make_tensorboard.py [folder] [model ...]``; pictures go to the folder,
``docs/images`` unless another is given.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from tests.browser import open_browser  # noqa: E402
from tests.lightning_modules import Gan  # noqa: E402
from tests.models import TwoBranches  # noqa: E402
from tests.tensorboard_browser import GraphPage, running_tensorboard  # noqa: E402
from tests.test_tensorboard_pages import (  # noqa: E402
    MODELS,
    TIMES,
    ResNet,
    small_bert,
    store,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The boxes that are opened before a picture of the times is taken; in the picture of the ops
# they are as TensorBoard shows them at first.
OPENED = {
    "CNN": ["cnn", "mlp1", "mlp2"],
    "ResNet": ["stages", "stages/1_Sequential"],
    "BERT": ["bert", "bert/encoder", "bert/encoder/layer"],
    "GAN": ["generator", "critic"],
}


def main(folder: Path, models: list[str]) -> None:
    """Makes the pictures of some models.

    Args:
        folder: Where they go.
        models: Keys of `MODELS`.
    """
    with open_browser() as browser:
        for model in models:
            with tempfile.TemporaryDirectory() as scratch:
                draw_peer(browser, model, Path(scratch), folder)
                draw_ours(browser, model, Path(scratch), folder)


def draw_peer(browser: Browser, model: str, scratch: Path, folder: Path) -> None:
    """Takes a picture of what ``add_graph`` makes, its wrapper opened, or says why not."""
    from torch.utils.tensorboard import SummaryWriter

    module, given, options = {
        "CNN": (TwoBranches(), torch.rand(2, 1, 8, 8), {}),
        "ResNet": (ResNet(), torch.rand(2, 3, 64, 64), {}),
        # Its outputs are a dictionary, which a strict trace refuses.
        "BERT": (small_bert(), torch.randint(0, 100, (2, 16)), {"use_strict_trace": False}),
        "GAN": (Gan(), torch.randn(4, 4), {}),
    }[model]
    try:
        with SummaryWriter(scratch / "peer") as writer, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer.add_graph(module, given, **options)
    except Exception as error:
        print(f"add_graph of the {model}: {type(error).__name__}: {error}")
        return
    with running_tensorboard(scratch / "peer", scratch / "log.txt") as address:
        page = GraphPage(browser, address, sharpness=1.5)
        page.expand(type(module).__name__)
        take(page, folder / f"tensorboard_{model.lower()}_add_graph.png")


def draw_ours(browser: Browser, model: str, scratch: Path, folder: Path) -> None:
    """Takes pictures of every graph, and of the times in both colours."""
    torch.manual_seed(0)
    store(MODELS[model](scratch / "model"), scratch / "ours")
    start = f"tensorboard_{model.lower()}"
    with running_tensorboard(scratch / "ours", scratch / "log.txt") as address:
        page = GraphPage(browser, address, sharpness=1.5)
        take(page, folder / f"{start}.png")
        for tag in ("modules", "backward"):
            page = GraphPage(browser, address, sharpness=1.5)
            page.choose_tag(tag)
            take(page, folder / f"{start}_{tag}.png")
        for colouring, name in (("Compute time", "time"), ("Memory", "memory")):
            page = GraphPage(browser, address, sharpness=1.5)
            page.choose_tag(TIMES)
            page.show_profile()
            for box in OPENED[model]:
                page.expand(box)
            page.color_by(colouring)
            take(page, folder / f"{start}_{name}.png")


def take(page: GraphPage, path: Path) -> None:
    """Takes a picture of the whole graph and closes its page."""
    page.fit()
    page.picture(path, only_graph=True)
    page.page.close()


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs" / "images"
    main(where, sys.argv[2:] or list(MODELS))
