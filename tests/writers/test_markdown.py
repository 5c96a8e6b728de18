"""The Markdown page and its diagram."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from markdown_it import MarkdownIt
from torch import nn

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph.model import ModelGraph, Note
from modelviz_callbacks.view.overview import overview
from modelviz_callbacks.writers import markdown, mermaid
from modelviz_callbacks.writers.mermaid import MOST_IN_A_DIAGRAM
from tests.networks import NETWORKS, graph_of, recorded

HOSTILE = "<script>&\"'`|*_#[x](y)"


def hostile_graph() -> ModelGraph:
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.Linear(2, 2))
    graph = recorded(model, torch.zeros(1, 2))
    note = Note("unused", "", f"Note {HOSTILE}")
    return replace(graph, name=f"Net {HOSTILE}", notes=(note,))


def parsed(graph: ModelGraph) -> tuple[str, str]:
    """The page as HTML (raw HTML allowed, as an attacker would wish), and its text alone."""
    html = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(markdown.render(Analysis(graph)).decode())
    )
    without_code = re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    words = re.sub(r"<[^>]+>", "", without_code)
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        words = words.replace(entity, character)
    return html, words


def test_the_page_has_facts_a_diagram_and_a_table() -> None:
    html, words = parsed(graph_of("article_cnn"))
    assert "<h1>ArticleCnn</h1>" in html
    assert 'class="language-mermaid"' in html
    assert html.count("<tr>") == 1 + 13
    assert "824,458" in words


def test_repeats_are_one_row_of_the_table() -> None:
    _, words = parsed(graph_of("bert"))
    assert words.count("intermediate/dense") == 1
    assert "×12" in words


def test_names_are_shown_as_they_are_and_mean_nothing_to_markdown() -> None:
    html, words = parsed(hostile_graph())
    assert "<script>" not in html
    assert "<a " not in html
    assert "<em>" not in html
    assert f"Net {HOSTILE}" in words
    assert f"Note {HOSTILE}" in words
    module = hostile_graph().modules[0].name
    (row,) = [line for line in words.splitlines() if line == module]
    assert row == module


@pytest.mark.parametrize("name", NETWORKS)
def test_a_diagram_has_a_node_a_box_and_a_line_an_edge(name: str) -> None:
    view = overview(graph_of(name), most=MOST_IN_A_DIAGRAM)
    lines = [
        line.strip() for line in mermaid.render(Analysis(graph_of(name))).decode().splitlines()
    ]
    ids = [line.split("(")[0].split("[")[0] for line in lines if ":::" in line]
    assert sorted(ids) == sorted(f"n{number}" for number in range(len(view.boxes)))
    arrows = [line.split(" --> ") for line in lines if " --> " in line]
    assert len(arrows) == len(view.edges)
    assert {end for arrow in arrows for end in arrow} <= set(ids)
    assert sum(line.startswith("subgraph") for line in lines) == len(view.groups)
    assert lines.count("end") == len(view.groups)


def test_nothing_in_a_name_can_end_a_label_of_the_diagram() -> None:
    text = mermaid.render(Analysis(hostile_graph())).decode()
    labels = re.findall(r'\["(.*)"\]|\("(.*)"\)', text)
    for label in ("".join(found) for found in labels):
        bare = label.replace("<br>", "")
        assert not re.search(r"[\"<>`]", bare)
        assert not re.search(r"#(?!\d+;)", bare)
    shown = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), text)
    assert HOSTILE[:8] in shown
