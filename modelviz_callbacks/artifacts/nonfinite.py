"""``nonfinite.json`` and ``nonfinite.svg``: where the first number is from that is not finite."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.artifacts.products import Products
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import Nonfinite, Recording
from modelviz_callbacks.writers import marked_svg

JSON, SVG = "nonfinite.json", "nonfinite.svg"


def write_nonfinite(maker: Maker, step: int, found: Nonfinite, recording: Recording) -> Path:
    """Writes all that is known of it, and a picture with the op marked.

    Args:
        maker: Where it goes.
        step: Number of the step; 0 was recorded.
        found: What was found.
        recording: What it was found in.

    Returns:
        The picture; where there is none, the other file.

    Raises:
        SinkError: It cannot be written.
    """
    box = ""
    with maker.guarded(SVG):
        box = _write_picture(maker, step, found, recording)
    told = {"schema": 1, "step": step, "message": str(found), **asdict(found)}
    if box and "html" in maker.options.formats:
        told["page"] = f"index.html#s={quote(box, safe='/')}"
    maker.write(JSON, (json.dumps(told, indent=2) + "\n").encode(errors="replace"))
    return maker.folder / (SVG if SVG in maker.report.files else JSON)


def _write_picture(maker: Maker, step: int, found: Nonfinite, recording: Recording) -> str:
    """Draws the picture, if pictures are asked for; the node that it is about, if there is one."""
    analysis = Products(recording, maker.options.name, maker.refuse).early.analysis
    name = "" if analysis is None else _node_of(found, analysis.graph)
    if not name or analysis is None or "svg" not in maker.options.formats:
        return name
    said = [one for one in str(found).split("; ", 1) if one]
    title = f"{analysis.graph.name}, step {step}"
    maker.write(SVG, marked_svg.render(analysis, name, title, said))
    return name


def _node_of(found: Nonfinite, graph: ModelGraph) -> str:
    """The op, the input, or the first op that reads a parameter; ``""``: it is not there."""
    node = graph.by_name.get(found.name)
    if node is not None:
        return node.name
    if found.kind == "data":
        inputs = [one.name for one in graph.nodes if one.kind == "input"]
        return next((name for name in inputs if name == found.name.split(".")[0]), "")
    held = {one.name for one in graph.nodes if one.path == found.name}
    return next((op.name for op in graph.ops if any(ref.node in held for ref in op.inputs)), "")
