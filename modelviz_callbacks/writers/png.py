"""A graph as a PNG picture on white ground: the SVG picture drawn by resvg.

A font comes with this package, since machines that train often have none. Characters that it has
not are taken from the system's fonts. Its subset of Arimo 1.33 was made with fonttools::

    pyftsubset Arimo-Regular.ttf --no-hinting --layout-features=kern --unicodes=<CHARACTERS below>
"""

from __future__ import annotations

from importlib.resources import as_file, files

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.formats import Direction
from modelviz_callbacks.writers.picture import Picture, Text, picture
from modelviz_callbacks.writers.svg import svg_text

_DOTS_PER_INCH = 144
# Above this many dots to a side, image viewers refuse: the picture is made coarser then.
_MOST_DOTS = 16_000
_FONTS = ("Arimo-Regular.ttf", "Arimo-Bold.ttf")
# First and last of each range of characters that the fonts were made with.
CHARACTERS = (
    *((0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x45F), (0x1E00, 0x1EFF)),
    *((0x2010, 0x2027), (0x2030, 0x203A), (0x2070, 0x209C), (0x20AC, 0x20AC), (0x2190, 0x2195)),
    *((0x2200, 0x226F), (0x25A0, 0x25FF), (0xFFFD, 0xFFFD)),
)


def render(analysis: Analysis, *, depth: int | None = None, direction: Direction = "auto") -> bytes:
    """Draws a graph: the same picture as the SVG in its light colours.

    Args:
        analysis: The analysis of a sound graph.
        depth: How many levels of modules to open; ``None``: as many as stay readable.
        direction: Which way it runs.

    Returns:
        PNG, 144 dots an inch, less for pictures that would be over 16,000 dots long.

    Raises:
        ImportError: There is no resvg.
        WriterError: The picture could not be laid out or drawn.
    """
    return drawn_as_png(picture(analysis, depth=depth, direction=direction))


def drawn_as_png(drawn: Picture) -> bytes:
    """A picture as PNG.

    Args:
        drawn: Any.

    Returns:
        PNG.

    Raises:
        ImportError: There is no resvg.
        WriterError: It could not be drawn.
    """
    from resvg_py import svg_to_bytes

    longest = max(drawn.width, drawn.height)
    with as_file(files("modelviz_callbacks.writers") / "assets") as home:
        try:
            made = svg_to_bytes(
                svg_string=svg_text(drawn),
                zoom=min(_DOTS_PER_INCH / 72, _MOST_DOTS / longest),
                skip_system_fonts=_has_all(drawn),
                sans_serif_family="Arimo",
                font_files=[str(home / name) for name in _FONTS],
            )
        except ValueError as error:
            raise WriterError(
                f"A picture of {drawn.width:.0f} by {drawn.height:.0f} points could not be drawn "
                f"as PNG: {error}"
            ) from error
    return bytes(made)


def _has_all(drawn: Picture) -> bool:
    """Whether the font that comes along has all characters of a picture."""
    needed = {ord(char) for one in drawn.shapes if isinstance(one, Text) for char in one.line.text}
    return all(any(low <= char <= high for low, high in CHARACTERS) for char in needed)
