"""What an op does with numbers, in the signs that people use: ``× 0.5``, ``[:, 0]``."""

from __future__ import annotations

from collections.abc import Sequence

from modelviz_callbacks.graph.model import Node
from modelviz_callbacks.graph.op_facts import torch_name
from modelviz_callbacks.graph.values import PythonText, Ref, SliceValue, Value

# By the names of torch's own functions: the sign, and the sign with the number before it.
_SIGNS = {
    "add": ("+", "+"),
    "sub": ("−", "−"),
    "mul": ("×", "×"),
    "div": ("÷", "÷"),
    "true_divide": ("÷", "÷"),
    "floor_divide": ("÷", "÷"),
    "pow": ("^", "^"),
    "eq": ("=", "="),
    "ne": ("≠", "≠"),
    "lt": ("<", ">"),
    "le": ("≤", "≥"),
    "gt": (">", "<"),
    "ge": ("≥", "≤"),
}
# What Python calls the same: ``__rmul__``, ``__itruediv__``, ``mul_``.
_SAME = {"truediv": "div", "floordiv": "floor_divide", "multiply": "mul", "subtract": "sub"}
_BOUNDS = frozenset({"clamp", "clamp_", "clip", "clip_", "hardtanh"})
_INDEXING = frozenset({"__getitem__", "getitem"})
# Where the numbers of float16 end, and about where those of bfloat16 do, the next ones.
_HALF_ENDS, _ENDS = 65504.0, 3e38
_ELLIPSIS = frozenset({"...", "Ellipsis"})


def op_title(node: Node) -> str:
    """An op as people write it: ``× 0.5``, ``[:, 0]``, ``clamp 0.8–1.2``; else its name.

    Args:
        node: An op of a graph; one that only has torch's name keeps its own.
    """
    name = torch_name(node.target)
    if name in _INDEXING and node.op in _INDEXING:
        return index_text(node.arguments[-1].value) or node.op
    if name in _BOUNDS and node.op in _BOUNDS:
        return _bounds(node)
    is_turned = name.startswith("__r") and name.endswith("__")
    stem = name.removeprefix("__r" if is_turned else "__i" if name.startswith("__i") else "__")
    stem = stem.removesuffix("__").rstrip("_")
    stem = _SAME.get(stem, stem)
    is_own_name = _SAME.get(node.op.rstrip("_"), node.op.rstrip("_")).removeprefix("r") == stem
    if stem in _SIGNS and len(node.inputs) == 1 and is_own_name:
        return _with_number(node, stem, is_turned) or node.op
    return node.op


def index_text(index: Value) -> str:
    """``[:, 0]``, with ``…`` for an ellipsis and ``mask`` for what a tensor chooses."""
    parts = index if isinstance(index, tuple) else (index,)
    texts = [_part(part) for part in parts]
    return f"[{', '.join(texts)}]" if all(texts) else ""


def number_text(value: Value) -> str:
    """A number as short as it can be told; ``""`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _part(part: Value) -> str:
    if isinstance(part, SliceValue):
        ends = ["" if part.start == 0 else _end(part.start), _end(part.stop)]
        text = ":".join(ends)
        return text if part.step is None else f"{text}:{_end(part.step)}"
    if isinstance(part, PythonText):
        return "…" if part.text in _ELLIPSIS else ""
    if part is None:
        return "None"
    if isinstance(part, Ref):
        return "·"
    if isinstance(part, str):
        return part
    if isinstance(part, tuple):
        numbers = [number_text(item) for item in part]
        return f"[{_at_most(numbers)}]" if all(numbers) else ""
    return str(part)


def _at_most(texts: Sequence[str]) -> str:
    return ", ".join(texts if len(texts) <= 4 else [*texts[:3], "…"])


def _end(value: Value) -> str:
    return "" if value is None else "·" if isinstance(value, Ref) else str(value)


def _bounds(node: Node) -> str:
    values = {argument.name: argument.value for argument in node.arguments}
    low = _bound(values.get("min", values.get("min_val")))
    high = _bound(values.get("max", values.get("max_val")))
    if low and high:
        return f"clamp {low}–{high}"
    return f"clamp ≥ {low}" if low else f"clamp ≤ {high}" if high else node.op


def _bound(value: Value) -> str:
    """A bound as a number; ``""`` where the numbers of its dtype end anyway."""
    is_end = isinstance(value, float) and (abs(value) == _HALF_ENDS or abs(value) >= _ENDS)
    return "" if is_end else number_text(value)


def _with_number(node: Node, stem: str, is_turned: bool) -> str:
    """``× 0.5``, or ``1 −`` where the number comes first."""
    values = [argument.value for argument in node.arguments[:2]]
    if any(argument.name == "alpha" and argument.value != 1 for argument in node.arguments):
        return ""
    if len(values) != 2:
        return ""
    number_first = is_turned or isinstance(values[1], Ref)
    number = number_text(values[1] if isinstance(values[0], Ref) else values[0])
    sign, turned = _SIGNS[stem]
    if not number:
        return ""
    if number_first and stem in ("sub", "div", "true_divide", "pow", "floor_divide"):
        return f"{number} {sign}"
    return f"{turned if number_first else sign} {number}"
