"""In what two graphs differ without being different: names, sizes of the data, where they ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from modelviz_callbacks.diff.matching import Matching
from modelviz_callbacks.graph.model import Node
from modelviz_callbacks.view.formatting import module_label, shape_text, shortened

IgnoredKind = Literal["sizes", "names", "devices", "lines", "version", "modes"]


@dataclass(frozen=True, slots=True)
class IgnoredDifference:
    """Something that differs and does not count.

    Attributes:
        kind: A stable word for programs.
        text: For people.
    """

    kind: IgnoredKind
    text: str


def ignored_differences(matching: Matching) -> tuple[IgnoredDifference, ...]:
    """What differs between two graphs and does not count.

    Args:
        matching: Which parts of them belong together.

    Returns:
        One of each kind at most, and one of each input's sizes.
    """
    return (
        *_sizes(matching),
        *_names(matching),
        *_devices(matching),
        *_modes(matching),
        *_lines(matching),
        *_version(matching),
    )


def _pairs(matching: Matching) -> Iterator[tuple[Node, Node]]:
    before, after = matching.before.graph, matching.after.graph
    for name, other in matching.nodes.items():
        yield before.by_name[name], after.by_name[other]


def _sizes(matching: Matching) -> Iterator[IgnoredDifference]:
    for one, two in _pairs(matching):
        if one.kind != "input" or one.outputs[0].shape == two.outputs[0].shape:
            continue
        sizes = f"{shape_text(one.outputs[0])}, is {shape_text(two.outputs[0])}"
        yield IgnoredDifference("sizes", f"the input {two.path or two.label} was {sizes}")


def _names(matching: Matching) -> Iterator[IgnoredDifference]:
    """What is called or numbered differently, the parts of it left out."""
    before, after = matching.before.graph, matching.after.graph
    found: list[tuple[str, str]] = []
    for one in before.modules:
        if one.name not in matching.calls:
            continue
        two = after.module_by_name[matching.calls[one.name]]
        scopes = matching.before.outline.scope_of(one), matching.after.outline.scope_of(two)
        if module_label(before, one, scopes[0]) != module_label(after, two, scopes[1]):
            found.append((module_label(before, one, ""), module_label(after, two, "")))
    found += [
        (one.path, two.path)
        for one, two in _pairs(matching)
        if one.kind == "input" and one.path != two.path
    ]
    if found:
        texts = [f"{old} is {new} now" for old, new in found]
        yield IgnoredDifference("names", shortened(texts, 4))


def _devices(matching: Matching) -> Iterator[IgnoredDifference]:
    found = dict.fromkeys(
        f"{a.device}, is {b.device}"
        for one, two in _pairs(matching)
        for a, b in zip(one.outputs, two.outputs, strict=False)
        if a.device != b.device
    )
    if found:
        yield IgnoredDifference("devices", f"the device was {shortened(list(found), 4)}")


def _modes(matching: Matching) -> Iterator[IgnoredDifference]:
    before, after = matching.before.graph, matching.after.graph
    count = sum(
        before.module_by_name[name].training != after.module_by_name[other].training
        for name, other in matching.calls.items()
    )
    if count:
        modules = f"{count} module{'s' * (count > 1)}"
        yield IgnoredDifference("modes", f"{modules} ran in the other mode (training, evaluation)")


def _lines(matching: Matching) -> Iterator[IgnoredDifference]:
    count = sum(one.source != two.source for one, two in _pairs(matching))
    if count:
        yield IgnoredDifference(
            "lines", f"{count} op{'s' * (count > 1)} came from another source line"
        )


def _version(matching: Matching) -> Iterator[IgnoredDifference]:
    versions = matching.before.graph.torch_version, matching.after.graph.torch_version
    if versions[0] != versions[1]:
        yield IgnoredDifference("version", f"torch was {versions[0]}, is {versions[1]}")
