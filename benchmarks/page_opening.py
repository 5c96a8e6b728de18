"""How long the interactive page takes to be written, to open and to open a box, in a real browser.

A BERT of 12 layers, Llama-3.1-405B's architecture on the meta device (no downloads), a residual
network of 10,000 ops, and 10,000 and 50,000 ops in a row in which nothing repeats. Opened is a page
when its picture is drawn. Each box that can be opened at first sight, and then the largest in each
one opened, is opened in place; the slowest of all is told. Run it with
``python -m benchmarks.page_opening``.
"""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from playwright.sync_api import Browser, sync_playwright
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.writers import html
from tests.writers.graphs_by_hand import chain

_TIMES = 5

_DRAWN = """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(
  () => done([performance.now(), document.querySelectorAll('#picture .box').length]))))"""


def bert() -> ModelGraph:
    model = BertForSequenceClassification(BertConfig())
    return trace(model, torch.ones(2, 128, dtype=torch.long)).graph


def llama() -> ModelGraph:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=126,
        num_attention_heads=128,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).train()
        ids = torch.zeros(1, 128, dtype=torch.long)
        # Given, so that transformers need not look at values to find packed sequences.
        mask = torch.ones(1, 1, 128, 128, dtype=torch.bool)
        positions = torch.arange(128)[None]
    return trace(
        model, input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
    ).graph


# Opens boxes that are on the picture one at a time, and then the largest of what that brought.
_OPENED_ONE_BY_ONE = """async (depth) => {
  const app = window.modelviz;
  const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const size = box => box.children ? box.children.length : 0;
  const closed = () => app.scene.shapes.map(shape => shape.box)
    .filter(box => app.tree.canOpen(box) && !app.opened.has(box.id));
  const toggled = async box => {
    const start = performance.now();
    app.toggle(box);
    await drawn();
    return performance.now() - start;
  };
  const taken = [];
  for (let level = 0; level < depth; level += 1) {
    const boxes = closed().sort((a, b) => size(b) - size(a)).slice(0, 30);
    if (!boxes.length) break;
    for (const box of boxes) {
      taken.push(await toggled(box));
      await toggled(box);
    }
    taken.push(await toggled(boxes[0]));
  }
  return taken;
}"""


class _Block(nn.Module):
    def __init__(self, width: int, kind: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width * (1 + kind % 3))
        self.down = nn.Linear(width * (1 + kind % 3), width)
        self.act = (nn.GELU(), nn.ReLU(), nn.Tanh(), nn.SiLU())[kind % 4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(self.act(self.up(self.norm(x))))
        return x + y * 0.5


def residual() -> ModelGraph:
    """1,667 residual blocks of six ops, of twelve kinds in no order."""
    kinds = random.Random(0).choices(range(12), k=1_667)
    return trace(nn.Sequential(*(_Block(8, kind) for kind in kinds)), torch.ones(2, 8)).graph


def row(ops: int) -> ModelGraph:
    """Ops in a row at the top level, of ten kinds in no order."""
    kinds = ["relu", "sin", "conv2d", "linear", "exp", "tanh", "abs", "mul", "sqrt", "gelu"]
    return chain(ops, random.Random(0).choices(kinds, k=ops))


_MODELS: dict[str, Callable[[], ModelGraph]] = {
    "BERT, 12 layers": bert,
    "Llama 405B": llama,
    "residual blocks": residual,
    "a row of 10,000": lambda: row(10_000),
    "a row of 50,000": lambda: row(50_000),
}


def boxes_opened_s(browser: Browser, path: Path) -> list[float]:
    """Seconds until a box is open in place and drawn, of many boxes."""
    page = browser.new_page()
    page.goto(path.as_uri())
    page.evaluate(_DRAWN)
    found = [milliseconds / 1000 for milliseconds in page.evaluate(_OPENED_ONE_BY_ONE, 4)]
    page.close()
    return found


def opening_s(browser: Browser, path: Path) -> float:
    """Seconds from the start of the navigation until the picture is on the screen."""
    page = browser.new_page()
    page.goto(path.as_uri())
    milliseconds, boxes = page.evaluate(_DRAWN)
    page.close()
    if not boxes:
        raise RuntimeError(f"{path} shows no box")
    return float(milliseconds) / 1000


def main() -> None:
    torch.manual_seed(0)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, make in _MODELS.items():
            graph = make()
            start = time.perf_counter()
            made = html.render(Analysis(graph))
            written = time.perf_counter() - start
            path = Path(folder) / "index.html"
            path.write_bytes(made)
            opened = [opening_s(browser, path) for _ in range(_TIMES)]
            boxes = boxes_opened_s(browser, path)
            print(
                f"{name}: {len(graph.ops):,} ops, {len(made) / 1000:,.0f} kB, "
                f"written in {written:.2f} s, opened in {statistics.median(opened):.2f} s "
                f"(slowest of {_TIMES}: {max(opened):.2f} s); {len(boxes)} boxes opened in "
                f"{statistics.median(boxes):.3f} s, the slowest in {max(boxes):.3f} s",
                flush=True,
            )
        browser.close()


if __name__ == "__main__":
    main()
