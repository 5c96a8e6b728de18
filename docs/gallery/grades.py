"""Grades of the models that are looked at in every viewer, and the table of them in docs/grades.md.

5: a person who knows the architecture recognises it in five seconds, one who does not can learn it
from the picture. 4: so it is, but for what the last column says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from docs.gallery.table import ENTRIES


class Grades(NamedTuple):
    """How well a model is told, 1 to 5, in each viewer.

    Attributes:
        picture: SVG and PNG.
        text: ``graph.txt``, ``print(graph)``.
        tensorboard: The op graph, as it is shown at first.
        netron: ``graph.onnx``, its top level.
        missing: What keeps it from 5; ``""``: nothing.
    """

    picture: int
    text: int
    tensorboard: int
    netron: int
    missing: str = ""


GRADES: Mapping[str, Grades] = {
    "mlp": Grades(5, 5, 5, 5),
    "article_cnn": Grades(5, 5, 5, 5),
    "resnet50": Grades(5, 5, 5, 5),
    "densenet": Grades(
        5, 4, 5, 5, "text: from the fifth layer on not every layer that is read is named"
    ),
    "unet": Grades(
        4, 5, 5, 5, "picture: down and up are side by side, but not level with each other"
    ),
    "vit": Grades(5, 5, 5, 5),
    "swin": Grades(5, 5, 5, 5),
    "detr": Grades(
        5,
        4,
        4,
        5,
        "TensorBoard: all but the heads is in one box, a double click away; text: the backbone "
        "takes half of it",
    ),
    "bert": Grades(5, 5, 5, 5),
    "gpt": Grades(5, 5, 5, 5),
    "llama": Grades(5, 5, 5, 5),
    "mixtral": Grades(5, 5, 5, 5),
    "t5": Grades(5, 5, 5, 5),
    "whisper": Grades(5, 5, 5, 5),
    "gan": Grades(
        5,
        5,
        4,
        4,
        "TensorBoard: the second call of the discriminator has another colour; Netron: softplus is "
        "the five ops that torch's exporter makes of it",
    ),
    "vae": Grades(5, 5, 5, 5),
    "gnn": Grades(5, 5, 5, 5),
    "actor_critic": Grades(
        4,
        4,
        4,
        4,
        "what `torch.distributions` does inside `log_prob` and `entropy` is told op by op; "
        "TensorBoard has its checks of arguments, too",
    ),
    "seq2seq": Grades(5, 5, 5, 5),
    "repeating": Grades(5, 5, 5, 5),
    "irregular": Grades(
        4,
        4,
        4,
        4,
        "parts of equal length tell how much there is of what, not what it is for; the text has a "
        "line for each of 800 calls",
    ),
}

START, END = "<!-- The table is made by docs/make_grades.py. -->", "<!-- end -->"


def grades_text() -> str:
    """The table in Markdown, and the screenshots."""
    titles = {entry.file: entry.title for entry in ENTRIES}
    lines = [START, "", "| model | picture | text | TensorBoard | Netron | what keeps it from 5 |"]
    lines.append("| --- | :-: | :-: | :-: | :-: | --- |")
    for file, found in GRADES.items():
        numbers = " | ".join(map(str, found[:4]))
        lines.append(f"| {titles[file]} | {numbers} | {found.missing} |")
    lines += ["", "| model | TensorBoard | Netron |", "| --- | :-: | :-: |"]
    for file in GRADES:
        cells = (
            f'<img src="images/gallery/{viewer.lower()}_{file}.png" height="300" '
            f'alt="{titles[file]} in {viewer}">'
            for viewer in ("TensorBoard", "Netron")
        )
        lines.append(f"| {titles[file]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", END])


def with_grades(page: str) -> str:
    """A page with its table made anew.

    Args:
        page: Text that holds `START` and `END`.
    """
    before, _, rest = page.partition(START)
    return before + grades_text() + rest.partition(END)[2]
