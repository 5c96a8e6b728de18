"""How wide text is, without asking for a font: pictures come out the same everywhere.

The widths are those of DejaVu Sans, rounded up. It is the widest of the faces that browsers
take for ``sans-serif``, so text in another one leaves a little more room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from unicodedata import east_asian_width

_WIDTHS = {
    character: width
    for width, characters in {
        0.30: "'IJijl",
        0.35: " ,./:;\\|·",
        0.40: "()-[]ft",
        0.45: "!r",
        0.50: '"*_`',
        0.55: "?csz",
        0.60: "FLkvxy",
        0.65: "$0123456789EPSTYabdeghnopqu{}",
        0.70: "ABCKRVXZ",
        0.75: "NU",
        0.80: "&DGHOQ",
        0.85: "#+<=>^w~×",
        0.90: "M",
        1.00: "%@Wm…",
    }.items()
    for character in characters
}
_BOLD = 1.12  # how much wider bold text is


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line of text.

    Attributes:
        text: Not yet escaped.
        size: Height of the font in points.
        bold: Whether it is bold.
        muted: Whether it is less important.
    """

    text: str
    size: float = 10.0
    bold: bool = False
    muted: bool = False

    @property
    def width(self) -> float:
        """How many points wide it is at most."""
        return text_width(self.text, self.size, bold=self.bold)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """How wide a line of text is at most, in the unit of its font's size."""
    units = sum(_WIDTHS.get(character) or _other_width(character) for character in text)
    return units * size * (_BOLD if bold else 1.0)


def _other_width(character: str) -> float:
    return 1.05 if east_asian_width(character) in "FWA" else 0.85


def cut_apart(texts: Iterable[str], most: int) -> dict[str, str]:
    """Each text as `cut` cuts it; whole where another one would look the same."""
    found = {text: cut(text, most) for text in texts}
    times = Counter(found.values())
    return {text: short if times[short] == 1 else cut(text, 200) for text, short in found.items()}


def cut(text: str, most: int) -> str:
    """The text, with an ellipsis in its middle if it is longer than ``most`` characters."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
