"""How large the interactive page of a large model is; how long it takes is for the benchmarks."""

from __future__ import annotations

import random

import pytest

from benchmarks.page_opening import bert, llama
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.writers import html
from tests.writers.graphs_by_hand import chain


def size(graph: ModelGraph) -> int:
    return len(html.render(Analysis(graph)))


@pytest.mark.slow
def test_the_pages_of_a_bert_and_of_a_llama_of_405_billion_stay_below_a_megabyte() -> None:
    assert size(bert()) < 1_000_000
    assert size(llama()) < 1_000_000


@pytest.mark.slow
def test_the_page_of_fifty_thousand_ops_without_order_stays_below_fifteen_megabytes() -> None:
    kinds = ["relu", "sin", "conv2d", "linear", "exp", "tanh", "abs", "mul", "sqrt", "gelu"]
    graph = chain(50_000, random.Random(0).choices(kinds, k=50_000))
    assert size(graph) < 15_000_000
