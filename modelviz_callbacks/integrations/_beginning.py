"""The beginning of a training, for trainers that call one function a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from modelviz_callbacks.options import Options
from modelviz_callbacks.ranks import is_recording_rank
from modelviz_callbacks.run import Run
from modelviz_callbacks.tracing import class_of
from modelviz_callbacks.watching.training_step import TrainingSteps


def begin(
    options: Options,
    model: torch.nn.Module,
    connect_to: Callable[[Run], None],
    if_nothing: str,
    earlier: TrainingSteps | None,
    is_continued: bool = False,
    **how: Any,
) -> TrainingSteps | None:
    """Makes the run of a training that begins, and sees to it that it ends with the program.

    Args:
        options: What to write, and where.
        model: The model, without wrappers: what the graph is called after.
        connect_to: Points the run at what the trainer's loggers write to; what fails in it is a
            line of the report.
        if_nothing: What to say if nothing was recorded.
        earlier: What this gave to the same callback for the training before, if there was one: the
            same graph is not written again beside the first.
        is_continued: Whether training goes on from a checkpoint: likewise.
        **how: See `TrainingSteps`.

    Returns:
        The steps of the run; ``None`` in all processes but the first.
    """
    if not is_recording_rank():
        return None
    run = Run(options, class_of(model).__name__, polls=True)
    steps = TrainingSteps(run, **how)
    steps.end_with_program(if_nothing)
    with run.guarded("the loggers"):
        connect_to(run)
        run.is_continued = is_continued
        run.follow(None if earlier is None else earlier.run)
    with run.guarded("the preparations"):
        run.get_ready()
    return steps
