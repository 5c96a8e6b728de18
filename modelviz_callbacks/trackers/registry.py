"""The trackers there are. A new one is a file, and a line here."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any

from modelviz_callbacks.trackers.interface import Heard, Tracker, unheard

__all__ = ["TRACKERS", "is_live_run", "kind_of", "live_runs", "make_tracker"]

# What a tracker is called -> the module and class that implement it; imported when first used.
TRACKERS: dict[str, tuple[str, str]] = {
    "tensorboard": ("modelviz_callbacks.trackers.tensorboard", "TensorBoardTracker"),
    "mlflow": ("modelviz_callbacks.trackers.mlflow.tracker", "MlflowTracker"),
    "wandb": ("modelviz_callbacks.trackers.wandb", "WandbTracker"),
    "clearml": ("modelviz_callbacks.trackers.clearml", "ClearmlTracker"),
    "function": ("modelviz_callbacks.trackers.function", "FunctionTracker"),
    "folder": ("modelviz_callbacks.trackers.remote_folder", "RemoteFolderTracker"),
}

# Trackers that begin runs and send to a server themselves. The others write into what is there, and
# their packages decide how long that may take.
_SENDING = frozenset({"mlflow"})

# Trackers whose run is an object of the process that began it, and is written to from there: its
# class, and how the package that was imported tells which one is open.
_LIVE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "wandb": ("Run", lambda package: package.run),
    "clearml": ("Task", lambda package: package.Task.current_task()),
}


def is_live_run(thing: object) -> bool:
    """Whether an object is a run that can be written to from this process alone."""
    return any(
        kind.__name__ == _LIVE[package][0]
        for kind in type(thing).__mro__
        if (package := kind.__module__.split(".")[0]) in _LIVE
    )


def kind_of(thing: object) -> str | None:
    """The key of `TRACKERS` for a live run, a function, a folder's URL; ``None``: none of them.

    Args:
        thing: What a user or a trainer has.
    """
    if is_live_run(thing):
        packages = [kind.__module__.split(".")[0] for kind in type(thing).__mro__]
        return next(package for package in packages if package in _LIVE)
    if isinstance(thing, str) and "://" in thing:
        return "folder"
    return "function" if callable(thing) else None


def live_runs() -> list[Any]:
    """The runs that are open in this process, of trackers that somebody has imported."""
    found = []
    for package, (_, current) in _LIVE.items():
        with contextlib.suppress(Exception):  # half imported, or another package of that name
            run = current(sys.modules[package]) if package in sys.modules else None
            if is_live_run(run):
                found.append(run)
    return found


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
        run_name: What to call the run if it is new. Where a tracker begins none and sends nothing
            itself, this and all that follows means nothing.
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
    make: Callable[..., Tracker] = getattr(importlib.import_module(module), name)
    if kind not in _SENDING:
        return make(target)
    return make(target, run_name=run_name, deadline_s=deadline_s, tries=tries, heard=heard)
