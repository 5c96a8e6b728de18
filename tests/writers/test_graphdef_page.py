"""A real TensorBoard in a real browser shows what was written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker
from modelviz_callbacks.writers.graphdef import graph_def, named_graphs
from tests.browser import open_browser
from tests.tensorboard_browser import GraphPage, ask, running_tensorboard
from tests.writers.graphs_by_hand import GraphByHand, chain, two_branches

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_SHOWN_WITHIN_S = 60


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def _store(graph: ModelGraph, target: object) -> None:
    analysis = Analysis(graph)
    with TensorBoardTracker(target) as sink:
        sink.add_graph(graph_def(analysis).SerializeToString(deterministic=True))
        for named in named_graphs(analysis):
            sink.add_named_graph(named.tag, named.metadata)


@pytest.mark.slow
def test_a_person_finds_the_model_its_parameters_and_its_costs(
    tmp_path: Path, browser: Browser
) -> None:
    _store(two_branches(), tmp_path / "runs" / "cnn")
    with running_tensorboard(tmp_path / "runs", tmp_path / "log.txt") as address:
        page = GraphPage(browser, address)
        top = ["x", "cnn", "flatten", "mlp1", "mlp2", "cat", "fc", "output"]
        assert sorted(page.labels()) == sorted(top)
        assert {"8×1×28×28", "8×6272", "8×128"} <= set(page.edge_labels())

        page.expand("cnn")
        page.expand("cnn/0_Conv2d")
        assert {"0_Conv2d", "1_ReLU", "2_Conv2d", "conv2d"} <= set(page.labels())
        assert page.circles("cnn/0_Conv2d/conv2d") == ["weight", "bias"]
        card = page.select("cnn/0_Conv2d/conv2d")
        assert '{"s":"(1, 1)"}' in card
        assert '{"s":"model.py:12 in forward"}' in card

        page.choose_tag("modules, cost: 1 s = 1 MFLOP")
        assert set(page.names()) == {"x", "cnn", "mlp1", "mlp2", "cat", "fc", "output"}
        page.show_profile()
        page.color_by("Compute time")
        assert page.scale() == ["0 µs", "18.1 s"]
        page.color_by("Memory")
        assert page.scale() == ["0 B", "1.53 MB"]
        assert page.errors == []


def test_nasty_names_are_drawn_as_text_and_break_nothing(tmp_path: Path, browser: Browser) -> None:
    build = GraphByHand()
    x = build.leaf("input", "größe")
    for label in ("<script>alert(1)</script>&\"'", "constructor", "__root__", "a:1", "^x"):
        x = build.op(build.module("", label, label, "model.Block"), "relu", x)
    build.output(x)
    _store(build.graph(), tmp_path / "runs")
    with running_tensorboard(tmp_path / "runs", tmp_path / "log.txt") as address:
        page = GraphPage(browser, address)

        assert {"größe", "constructor_", "__root___", "a_1", "_x", "output"} <= set(page.labels())
        assert any(name.startswith("<script>alert(1)<_script>") for name in page.names())
        assert page.errors == []


@pytest.mark.slow
def test_a_long_chain_of_ops_opens_box_by_box(tmp_path: Path, browser: Browser) -> None:
    _store(chain(3000), tmp_path / "runs")
    with running_tensorboard(tmp_path / "runs", tmp_path / "log.txt") as address:
        page = GraphPage(browser, address)
        outer = "loop 0-999"
        assert len(page.names()) <= 50
        page.expand(outer)
        inner = next(name for name in page.names() if name.startswith(f"{outer}/steps 0-"))
        page.expand(inner)
        step = f"{inner}/step 0"
        page.expand(step)

        assert {f"{step}/relu", f"{step}/sin", f"{step}/conv2d"} <= set(page.names())
        assert page.errors == []


@pytest.mark.process
@pytest.mark.parametrize("load_fast", ["auto", "false"])
def test_scalars_before_and_after_the_graph_show_in_a_tensorboard_that_was_there_first(
    tmp_path: Path, load_fast: str
) -> None:
    runs = tmp_path / "runs"
    writer = SummaryWriter(str(runs / "run"))
    options = (tmp_path / "log.txt", f"--load_fast={load_fast}")
    with running_tensorboard(runs, *options) as address:
        writer.add_scalar("loss", 3.0, 0)
        writer.flush()
        _wait_for_steps(address, [0])
        _store(two_branches(), writer)
        writer.add_scalar("loss", 2.0, 1)
        writer.flush()
        _wait_for_steps(address, [0, 1])

        info = ask(address, "graphs/info")["run"]
        assert info["run_graph"]
        assert len(info["tags"]) == 2
    writer.close()


def _wait_for_steps(address: str, steps: list[int]) -> None:
    end, seen = time.monotonic() + _SHOWN_WITHIN_S, None
    while time.monotonic() < end:
        try:
            rows = ask(address, "scalars/scalars", run="run", tag="loss")
        except HTTPError as error:  # nothing is known of the run yet
            seen = error
        else:
            seen = [step for _, step, _ in rows]
            if seen == steps:
                return
        time.sleep(0.3)
    raise AssertionError(f"TensorBoard shows {seen!r} instead of {steps!r}")
