"""``graph.onnx`` in a real Netron: the author's modules, their insides, and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from modelviz_callbacks import trace
from tests.browser import open_browser
from tests.models import build
from tests.netron_browser import ModelPage, running_netron

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, tmp_path: Path, make: Callable[[], nn.Module]) -> Iterator[ModelPage]:
    model = make()
    path = trace(model, *arguments(model)).save_onnx(tmp_path / "graph.onnx")
    with running_netron(path, tmp_path / "netron.log") as address:
        yield ModelPage(browser, address)


def arguments(model: nn.Module) -> tuple[torch.Tensor, ...]:
    if isinstance(model, BertForSequenceClassification):
        return (torch.randint(0, 1000, (2, 16)),)
    return build("TwoBranches")[1]


def cnn() -> nn.Module:
    return build("TwoBranches")[0]


def bert() -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_hidden_layers=12)).train()


@pytest.mark.parametrize("make", [cnn])
def test_the_cnn_is_the_modules_that_its_author_named(page: ModelPage) -> None:
    assert page.boxes() == [
        "image",
        *("cnn", "ƒ", "Flatten", "mlp1", "ƒ", "Relu", "mlp2", "ƒ", "Relu", "Concat", "fc", "ƒ"),
        "output",
    ]
    assert page.edge_labels() == [
        *("2×1×8×8", "2×6×2×2", "2×24", "2×24", "2×5", "2×5", "2×5", "2×5", "2×10", "2×10")
    ]
    weights = [text for text in page.rows() if text.startswith(("weight", "bias"))]
    assert [shape_in(text) for text in weights] == ["5×24", "5", "5×24", "5", "10×10", "10"]
    assert page.errors == []


@pytest.mark.parametrize("make", [cnn])
def test_a_box_of_the_cnn_opens_onto_its_layers_with_their_weights(page: ModelPage) -> None:
    page.open("cnn")
    block = ["Conv", "BatchNormalization", "Relu", "MaxPool"]
    assert page.boxes()[1:-1] == [*block, *block]
    assert len(page.edge_labels()) == 9
    shapes = [shape_in(text) for text in page.rows()]
    assert shapes.count("4×1×3×3") == 1
    assert shapes.count("6×4×3×3") == 1
    assert page.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("make", [bert])
def test_a_bert_of_twelve_layers_opens_down_to_its_query(page: ModelPage) -> None:
    """The top level is what ``bert``, which holds nearly all of the model, is made of."""
    assert page.boxes() == [
        *("input_ids", "embeddings", "ƒ", "encoder", "ƒ", "pooler", "ƒ"),
        *("classifier", "ƒ", "out.logits"),
    ]
    page.open("encoder")
    assert page.boxes().count("BertLayer") == 12
    assert page.edge_labels() == ["2×16×768"] * 13
    assert any("intermediate.dense.weight" in text for text in page.rows())
    page.open("BertLayer")
    # A function between the modules; Netron shortens its name.
    for inner in ("attention", "apply_chun…to_forward"):
        assert inner in page.boxes()
    page.open("attention")
    page.open("self")
    for inner in ("query", "key", "value"):
        assert inner in page.boxes()
    assert any(box.startswith("sdpa_atten") for box in page.boxes())
    page.open("query")
    assert {"MatMul", "Add"} <= set(page.boxes())
    assert page.errors == []


def shape_in(text: str) -> str:
    """The shape in a row like ``weight〈5×24〉``."""
    return text.partition("〈")[2].partition("〉")[0]
