"""Standard output that takes every text: consoles and pipes may know ASCII or cp1251 only."""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Iterator

# The signs of the texts where an output has no code for them; anything else is its escape.
_SIMPLER = {"×": "x", "÷": "/", "·": "-", "−": "-", "–": "-", "…": "...", "→": "->", "›": ">"}
_SIMPLER |= {"≥": ">=", "≤": "<=", "≠": "!=", "µ": "u"}
_HANDLER = "modelviz-plain"


def _as_near_as_possible(error: UnicodeError) -> tuple[str, int]:
    """What is written where a character has no code, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = [_SIMPLER.get(one, one.encode("ascii", "backslashreplace").decode()) for one in letters]
    return "".join(plain), error.end


codecs.register_error(_HANDLER, _as_near_as_possible)


@contextlib.contextmanager
def written_in_any_encoding() -> Iterator[None]:
    """Lets what is printed meanwhile lose a sign rather than end the command."""
    output = sys.stdout
    reconfigure = getattr(output, "reconfigure", None)
    if reconfigure is None or output.errors != "strict":
        yield  # no file of Python's, or somebody chose what happens
        return
    reconfigure(errors=_HANDLER)
    try:
        yield
    finally:
        reconfigure(errors="strict")
