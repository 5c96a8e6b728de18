"""A network recorded once more, from a copy in eval mode: for what no exporter follows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from modelviz_callbacks.tracing.capture.session import Capture
from modelviz_callbacks.tracing.lowering.networks import Unit


def record_again(
    unit: Unit,
    module: torch.nn.Module,
    tensors: tuple[torch.Tensor, ...],
    around: Callable[[], AbstractContextManager[object]],
) -> Unit:
    """Records a copy of a network in eval mode, called as that was.

    Args:
        unit: The network.
        module: The copy of its module.
        tensors: As `Unit.examples`.
        around: Gives what the copy is to be called in.

    Returns:
        The copy as a network.

    Raises:
        Exception: Whatever the call raises.
    """
    args, kwargs = unit.recording.arguments_from(tensors)
    capture = Capture(module, keeps_state=False)
    capture.start(args, kwargs, is_step=False)
    try:
        with around():
            result = module(*args, **kwargs)
    finally:
        capture.stop()
    return Unit(unit.name, module, capture.finish(result), in_eval_mode=True)
