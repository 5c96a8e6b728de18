"""The trackers there are. A new one is a file, and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from modelviz_callbacks.trackers.interface import Heard, Tracker, unheard

__all__ = ["TRACKERS", "make_tracker"]

# What a tracker is called -> the module and class that implement it; imported when first used.
TRACKERS: dict[str, tuple[str, str]] = {
    "tensorboard": ("modelviz_callbacks.trackers.tensorboard", "TensorBoardTracker"),
    "mlflow": ("modelviz_callbacks.trackers.mlflow.tracker", "MlflowTracker"),
}


def make_tracker(
    kind: str,
    target: Any,
    run_name: str,
    deadline_s: float | Callable[[], float],
    tries: int | None = None,
    heard: Heard = unheard,
) -> Tracker:
    """A tracker that is not opened yet.

    Args:
        kind: A key of `TRACKERS`.
        target: Which run, in the tracker's own way: an ``MlflowTarget``; a folder or a
            ``SummaryWriter``.
        run_name: What to call the run if it is new.
        deadline_s: Seconds for all calls together, or a function that says how many are left.
        tries: How often a call is made that fails for the moment; ``None``: until time is up.
        heard: Is told of each call, see `modelviz_callbacks.trackers.interface.Heard`.

    Returns:
        The tracker.

    Raises:
        TrackerError: The target is none that the tracker knows.
        KeyError: There is no such tracker.
    """
    module, name = TRACKERS[kind]
    made: Tracker = getattr(importlib.import_module(module), name)(
        target, run_name=run_name, deadline_s=deadline_s, tries=tries, heard=heard
    )
    return made
