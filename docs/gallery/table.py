"""The table of the gallery, and the part of docs/pictures.md that is made from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from docs.gallery import generating, language, plain, vision
from docs.gallery.entry import Entry

FAMILIES: Mapping[str, Sequence[Entry]] = {
    "Images": vision.ENTRIES,
    "Words and sounds": language.ENTRIES,
    "Making and acting": generating.ENTRIES,
    "Small ones, graphs and loops": plain.ENTRIES,
}
ENTRIES = [entry for entries in FAMILIES.values() for entry in entries]

# What stands around the part that is made.
START, END = "<!-- The gallery is made by docs/make_pictures.py. -->", "<!-- end -->"
_IN_A_ROW = 3


def gallery_text() -> str:
    """The gallery in Markdown: pictures with their titles and the ideas of the papers' figures."""
    lines = [START]
    for family, entries in FAMILIES.items():
        lines += ["", f"### {family}"]
        for at in range(0, len(entries), _IN_A_ROW):
            lines += ["", *_table(entries[at : at + _IN_A_ROW])]
    return "\n".join([*lines, "", END])


def with_gallery(page: str) -> str:
    """A page with its gallery made anew.

    Args:
        page: Text that holds `START` and `END`.
    """
    before, _, rest = page.partition(START)
    return before + gallery_text() + rest.partition(END)[2]


def _table(entries: Sequence[Entry]) -> Iterator[str]:
    pictures = (
        f'<img src="images/{entry.file}.svg" width="300" alt="{entry.title.replace("`", "")}">'
        for entry in entries
    )
    yield _row(f"**{entry.title}**" for entry in entries)
    yield _row(":-:" for _ in entries)
    yield _row(pictures)
    yield _row(entry.idea for entry in entries)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
