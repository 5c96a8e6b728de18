"""The names by which torch functions are known everywhere: in graphs, files and other processes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from modelviz_callbacks.tracing.op_facts import home_of

# Functions of ours that stand in files keep the name they had there first, wherever they are now.
_NAMED_FIRST = {
    "modelviz_callbacks.tracing.capture.functorch_levels": "modelviz_callbacks.tracing.layers",
}


@cache
def qualified_name(func: Any) -> str:
    """The name one would write to reach a torch function: ``torch.nn.functional.relu``."""
    return name_of_once(func)


def name_of_once(func: Any) -> str:
    """As `qualified_name`, of a function that may be the user's and must not be kept alive."""
    name = torch.overrides.resolve_name(func)
    if name:
        return name if name.startswith("torch.") else f"torch.ops.{name}"
    name = getattr(func, "__qualname__", getattr(func, "__name__", type(func).__name__))
    module = home_of(func)
    if isinstance(getattr(func, "__self__", None), type):
        return f"torch.{func.__name__}"
    return f"{_NAMED_FIRST.get(module, module)}.{name}" if module else str(name)
