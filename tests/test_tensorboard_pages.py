"""Real models in a real TensorBoard in a real browser: every graph and every colouring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelviz_callbacks import GraphLogger, ModelGraph
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import Capture, Recording, op_times, to_graph, with_flops
from modelviz_callbacks.tracing.capture.autograd_record import record_backward
from modelviz_callbacks.tracing.lowering.to_backward_graph import to_backward_graph
from modelviz_callbacks.tracing.steps.step_timer import StepTimer
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker
from modelviz_callbacks.writers.graphdef import graph_def, named_graphs, timed_graph
from tests.browser import open_browser
from tests.lightning_modules import Gan, data, trainer_for
from tests.models import TwoBranches
from tests.samples import one_and_the_rest_slow
from tests.tensorboard_browser import GraphPage, running_tensorboard

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

TIMES = "time of step 1"

# Points on the screen below which nobody reads a label.
_SMALLEST_TEXT = 6.0

# The forward, the times of its ops, and the backward.
Drawn = tuple[ModelGraph, dict[str, float], ModelGraph]


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, four stages of two residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, padding=3)
        widths = [8, 8, 16, 32, 64]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    ResidualBlock(widths[n], widths[n + 1], 1 + (n > 0)),
                    ResidualBlock(widths[n + 1], widths[n + 1], 1),
                )
                for n in range(4)
            )
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.stages(F.max_pool2d(self.stem(image), 2))
        return self.fc(features.mean(dim=(2, 3)))


def of_forward(model: nn.Module, *args: Any, **kwargs: Any) -> Drawn:
    """The graphs of a forward and of its backward, and the times of another forward."""
    capture = Capture(model)
    capture.start(args, kwargs)
    try:
        result = model(*args, **kwargs)
    finally:
        capture.stop()
    recording = capture.finish(result)
    record = record_backward(recording)
    graph = with_flops(to_graph(recording), recording)
    assert record is not None
    timer = StepTimer(model)
    timer.start()
    try:
        model(*args, **kwargs)
    finally:
        timer.stop()
    times = op_times(timer.finish(), graph)
    return graph, dict(times.times_us), to_backward_graph(record, recording, graph)


def cnn(folder: Path) -> Drawn:
    return of_forward(TwoBranches(), torch.rand(2, 1, 8, 8))


def resnet(folder: Path) -> Drawn:
    return of_forward(ResNet(), torch.rand(2, 3, 64, 64))


def small_bert() -> nn.Module:
    """Twelve layers of 32 features."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=64,
    )
    return BertForSequenceClassification(config).train()


def bert(folder: Path) -> Drawn:
    tokens = torch.randint(0, 100, (2, 16))
    return of_forward(small_bert(), input_ids=tokens, labels=torch.tensor([0, 1]))


def gan(folder: Path) -> Drawn:
    recordings: list[Recording] = []
    timer: StepTimer | None = None

    class TimesTheSecondStep(pl.Callback):
        def on_train_batch_start(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
        ) -> None:
            nonlocal timer
            if batch_idx == 1:
                timer = StepTimer(pl_module)
                timer.start()

        def on_train_batch_end(
            self,
            trainer: pl.Trainer,
            pl_module: pl.LightningModule,
            outputs: Any,
            batch: Any,
            batch_idx: int,
        ) -> None:
            if timer is not None:
                timer.stop()

    with patch.object(Run, "captured", lambda _, recording, stage="": recordings.append(recording)):
        callbacks = (
            GraphLogger(dirpath=folder, on_error="raise", background=False),
            TimesTheSecondStep(),
        )
        with suppress(CaptureError):  # the files are missing, since nothing was handed over
            trainer_for(folder, *callbacks, max_steps=4).fit(Gan(), data())
    assert timer is not None
    (recording,) = recordings
    record = record_backward(recording)
    graph = to_graph(recording)
    assert record is not None
    times = op_times(timer.finish(), graph)
    return graph, dict(times.times_us), to_backward_graph(record, recording, graph)


MODELS: dict[str, Callable[[Path], Drawn]] = {
    "CNN": cnn,
    "ResNet": resnet,
    "BERT": bert,
    "GAN": gan,
}


def store(drawn: Drawn, folder: Path) -> list[str]:
    """Writes all that a run shows of a graph; returns the tags."""
    graph, times_us, backward = drawn
    analysis = Analysis(graph)
    named = [
        *named_graphs(analysis, None if backward is None else Analysis(backward)),
        timed_graph(analysis, times_us, TIMES),
    ]
    with TensorBoardTracker(folder) as sink:
        sink.add_graph(graph_def(analysis).SerializeToString(deterministic=True))
        for one in named:
            sink.add_named_graph(one.tag, one.metadata)
    return [one.tag for one in named]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def assert_readable(page: GraphPage) -> None:
    """Every label of what is drawn is large enough to be read, and starts with its name.

    The page itself cuts labels that are wider than their box, the shortest ones after 8 letters.
    """
    shown = {name.rpartition("/")[2] for name in page.names()}
    labels = page.page.locator("g.node:not([data-name*='~~']) > text.nodelabel").evaluate_all(
        "texts => texts.map(t => [t.firstChild.textContent, t.getBoundingClientRect().height])"
    )
    for label, height in labels:
        start = label.removesuffix("…")
        assert start == label or len(start) >= 8, f"{label!r} is cut off"
        assert any(name.startswith(start) for name in shown), f"{label!r} is no name"
        assert height >= _SMALLEST_TEXT, f"{label!r} is {height} points high"


def top_of(graph: ModelGraph) -> Counter[str]:
    """What stands at the top level of the graph, circles aside, and how many nodes each holds."""
    written = graph_def(Analysis(graph)).node
    return Counter(node.name.partition("/")[0] for node in written if "Const" not in node.op)


def fills(page: GraphPage) -> list[str]:
    """The colours of the boxes and nodes drawn now."""
    found: list[str] = page.page.locator("g.node > g.nodeshape .nodecolortarget").evaluate_all(
        "shapes => shapes.map(shape => getComputedStyle(shape).fill)"
    )
    return found


@pytest.mark.parametrize("model", one_and_the_rest_slow(MODELS))
def test_the_op_graph_each_named_graph_and_all_their_colours_are_readable(
    model: str, tmp_path: Path, browser: Browser
) -> None:
    torch.manual_seed(0)
    drawn = MODELS[model](tmp_path / "model")
    graph, tags = drawn[0], store(drawn, tmp_path / "runs")
    with running_tensorboard(tmp_path / "runs", tmp_path / "log.txt") as address:
        page = GraphPage(browser, address)
        assert set(page.names()) == set(top_of(graph))
        assert len(page.names()) <= 50
        assert_readable(page)
        ((largest, _),) = top_of(graph).most_common(1)
        page.expand(largest)
        assert len(page.names()) > len(top_of(graph))
        assert_readable(page)

        for tag in tags:
            page.choose_tag(tag)
            assert len(page.names()) > 1
            assert_readable(page)
            if tag == "backward":
                assert set(page.names()) == set(top_of(drawn[2]))
                continue
            page.show_profile()
            for colouring, zero in (("Compute time", "0 µs"), ("Memory", "0 B")):
                page.color_by(colouring)
                least, most = page.scale()
                assert least == zero
                assert float(most.split()[0]) > 0
                # The scale is not spent on one box around everything.
                assert len(set(fills(page))) > 1, (tag, colouring)
        assert page.errors == []


def test_the_branches_of_the_cnn_stand_side_by_side_at_first_sight(
    tmp_path: Path, browser: Browser
) -> None:
    store(cnn(tmp_path), tmp_path / "runs")
    with running_tensorboard(tmp_path / "runs", tmp_path / "log.txt") as address:
        page = GraphPage(browser, address)
        left, right = (page.node(name).bounding_box() for name in ("mlp1", "mlp2"))

        assert left is not None
        assert right is not None
        assert abs(left["y"] - right["y"]) < left["height"] / 2
        assert abs(left["x"] - right["x"]) > left["width"]


@pytest.mark.slow
def test_50_000_ops_open_in_the_browser_with_few_boxes_at_the_top(
    tmp_path: Path, browser: Browser
) -> None:
    from tests.writers.graphs_by_hand import layers

    graph = layers(25_000)
    analysis = Analysis(graph)
    named = named_graphs(analysis)
    with TensorBoardTracker(tmp_path / "runs") as sink:
        sink.add_graph(graph_def(analysis).SerializeToString(deterministic=True))
        for one in named:
            sink.add_profile(one.tag, one.metadata)
    with running_tensorboard(tmp_path / "runs", tmp_path / "log.txt") as address:
        page = GraphPage(browser, address)

        assert len(page.names()) <= 50
        page.expand("layers")
        assert 1 < len(page.names()) <= 100
        page.choose_tag(named[0].tag)
        page.show_profile()
        page.color_by("Compute time")
        assert page.scale()[0] == "0 µs"
        assert page.errors == []
