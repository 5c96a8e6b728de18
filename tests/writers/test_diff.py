"""The difference as text and as a picture: every change once, in the colour of what happened."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from modelviz_callbacks.diff.diff import GraphDiff, diff
from modelviz_callbacks.diff.diff_view import diff_view
from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.writers import diff_svg, diff_text
from tests.browser import open_browser
from tests.networks import NETWORKS, Stack, graph_of, mlp, recorded

_SVG = "{http://www.w3.org/2000/svg}"
X = torch.zeros(3, 8)
HOSTILE = "<script>alert(1)</script>&\"'\x07"


def text(found: GraphDiff) -> str:
    return diff_text.render(found).decode()


@cache
def before() -> ModelGraph:
    return recorded(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.ReLU(), nn.Linear(16, 10)), X)


@cache
def after() -> ModelGraph:
    layers = nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 20)
    return recorded(nn.Sequential(*layers), X)


def test_the_text_says_what_was_added_removed_and_changed() -> None:
    assert text(diff(before(), after())).splitlines() == [
        "Sequential: 1 added, 1 removed, 1 changed",
        "parameters 314 -> 484 (+170), ops 4",
        "",
        "Modules",
        "  - 1: Tanh",
        "  + 2: Dropout(p 0.1)",
        "  ~ 3: Linear(16 -> 10) became Linear(16 -> 20)",
        "",
        "What follows from it",
        "  ~ output: 3×10 float32 became 3×20 float32",
        "",
        "Not counted",
        "  2 is 1 now",
    ]


def test_the_text_of_equal_graphs_says_so_in_two_lines() -> None:
    assert text(diff(before(), before())) == (
        "Sequential: the same architecture\nparameters 314, ops 4\n"
    )


def test_what_reads_alike_is_one_line() -> None:
    def blocks(width: int) -> ModelGraph:
        return recorded(Stack(*(mlp(width) for _ in range(12))), X)

    lines = text(diff(blocks(8), blocks(9))).splitlines()
    assert "  ~ Linear(8 -> 8) became Linear(8 -> 9) (12): blocks.0-11.0" in lines
    assert "  ~ Linear(8 -> 8) became Linear(9 -> 8) (12): blocks.0-11.2" in lines
    some = recorded(Stack(*(mlp(9 if n in (2, 5, 6) else 8) for n in range(12))), X)
    lines = text(diff(blocks(8), some)).splitlines()
    assert "  ~ Linear(8 -> 8) became Linear(8 -> 9) (3): blocks.[2,5,6].0" in lines


def test_modules_that_are_frozen_whole_are_told_whole() -> None:
    model, (image,) = NETWORKS["resnet18"]()
    for name in ("conv1", "bn1", "layer1", "layer2"):
        model.get_submodule(name).requires_grad_(False)
    lines = text(diff(graph_of("resnet18"), recorded(model, image))).splitlines()
    assert lines[3:] == ["Modules", "  ~ frozen (20): conv1, bn1, layer1-2"]


def test_names_are_joined_only_where_one_number_differs() -> None:
    assert diff_text.ranges(["a.0.b", "a.1.b", "a.2.b"]) == ["a.0-2.b"]
    assert diff_text.ranges(["a.0.b1", "a.0.b2", "a.1.b1", "a.1.b2"]) == ["a.0-1.b1", "a.0-1.b2"]
    assert diff_text.ranges(["x", "x", "y"]) == ["x", "x", "y"]
    assert diff_text.ranges([f"m{n}.{'z' * n}" for n in range(9)])[0].endswith("3 more")


# --- the picture


def boxes(found: GraphDiff) -> dict[str, str]:
    """The boxes of the picture by their names, with the class of their rectangles."""
    root = ElementTree.fromstring(diff_svg.render(found))
    return {
        group.attrib["data-name"]: group.find(f"{_SVG}rect").attrib["class"]  # type: ignore[union-attr]
        for group in root.iter(f"{_SVG}g")
    }


def test_each_box_has_the_colour_of_what_happened_to_it() -> None:
    assert boxes(diff(before(), after())) == {
        "input": "end",
        "0_Linear": "same",
        "1_Tanh": "removed",
        "1_ReLU": "same",
        "2_Dropout": "added",
        "3_Linear": "changed",
        "output": "end",
    }


def test_the_box_of_a_changed_layer_says_what_it_was() -> None:
    svg = diff_svg.render(diff(before(), after())).decode()
    assert "Linear(16 -&gt; 20)" in svg
    assert "was Linear(16 -&gt; 10)" in svg


def test_a_removed_layer_is_drawn_between_what_was_before_and_after_it() -> None:
    view = diff_view(diff(before(), after()))
    edges = {(edge.source, edge.target) for edge in view.overview.edges}
    assert {("0_Linear", "1_Tanh"), ("1_Tanh", "1_ReLU"), ("0_Linear", "1_ReLU")} <= edges


def test_a_repeat_folds_only_where_all_copies_fared_alike() -> None:
    twelve = recorded(Stack(*(mlp() for _ in range(12))), X)
    fifteen = recorded(Stack(*(mlp() for _ in range(15))), X)
    view = diff_view(diff(twelve, fifteen))
    drawn = [(box.times, box.label, view.outcomes[box.name]) for box in view.overview.boxes]
    assert drawn[1:-1] == [(12, "blocks.0-11", "same"), (3, "blocks.12-14", "added")]
    view = diff_view(diff(fifteen, twelve))
    drawn = [(box.times, box.label, view.outcomes[box.name]) for box in view.overview.boxes]
    assert drawn[1:-1] == [(12, "blocks.0-11", "same"), (3, "blocks.12-14", "removed")]


def test_modules_are_opened_only_where_something_differs() -> None:
    model, inputs = NETWORKS["resnet18"]()
    model.get_submodule("layer3")[1].conv2 = nn.Conv2d(256, 256, 5, padding=2, bias=False)
    view = diff_view(diff(graph_of("resnet18"), recorded(model, *inputs)))
    assert [name for name, outcome in view.outcomes.items() if outcome != "same"] == [
        "layer3/1_Block/conv2"
    ]
    assert [group.name for group in view.overview.groups] == ["layer3", "layer3/1_Block"]


@pytest.mark.parametrize(("one", "two"), list(combinations(sorted(NETWORKS), 2))[::3])
def test_pictures_of_any_two_networks_stay_readable(one: str, two: str) -> None:
    found = diff(graph_of(one), graph_of(two))
    view = diff_view(found)
    assert len(view.overview.boxes) + len(view.overview.groups) <= 121
    names = set(boxes(found))
    assert {box.name for box in view.overview.boxes} <= names


def test_hostile_names_stay_text() -> None:
    def hostile(width: int) -> ModelGraph:
        model = nn.Sequential()
        model.add_module(HOSTILE, nn.Linear(8, width))
        return recorded(model, X)

    found = diff(hostile(4), hostile(5))
    assert HOSTILE.replace("\x07", "\ufffd") in text(found)
    root = ElementTree.fromstring(diff_svg.render(found))
    assert not list(root.iter(f"{_SVG}script"))
    assert any("alert(1)" in (node.text or "") for node in root.iter(f"{_SVG}text"))


@pytest.mark.browser
def test_a_browser_shows_the_colours_on_light_and_on_dark_ground() -> None:
    svg = diff_svg.render(diff(before(), after())).decode()
    found: dict[str, dict[str, str]] = {}
    with open_browser() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_content(svg)
            found[scheme] = page.evaluate(
                "Object.fromEntries([...document.querySelectorAll('g rect')].map("
                "rect => [rect.getAttribute('class'), getComputedStyle(rect).fill]))"
            )
    for colours in found.values():
        assert _strongest(colours["added"]) == 1, "green"
        assert _strongest(colours["removed"]) == 0, "red"
        red, green, blue = _parts(colours["changed"])
        assert min(red, green) > blue, "amber"
    assert found["light"] != found["dark"]


def _parts(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def _strongest(colour: str) -> int:
    parts = _parts(colour)
    return parts.index(max(parts))
