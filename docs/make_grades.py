"""Makes docs/grades.md and its screenshots: the graded models in TensorBoard and in Netron.

The grades are in ``docs/gallery/grades.py``. Needs Chromium and Netron for the screenshots.
``python docs/make_grades.py [name ...]``: of some models only; ``--page``: no screenshots.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from docs.gallery.entry import Entry  # noqa: E402
from docs.gallery.grades import GRADES, with_grades  # noqa: E402
from docs.gallery.table import ENTRIES  # noqa: E402
from tests.browser import open_browser  # noqa: E402
from tests.netron_browser import ModelPage, running_netron  # noqa: E402
from tests.tensorboard_browser import GraphPage, running_tensorboard  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE, FOLDER = HOME / "docs/grades.md", HOME / "docs/images/gallery"


def main(names: list[str]) -> None:
    """Takes screenshots and renews the page.

    Args:
        names: Of files of the gallery; none: of all graded ones.
    """
    if "--page" not in names:
        with open_browser() as browser:
            for entry in ENTRIES:
                if entry.file in GRADES and (not names or entry.file in names):
                    with tempfile.TemporaryDirectory() as scratch:
                        take(browser, entry, Path(scratch))
    PAGE.write_text(with_grades(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def take(browser: Browser, entry: Entry, scratch: Path) -> None:
    """Takes both pictures of a model, as the viewers show it at first."""
    found = entry.trace()
    found.write_tensorboard(scratch / "run")
    with running_tensorboard(scratch / "run", scratch / "log.txt") as address:
        graphs = GraphPage(browser, address)
        graphs.fit()
        graphs.picture(FOLDER / f"tensorboard_{entry.file}.png", only_graph=True)
        graphs.page.close()
    path = found.save_onnx(scratch / "graph.onnx")
    with running_netron(path, scratch / "log.txt") as address:
        model = ModelPage(browser, address)
        model.picture(FOLDER / f"netron_{entry.file}.png", only_graph=True)
        model.page.close()


if __name__ == "__main__":
    main(sys.argv[1:])
