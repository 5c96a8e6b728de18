"""How wide the top level of graph.onnx is in a real Netron, in CSS pixels.

    python -m benchmarks.netron_widths                the models of the gallery
    python -m benchmarks.netron_widths --every 60     and every 60th of the zoo
    python -m benchmarks.netron_widths --only t5      those whose name matches

Needs Chromium and the package netron.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from docs.gallery.table import ENTRIES
from modelviz_callbacks import Trace, trace
from tests.browser import open_browser
from tests.netron_browser import ModelPage, running_netron

_WIDEST = 1500


def models(every: int, pattern: str) -> Iterator[tuple[str, Callable[[], Trace]]]:
    """Names of models, with what records them."""
    for entry in ENTRIES:
        if re.search(pattern, entry.file):
            yield entry.file, entry.trace
    if not every:
        return
    from tests.zoo.test_zoo import ALL

    for case in [case for case in ALL if re.search(pattern, case.name)][::every]:

        def record(case: object = case) -> Trace:
            model, args, kwargs = case.make()  # type: ignore[attr-defined]
            return trace(model, *args, **kwargs)

        yield case.name, record


def main() -> None:
    """Prints a line a model, and how many are too wide."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=0, help="every n-th model of the zoo, too")
    parser.add_argument("--only", default="", help="models whose name matches")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    widths: dict[str, float] = {}
    with open_browser() as browser:
        for name, record in models(options.every, options.only):
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "graph.onnx"
                try:
                    record().save_onnx(path)
                    with running_netron(path, Path(scratch) / "log.txt") as address:
                        page = ModelPage(browser, address)
                        width, height = page.size()
                        boxes = len(page.boxes())
                        page.page.close()
                except Exception as error:
                    print(f"{name}: not measured ({type(error).__name__}: {error})", flush=True)
                    continue
                widths[name] = width
                print(f"{name:>24} {boxes:5d} boxes {width:7.0f} × {height:.0f} px", flush=True)
    wide = [name for name, width in widths.items() if width > _WIDEST]
    print(f"{len(widths)} models, widest {max(widths.values(), default=0):.0f} px")
    print(f"over {_WIDEST} px: {', '.join(wide) or 'none'}")


if __name__ == "__main__":
    main()
