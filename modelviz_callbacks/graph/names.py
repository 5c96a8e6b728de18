"""Unique, stable names for nodes and scopes.

Invariants, for any sequence of calls:

- no two names given out are equal, and no node is named like a scope;
- the same calls in the same order give the same names, in any process;
- a name has no empty part, no character that a viewer gives a meaning of its own, and no
  top-level part that breaks TensorBoard's page (the keys of JavaScript's Object.prototype).
"""

from __future__ import annotations

import re
from functools import lru_cache

# Characters with a meaning in TensorBoard's names (scope, output number, control edge) or in
# its text protos (quotes, backslash, control characters).
_RESERVED = re.compile(r"[/:^\\\x00-\x1f\x7f]")
_QUOTES = re.compile(r"['\"]")  # left out: ``out['logits']`` becomes ``out[logits]``

# What steers a terminal (control characters of both sets) or changes the order in which text is
# shown (marks of direction), halves of characters, and what some viewers take for a new line.
# Not tabulators and ends of lines.
_STEERS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    r"\ud800-\udfff]"
)

_BREAKS_TENSORBOARD = frozenset(
    {
        "__root__",
        "__proto__",
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    }
)


@lru_cache(maxsize=4096)  # a few labels are asked for again and again: weight, bias, conv2d
def clean_part(text: str) -> str:
    """One part of a name: reserved characters replaced, never empty."""
    cleaned = _RESERVED.sub("_", _QUOTES.sub("", text)).strip()
    if not cleaned:
        return "unnamed"
    return f"{cleaned}_" if cleaned in _BREAKS_TENSORBOARD else cleaned


def plain_text(text: str) -> str:
    """Text that steers no terminal and hides nothing: a model's names may be anybody's.

    Args:
        text: Any text.

    Returns:
        The same, U+FFFD in the place of control characters and of marks of direction; tabulators
        and ends of lines stay.
    """
    return _STEERS.sub("\ufffd", text)


class NameAllocator:
    """Hands out names below scopes; a taken name gets ``_1``, ``_2``, ... at its end."""

    def __init__(self) -> None:
        self._taken: set[str] = {""}
        self._next: dict[str, int] = {}

    def allocate(self, scope: str, label: str) -> str:
        """A new name.

        Args:
            scope: A name given out before, or ``""`` for the top.
            label: What to call it there; cleaned first.

        Returns:
            ``scope/label``, with a number after it if that is taken.
        """
        wanted = f"{scope}/{clean_part(label)}" if scope else clean_part(label)
        name = wanted
        while name in self._taken:
            number = self._next.get(wanted, 1)
            self._next[wanted] = number + 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name
