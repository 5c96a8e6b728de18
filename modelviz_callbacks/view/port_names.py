"""Names of tensors that stand in arguments and results: what they are a part of, in words."""

from __future__ import annotations

import re

# One step of a path: ``.name``, ``[3]``, ``['name']``.
_STEP = re.compile(r"""\.?([^.\[\]]+)|\[(\d+)\]|\[['"](.*?)['"]\]""")

# What arguments are called that say nothing of what is given for them.
_EMPTY_WORDS = frozenset(
    {"input", "other", "self", "tensor", "tensors", "args", "kwargs", "x", "y", "a", "b", "out"}
    | {"output", "value", "mat1", "mat2", "batch", "inputs", "index", "t", "arg", "memory"}
)


def steps_of(path: str) -> tuple[str | int, ...]:
    """A path as keys and numbers: ``out.layers[0].keys`` is ``("out", "layers", 0, "keys")``."""
    found: list[str | int] = []
    for name, number, key in _STEP.findall(path):
        found.append(int(number) if number else name or key)
    return tuple(found)


def argument_words(path: str) -> str:
    """What an argument is called, without the place in it; ``""`` if that says nothing."""
    names = [step for step in steps_of(path) if isinstance(step, str)]
    return next((name for name in names if name.rstrip("0123456789_") not in _EMPTY_WORDS), "")
