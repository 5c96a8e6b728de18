"""Runs a program without leaving a switch thrown, also where it raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.functorch_levels import layers_left
from modelviz_callbacks.tracing.capture.torch_internals import AUTOCAST_DEVICES
from modelviz_callbacks.tracing.lowering.to_program import Program


def run(program: Program, tensors: list[torch.Tensor]) -> tuple[Any, ...]:
    """Runs a program.

    Args:
        program: A recorded stretch.
        tensors: One for each of its inputs.

    Returns:
        One tensor for each of its outputs.

    Raises:
        ReplayError: It comes to a part that nobody saw, or cannot be run on these tensors.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled()), _autocast_kept(), layers_left():
        try:
            # Not by calling the module: that prints what an error is like to the terminal.
            outputs: tuple[Any, ...] = program.module.forward(*tensors)
        except (ReplayError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ReplayError(
                f"The recording cannot be run on these inputs: {_first_line(error)}. Call trace() "
                "with the new inputs."
            ) from error
    return outputs


def _first_line(error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0].rstrip(".")


@contextlib.contextmanager
def _autocast_kept() -> Iterator[None]:
    before = [
        (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        for device in AUTOCAST_DEVICES
    ]
    depth = _nesting()
    try:
        yield
    finally:
        while _nesting() > depth:
            torch.autocast_decrement_nesting()
        for device, enabled, dtype in before:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)


def _nesting() -> int:
    """How many autocast contexts are open; torch only tells while counting."""
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())
