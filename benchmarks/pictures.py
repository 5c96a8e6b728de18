"""What pictures and texts of the zoo look like, in figures read off the files.

    python benchmarks/pictures.py --every 10        a sample of the zoo
    python benchmarks/pictures.py --graphs DIR      graph.json files instead
    python benchmarks/pictures.py --speed           one picture each of 1,000 to 100,000 ops

Counted are boxes, the ratio of width to height, labels with a Python repr, boxes "N steps",
lines of text over 80 columns, and labels that lie on each other.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from xml.etree import ElementTree

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.graph import Argument, Node, Ref, TensorSpec
from modelviz_callbacks.writers import markdown, svg, text
from modelviz_callbacks.writers.picture_text import text_width

_SVG = "{http://www.w3.org/2000/svg}"
# What a label would show if a value had been put into it as Python writes it.
_REPR = re.compile(
    r"\w+Value\(|Ref\(|PythonText|<\w+ object|\bslice\(|\btorch\.\w|Ellipsis|0x[0-9a-f]+"
)
_BARE = re.compile(r"^(tensor 0|constant)$")
_STEPS = re.compile(r"^\d+ steps$")
_MOST_BOXES, _MOST_COLUMNS, _MOST_IN_A_DIAGRAM = 60, 80, 40


@dataclass
class Figures:
    """What was read off the files of one graph."""

    name: str
    ops: int
    boxes: int
    ratio: float
    reprs: int
    steps: int
    wide_lines: int
    overlaps: int
    in_diagram: int
    seconds: float

    @property
    def faults(self) -> list[str]:
        """In what it is not as it should be."""
        found = {
            "boxes": self.boxes > _MOST_BOXES,
            "ratio": not 1 / 3 <= self.ratio <= 3,
            "reprs": self.reprs > 0,
            "steps": self.steps > 0,
            "wide lines": self.wide_lines > 0,
            "overlaps": self.overlaps > 0,
            "diagram": self.in_diagram > _MOST_IN_A_DIAGRAM,
        }
        return [name for name, is_so in found.items() if is_so]


def figures_of(graph: ModelGraph, name: str) -> Figures:
    """Writes SVG, text and Markdown of a graph and reads them back."""
    analysis = Analysis(graph)
    start = time.perf_counter()
    drawn = ElementTree.fromstring(svg.render(analysis))
    seconds = time.perf_counter() - start
    groups = list(drawn.iter(f"{_SVG}g"))
    names = {(g.get("class"), g.get("data-name")) for g in groups if g.get("class") != "heading"}
    labels = [(found, found.text or "") for found in drawn.iter(f"{_SVG}text")]
    told = text.render(analysis).decode()
    diagram = markdown.render(analysis).decode().partition("```mermaid")[2].partition("```")[0]
    return Figures(
        name,
        len(graph.ops),
        len(names),
        float(drawn.get("width", "1")) / float(drawn.get("height", "1")),
        sum(bool(_REPR.search(words) or _BARE.match(words)) for _, words in labels),
        sum(bool(_STEPS.match(words)) for _, words in labels),
        sum(len(line) > _MOST_COLUMNS for line in told.splitlines()),
        _overlaps([found for found, _ in labels]),
        len(re.findall(r"^ *n\d+[(\[]|^ *subgraph", diagram, re.MULTILINE)),
        seconds,
    )


def _overlaps(labels: list[ElementTree.Element]) -> int:
    """How many pairs of labels lie on each other."""
    places = []
    for label in labels:
        size = float(label.get("font-size", "10"))
        classes = label.get("class", "").split()
        # A little less than the room that is left for any face.
        width = text_width(label.text or "", size, bold="bold" in classes) * 0.9
        x, y = float(label.get("x", "0")), float(label.get("y", "0"))
        left = x - width / 2 if "middle" in classes else x
        places.append((left, y - 0.7 * size, left + width, y))
    places.sort()
    found = 0
    for number, one in enumerate(places):
        for other in places[number + 1 :]:
            if other[0] >= one[2]:
                break
            found += one[1] < other[3] and other[1] < one[3]
    return found


def _zoo(every: int, pattern: str) -> Iterator[tuple[str, ModelGraph]]:
    from tests.zoo.test_zoo import ALL

    for case in [case for case in ALL if re.search(pattern, case.name)][::every]:
        model, args, kwargs = case.make()
        try:
            yield case.name, trace(model, *args, **kwargs).graph
        except Exception as error:
            print(f"{case.name}: not recorded ({type(error).__name__})", flush=True)


def _chain(ops: int) -> ModelGraph:
    """A graph of many ops without modules, in which little repeats."""
    spec = TensorSpec((2, 4), "float32")
    kinds = ["tanh", "exp", "sin", "relu", "add"]
    nodes = [Node("x", "input", "input", outputs=(spec,), path="x")]
    for number in range(ops):
        op = kinds[(number * number + number // 7) % len(kinds)]
        read = [Argument("input", Ref(nodes[-1].name))]
        if op == "add":
            read.append(Argument("other", Ref(nodes[max(0, len(nodes) - 5)].name)))
        made = (spec,)
        nodes.append(Node(f"{op}_{number}", "op", op, "", made, tuple(read), f"torch.{op}"))
    nodes.append(
        Node("out", "output", "output", arguments=(Argument("value", Ref(nodes[-1].name)),))
    )
    return ModelGraph("chain", "nets.Chain", tuple(nodes))


def _speed() -> None:
    for ops in (1_000, 3_000, 10_000, 30_000, 100_000):
        start = time.perf_counter()
        svg.render(Analysis(_chain(ops)))
        taken = time.perf_counter() - start
        print(f"{ops:8,d} ops {taken:8.2f} s {1e6 * taken / ops:8.1f} µs an op", flush=True)


def main() -> None:
    """Prints a table and what is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="every n-th model of the zoo")
    parser.add_argument("--only", default="", help="models whose name matches")
    parser.add_argument("--graphs", type=Path, help="a folder of graph.json files instead")
    parser.add_argument("--speed", action="store_true", help="how long large graphs take")
    options = parser.parse_args()
    if options.speed:
        return _speed()
    warnings.simplefilter("ignore")
    if options.graphs:
        given = (
            (path.stem, ModelGraph.load(path)) for path in sorted(options.graphs.glob("*.json"))
        )
    else:
        given = _zoo(options.every, options.only)
    found = []
    print(" ".join(f"{field.name:>10}" for field in fields(Figures)))
    for name, graph in given:
        one = figures_of(graph, name)
        found.append(one)
        values = [getattr(one, field.name) for field in fields(Figures)]
        cells = [f"{v:>10.2f}" if isinstance(v, float) else f"{v!s:>10}" for v in values]
        print(" ".join(cells), "  ".join(one.faults), flush=True)
    print(f"\n{len(found)} graphs")
    for fault in ("boxes", "ratio", "reprs", "steps", "wide lines", "overlaps", "diagram"):
        count = sum(fault in one.faults for one in found)
        print(f"{fault:>12}: {count} ({count / max(1, len(found)):.1%})")
    return None


if __name__ == "__main__":
    main()
