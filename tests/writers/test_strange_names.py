"""Names from anybody's graph: no link, no script, no formula, nothing that steers a terminal."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from modelviz_callbacks.artifacts.tracking import _section
from modelviz_callbacks.cli import main
from modelviz_callbacks.diff.diff import diff
from modelviz_callbacks.graph import Argument, ModelGraph, ModuleCall, Node, Ref, TensorSpec
from modelviz_callbacks.writers.diff_svg import render as render_diff
from modelviz_callbacks.writers.formats import render
from tests.writers.graphs_by_hand import two_branches

STEERING = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
NAMES = (
    '"><script>alert(1)</script>',
    "' onload='alert(1)",
    "[click](javascript:alert(1))",
    "https://example.org/x www.example.org",
    "<img src=x onerror=alert(1)>",
    "--><!-- modelviz:model_graph -->",
    "```\n# heading",
    'x"]; click n0 "javascript:alert(1)"',
    "\x1b]0;title\x07\x9b31m\u202egnp.exe\u2066",
    "=cmd|'/c calc'!A1",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
)
SPEC = TensorSpec((2, 2), "float32")


def _graph(name: str) -> ModelGraph:
    part = name.replace("/", "_")
    nodes = (
        Node("x", "input", "input", outputs=(SPEC,), path=name),
        Node(
            f"{part}/{part}",
            "op",
            name,
            part,
            (SPEC,),
            (Argument("input", Ref("x")), Argument(name, name)),
            target=name,
        ),
        Node("out", "output", "output", arguments=(Argument("v", Ref(f"{part}/{part}")),)),
    )
    return ModelGraph(name, f"m.{name}", nodes, (ModuleCall(part, name, f"m.{name}"),))


@pytest.fixture(params=NAMES)
def strange(request: pytest.FixtureRequest) -> ModelGraph:
    return _graph(request.param)


@pytest.mark.parametrize("kind", ["text", "csv", "markdown", "mermaid", "svg"])
def test_no_text_steers_a_terminal(strange: ModelGraph, kind: str) -> None:
    assert not STEERING.search(render(strange, kind).decode())


def test_a_table_has_no_formula(strange: ModelGraph) -> None:
    rows = list(csv.reader(io.StringIO(render(strange, "csv").decode(), newline="")))
    assert not any(cell[:1] in "=+-@\t\r" for row in rows for cell in row if cell)


@pytest.mark.parametrize("picture", ["svg", "diff"])
def test_a_picture_has_no_script_and_no_attribute_of_a_name(
    strange: ModelGraph, picture: str
) -> None:
    other = two_branches()
    data = render(strange, "svg") if picture == "svg" else render_diff(diff(strange, other))
    assert not STEERING.search(data.decode())
    for element in ElementTree.fromstring(data).iter():
        assert element.tag.rpartition("}")[2] not in ("script", "a", "image", "foreignObject")
        assert not any(name.startswith("on") or "href" in name for name in element.attrib)


def test_markdown_has_no_link_of_a_name(strange: ModelGraph) -> None:
    page = render(strange, "markdown").decode().split("```mermaid")[0]
    for text in (page, _section(strange, {})):
        shown = re.sub(r"\\[!-/:-@\[-`{-~]", "", text)  # what a backslash escapes means nothing
        assert "](" not in shown
        assert "<" not in shown
        assert "://" not in shown
        assert "www." not in shown
        assert "`" not in shown


def test_a_diagram_has_no_statement_of_a_name(strange: ModelGraph) -> None:
    text = render(strange, "mermaid").decode()
    quoted = re.sub(r'"[^"\n]*"', "", text)
    assert "click" not in quoted
    assert "<script" not in text
    assert len(text.splitlines()) == len(render(_graph("net"), "mermaid").decode().splitlines())


def test_what_is_printed_of_a_file_steers_no_terminal(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    graph = _graph("\x1b]0;title\x07\x9b31m\u202egnp.exe\u2066")
    graph.save(tmp_path / "graph.json")
    path = str(tmp_path / "graph.json")
    two_branches().save(tmp_path / "other.json")
    assert main(["show", str(tmp_path), "--text"]) == 0
    for kind in ("text", "csv", "svg", "html", "markdown", "mermaid"):
        assert main(["export", path, "--format", kind, "--out", "-"]) == 0
    assert main(["diff", path, str(tmp_path / "other.json")]) == 1
    assert not STEERING.search(capsysbinary.readouterr().out.decode())


def test_ordinary_names_are_written_as_they_are() -> None:
    graph = _graph("My_Net größe 网络 α→β")
    assert "My_Net größe 网络 α→β" in render(graph, "text").decode()
    assert "My_Net größe 网络 α→β" in render(graph, "csv").decode()
    assert "**My_Net größe 网络 α→β** as" in _section(graph, {})
