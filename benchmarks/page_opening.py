"""How long the interactive page takes to be written and to open, in a Chromium without a screen.

A BERT of 12 layers, and Llama-3.1-405B's architecture on the meta device; no downloads. Opened
is a page when its picture is drawn. Run it with ``python -m benchmarks.page_opening``.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import Browser, sync_playwright
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.writers import html

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
        for name, make in (("BERT, 12 layers", bert), ("Llama 405B", llama)):
            graph = make()
            start = time.perf_counter()
            made = html.render(Analysis(graph))
            written = time.perf_counter() - start
            path = Path(folder) / "index.html"
            path.write_bytes(made)
            opened = [opening_s(browser, path) for _ in range(_TIMES)]
            print(
                f"{name}: {len(graph.ops):,} ops, {len(made) / 1000:,.0f} kB, "
                f"written in {written:.2f} s, opened in {statistics.median(opened):.2f} s "
                f"(slowest of {_TIMES}: {max(opened):.2f} s)"
            )
        browser.close()


if __name__ == "__main__":
    main()
