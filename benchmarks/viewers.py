"""The page beside Netron and Model Explorer: size of the file, time to open, what is in sight.

Ten models of the gallery. Each viewer gets what it reads: our page, ``torch.onnx.export`` for
Netron, ``torch.export`` for Model Explorer (``pip install ai-edge-model-explorer`` somewhere, and
its program as ``--model-explorer``; it may have an environment of its own). Opened is a viewer when
its picture is drawn. Pictures of what is in sight without any action go to ``--out``.
``python -m benchmarks.viewers --out folder``.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from playwright.sync_api import Browser, Page
from torch import nn

from docs.gallery.entry import Entry
from docs.gallery.table import ENTRIES
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.writers import html
from tests.browser import free_port, open_browser, serve
from tests.netron_browser import running_netron
from tests.zoo.cases import seed_everything

MODELS = ("article_cnn", "resnet50", "unet", "vit", "swin", "bert", "gpt", "t5", "mixtral", "gnn")
_ROUNDS = 3
_SIZE = {"width": 1400, "height": 900}
_SMALLEST_TEXT_PX = 7

# Texts in sight and large enough, of all texts that are drawn.
_READABLE = """(smallest) => {
  const all = [...document.querySelectorAll('svg text')].filter(t => t.textContent.trim());
  const seen = all.filter(t => { const r = t.getBoundingClientRect();
    return r.height >= smallest && r.left >= 0 && r.top >= 0 &&
      r.right <= innerWidth && r.bottom <= innerHeight });
  return all.length ? seen.length / all.length : NaN }"""


def ours(entry: Entry, folder: Path) -> Path:
    """Our page."""
    path = folder / "index.html"
    path.write_bytes(html.render(Analysis(entry.trace().graph)))
    return path


def as_onnx(entry: Entry, folder: Path) -> Path:
    """What torch exports for Netron."""
    model, given = _built(entry)
    path = folder / "model.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (), str(path), kwargs=given, external_data=False, verbose=False)
    return path


def as_program(entry: Entry, folder: Path) -> Path:
    """What torch exports for Model Explorer."""
    model, given = _built(entry)
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(model, (), given, strict=False), path)
    return path


class _Tensors(nn.Module):
    """Returns a tuple: an output of a class of its own is unknown to who reads the file."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = self.model(**given).values()
        return tuple(value for value in values if isinstance(value, torch.Tensor))


def _built(entry: Entry) -> tuple[nn.Module, dict[str, Any]]:
    seed_everything(0)
    model, given = entry.build()
    if hasattr(model, "config"):
        model.config.use_cache = False
        model = _Tensors(model)
    return model.eval(), given


@contextlib.contextmanager
def _as_file(path: Path, _folder: Path) -> Iterator[str]:
    yield path.as_uri()


@contextlib.contextmanager
def _model_explorer(program: str, path: Path, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [program, str(path), "--no_open_in_browser", "--port", str(port)]
    with serve(command, port, folder / "model_explorer.log") as address:
        asked = quote(f'{{"models": [{{"url": "{path}"}}]}}')
        yield f"{address.rstrip('/')}/?data={asked}"


def opened_s(page: Page, address: str, drawn: str) -> float:
    """Seconds from the navigation until something is drawn."""
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(drawn, state="attached", timeout=90_000)
    return time.perf_counter() - start


def _page(browser: Browser, address: str) -> Page:
    context = browser.new_context(viewport=_SIZE)  # type: ignore[arg-type]
    if address.startswith("http"):  # Netron asks for consent to cookies otherwise
        context.add_cookies(
            [{"name": "consent", "value": str(int(time.time() * 1000)), "url": address}]
        )
        context.add_init_script(
            "const kept = window.eval;"
            "Object.defineProperty(window, 'eval', {get: () => kept, set: () => {}});"
        )
        context.route(
            lambda url: not url.startswith(address.partition("?")[0]),
            lambda route: route.abort("internetdisconnected"),
        )
    return context.new_page()


Making = Callable[[Entry, Path], Path]
Serving = Callable[[Path, Path], contextlib.AbstractContextManager[str]]


def measured(
    browser: Browser, entry: Entry, viewer: tuple[str, Making, Serving, str], out: Path | None
) -> str:
    """Size, opening time and readable share of one model in one viewer, for the table."""
    name, make, serving, drawn = viewer
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            path = make(entry, folder)
        except Exception as error:
            return f"not exported ({type(error).__name__})"
        times, share = [], float("nan")
        try:
            with serving(path, folder) as address:
                for _ in range(_ROUNDS):
                    page = _page(browser, address)
                    times.append(opened_s(page, address, drawn))
                    page.wait_for_timeout(1500)
                    share = page.evaluate(_READABLE, _SMALLEST_TEXT_PX)
                    if out is not None:
                        page.screenshot(path=out / f"{entry.file}_{name}.png")
                    page.context.close()
        except Exception as error:
            return f"not shown ({type(error).__name__})"
        readable = "" if share != share else f", {share:.0%} readable"
        return f"{path.stat().st_size / 1000:,.0f} kB, {statistics.median(times):.2f} s{readable}"


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model-explorer", default=shutil.which("model-explorer"))
    parser.add_argument("--out", type=Path, help="a folder for pictures of what is in sight")
    asked = parser.parse_args()
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)

    def explorer(path: Path, folder: Path) -> contextlib.AbstractContextManager[str]:
        return _model_explorer(asked.model_explorer, path, folder)

    def netron(path: Path, folder: Path) -> contextlib.AbstractContextManager[str]:
        return running_netron(path, folder / "netron.log")

    viewers: list[tuple[str, Making, Serving, str]] = [
        ("page", ours, _as_file, "html[data-ready] #picture .box"),
        ("Netron", as_onnx, netron, "g.node"),
    ]
    if asked.model_explorer:
        viewers.append(("Model Explorer", as_program, explorer, "canvas"))
    print("|", " | ".join(["model", *(viewer[0] for viewer in viewers)]), "|")
    print("|", " | ".join("---" for _ in range(len(viewers) + 1)), "|")
    by_file = {entry.file: entry for entry in ENTRIES}
    with open_browser() as browser:
        for file in MODELS:
            entry = by_file[file]
            cells = [measured(browser, entry, viewer, asked.out) for viewer in viewers]
            print("|", " | ".join([entry.title, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
