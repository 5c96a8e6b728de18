"""The numbers that a module keeps: heads, experts, widths. What they mean is said elsewhere."""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

from modelviz_callbacks.tracing.capture.tensor_parallel import NAMES as SPLIT
from modelviz_callbacks.tracing.capture.wrappers import class_of

Number: TypeAlias = "int | float | tuple[int | float, ...]"

# More than this no label tells, and a file would only grow.
_MOST_ATTRIBUTES = 24
_MOST_NUMBERS = 4
# Of torch's own layers the arguments of their ops tell all but this.
_OF_TORCH = ("num_heads", *SPLIT)
_KINDS = frozenset({int, float, tuple, list})


def numbers_of(module: nn.Module) -> tuple[tuple[str, Number], ...]:
    """The public attributes of a module that are numbers, or a few of them, by their names.

    Nothing is called for it, as a property might compute or fail: only what stands in the
    instance's own dictionary counts. Of torch's own layers only the number of heads is given, and
    of a stand-in how its weight is split.

    Args:
        module: Any module.

    Returns:
        Names and numbers in the order in which they were set.
    """
    attributes = vars(module)
    # A large model has many of them, and most of these are of torch's own.
    if type(module).__module__.startswith("torch.nn.modules.") or class_of(
        module
    ).__module__.startswith("torch."):
        wanted = [(name, attributes[name]) for name in _OF_TORCH if name in attributes]
    else:
        wanted = [pair for pair in attributes.items() if type(pair[1]) in _KINDS]
    found = []
    for name, value in wanted:
        if name.startswith("_") or not name.isidentifier() or hasattr(nn.Module, name):
            continue
        number = _number(value)
        if number is not None:
            found.append((name, number))
    return tuple(found[:_MOST_ATTRIBUTES])


def _number(value: object) -> Number | None:
    if type(value) is int or type(value) is float:
        # Larger or stranger ones are no sizes, and not every reader takes them.
        return value if abs(value) < 2**53 else None
    if type(value) in (tuple, list) and 0 < len(value) <= _MOST_NUMBERS:  # type: ignore[arg-type]
        parts = [_number(part) for part in value]  # type: ignore[attr-defined]
        if all(type(part) in (int, float) for part in parts):
            return tuple(parts)  # type: ignore[arg-type]
    return None
