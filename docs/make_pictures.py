"""Makes the pictures of models in docs/pictures.md: what a user gets, without any option.

The models are those of ``docs/gallery``; the part of the page that shows them is made from the same
table. ``python docs/make_pictures.py [folder] [name ...]``: into another folder, or some only.
"""

from __future__ import annotations

import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from docs.gallery.table import ENTRIES, with_gallery  # noqa: E402

PAGE = HOME / "docs/pictures.md"
# Of these the backward pass is shown, too.
BACKWARD = ("article_cnn", "gan", "resnet50", "bert")


def main(folder: Path, names: list[str]) -> None:
    """Draws models and renews the page.

    Args:
        folder: Where the pictures go.
        names: Which files are made, without ``.svg``; none: all.
    """
    for entry in ENTRIES:
        if names and entry.file not in names:
            continue
        found = entry.trace()
        found.save_svg(folder / f"{entry.file}.svg")
        if entry.file in BACKWARD:
            found.save_backward_svg(folder / f"{entry.file}_backward.svg")
    PAGE.write_text(with_gallery(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs" / "images"
    main(where, sys.argv[2:])
