"""Makes the pictures and texts of docs/comparison.md: one model in each viewer, and in ours.

The model is the digits CNN of ``examples/lightning_cnn.py``. Needs Chromium and, beside what
the tests need, ``pip install torchview torchviz pygraphviz``, whose wheels bring Graphviz.

Run it with ``python docs/make_comparison.py [folder]``; pictures go to the folder,
``docs/images`` unless another is given, texts to standard output.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

HOME = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HOME), str(HOME / "examples")]

from lightning_cnn import CNN  # noqa: E402

from modelviz_callbacks import Trace, trace  # noqa: E402
from modelviz_callbacks.analysis import Analysis  # noqa: E402
from modelviz_callbacks.view.display_rules import Rules  # noqa: E402
from modelviz_callbacks.writers.formats import render  # noqa: E402
from modelviz_callbacks.writers.markdown import layer_table  # noqa: E402
from tests.browser import open_browser  # noqa: E402
from tests.netron_browser import ModelPage, running_netron  # noqa: E402
from tests.tensorboard_browser import GraphPage, running_tensorboard  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The margin around what is cut out of a page, in pixels of the page.
_MARGIN = 24


def main(folder: Path) -> None:
    """Makes everything.

    Args:
        folder: Where the pictures go.
    """
    torch.manual_seed(0)
    model, image = CNN(), torch.randn(8, 1, 28, 28)
    recorded = trace(model, image)
    say("print(model)", model)
    say("print(trace(model, image).graph)", recorded.graph)
    say("the table of layers", layer_table(Analysis(recorded.graph)))
    draw_peers(model, image, folder)
    draw_ours(recorded, folder)
    with open_browser() as browser, tempfile.TemporaryDirectory() as scratch:
        look_into_tensorboard(browser, model, image, recorded, folder, Path(scratch))
        look_into_netron(browser, model, image, recorded, folder, Path(scratch))


def say(title: str, content: object) -> None:
    """Prints a text under its title."""
    print(f"\n--- {title}\n\n{content}")


def draw_peers(model: torch.nn.Module, image: torch.Tensor, folder: Path) -> None:
    """Draws what torchview and torchviz describe."""
    import torchview
    import torchviz

    seen = torchview.draw_graph(model, input_data=image, device="cpu").visual_graph
    draw(seen.source, folder / "compare_torchview.png")
    result = model(image)
    seen = torchviz.make_dot(result, params=dict(model.named_parameters()))
    draw(seen.source, folder / "compare_torchviz.png")


def draw(source: str, path: Path) -> None:
    """Draws a graph in Graphviz's language without a program of that name on the machine."""
    import pygraphviz

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fonts that are not there
        pygraphviz.AGraph(string=source).draw(str(path), prog="dot", format="png", args="-Gdpi=96")


def draw_ours(recorded: Trace, folder: Path) -> None:
    """Draws the model, its backward pass, and the model with rules."""
    recorded.save_png(folder / "compare_ours.png")
    backward = recorded.backward_graph
    assert backward is not None
    (folder / "compare_ours_backward.png").write_bytes(render(backward, "png"))
    rules = Rules.of(["Sequential"], ["relu"], {"Linear": "fully connected"})
    folded = render(recorded.graph, "png", None, rules)
    (folder / "compare_ours_folded.png").write_bytes(folded)


def look_into_tensorboard(
    browser: Browser,
    model: torch.nn.Module,
    image: torch.Tensor,
    recorded: Trace,
    folder: Path,
    scratch: Path,
) -> None:
    """Takes pictures of ``add_graph``'s graph and of ours."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(scratch / "peer") as writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer.add_graph(model, image)
    recorded.write_tensorboard(scratch / "ours")
    runs = {"peer": ("add_graph", ["CNN"]), "ours": ("ours_tensorboard", [])}
    for run, (name, boxes) in runs.items():
        with running_tensorboard(scratch / run, scratch / "tensorboard.log") as address:
            page = GraphPage(browser, address, sharpness=1.5)
            for box in boxes:
                page.expand(box)
            page.fit()
            page.picture(folder / f"compare_{name}.png", only_graph=True)
            page.page.close()


def look_into_netron(
    browser: Browser,
    model: torch.nn.Module,
    image: torch.Tensor,
    recorded: Trace,
    folder: Path,
    scratch: Path,
) -> None:
    """Takes pictures of what ``torch.onnx.export`` writes and of our file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported: Any = torch.onnx.export(model.eval(), (image,), dynamo=True, verbose=False)
    exported.save(scratch / "peer.onnx")
    recorded.save_onnx(scratch / "ours.onnx")
    for file, name, inside in (
        ("peer", "netron_export", ()),
        ("ours", "ours_netron", ()),
        ("ours", "ours_netron_cnn", ("cnn",)),
    ):
        with running_netron(scratch / f"{file}.onnx", scratch / "netron.log") as address:
            page = ModelPage(browser, address, sharpness=1.5)
            for box in inside:
                page.open(box)
            cut_out(page, folder / f"compare_{name}.png")
            page.page.close()


def cut_out(shown: ModelPage, path: Path, beside: Sequence[str] = ("text.edge-label",)) -> None:
    """Takes a picture of the graph alone."""
    page = shown.page
    page.set_viewport_size({"width": 1100, "height": 1600})  # all of a long graph is on the page
    page.mouse.move(1, 500)
    page.wait_for_timeout(200)
    found = [item for kind in ("g.node", *beside) for item in page.locator(kind).all()]
    boxes = [box for item in found if (box := item.bounding_box())]
    left, top = (max(0, min(box[side] for box in boxes) - _MARGIN) for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + _MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + _MARGIN
    clip: Any = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    page.screenshot(path=path, clip=clip)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs" / "images")
