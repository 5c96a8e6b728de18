"""Arguments of the command line as what a model's forward takes.

A tensor is ``SHAPE[:DTYPE[:BELOW]]``: ``1x3x224x224``, ``2x7:int64``, ``2x7:int64:30000``.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import torch

from modelviz_callbacks.errors import OptionError

_SHAPE = re.compile(r"\d+(?:x\d+)*|scalar")
_HOW = (
    "expected sizes with x between them, a dtype if it is not float32, and for integers the "
    "number they stay below: 1x3x224x224, 2x7:int64, 2x7:int64:30000, scalar:float64"
)


def tensor(text: str) -> torch.Tensor:
    """An example input: normal random numbers, or whole numbers from 0 on.

    Args:
        text: Its shape and dtype.

    Returns:
        The tensor, on the CPU.

    Raises:
        OptionError: The text does not say a shape and a dtype.
    """
    shape_text, _, rest = text.partition(":")
    dtype_text, _, below_text = rest.partition(":")
    if not _SHAPE.fullmatch(shape_text):
        raise OptionError(f"--input {text}: {shape_text!r} is not a shape; {_HOW}.")
    shape = () if shape_text == "scalar" else tuple(map(int, shape_text.split("x")))
    dtype = getattr(torch, dtype_text or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise OptionError(f"--input {text}: torch has no dtype {dtype_text!r}; {_HOW}.")
    if below_text and not below_text.isdecimal():
        raise OptionError(f"--input {text}: {below_text!r} is not a number; {_HOW}.")
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex64 if dtype.is_complex else torch.float32
        return torch.randn(shape, dtype=wide).to(dtype)
    # 0 and 1 are an index into any table with two rows.
    return torch.randint(0, max(int(below_text or 2), 1), shape).to(dtype)


def named(text: str, option: str = "--kwarg") -> tuple[str, Any]:
    """A named argument.

    Args:
        text: ``NAME=VALUE``, a tensor (``mask=2x7:bool``), a Python literal (``depth=3``,
            ``ids=[1, 2]``) or else text.
        option: What it was given by, for the message.

    Returns:
        Its name and value.

    Raises:
        OptionError: It has no name, or means a tensor and does not say one.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise OptionError(f"{option} {text}: expected NAME=VALUE, as in mask=2x7:bool or depth=3.")
    # A single number is a number, not a shape: 3:float32 or 3x1 say that a tensor is meant.
    if _SHAPE.fullmatch(value.partition(":")[0]) and not value.isdecimal():
        return name, tensor(value)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
