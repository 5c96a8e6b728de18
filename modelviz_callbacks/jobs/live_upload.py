"""What goes to runs that belong to the training process: W&B, ClearML, a function of the user's."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.tracking import log_recording
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.interface import MultiTracker
from modelviz_callbacks.trackers.registry import kind_of, make_tracker

# How long the end of training waits for a tracker to take the files, in seconds.
LIVE_LIMIT_S = 30.0

_GRAPH = "graph.json"


def log_to(run: Any, report: Report) -> None:
    """Logs the files and figures of a recording to a live run, in a bounded time.

    A user's own function is called in this thread, and takes as long as it takes.

    Args:
        run: One that `kind_of` knows.
        report: Of the recording; learns where the files are.

    Raises:
        TrackerError: Something did not arrive, or the tracker did not answer in time.
    """
    kind = kind_of(run)
    if kind is None:
        raise TrackerError(f"tracker={type(run).__name__} is no run that is known, and no function")
    folder = Path(report.folder)
    files = {name: folder / name for name in report.files if (folder / name).is_file()}
    if not files:
        return
    analysis = Analysis(ModelGraph.load(folder / _GRAPH)) if _GRAPH in files else None
    tracker = make_tracker(kind, run, report.name, LIVE_LIMIT_S)
    trackers = MultiTracker([tracker])

    def log() -> None:
        log_recording(trackers, files, analysis)

    if kind == "function":
        log()
    else:
        thread = threading.Thread(target=log, name="modelviz-live-upload", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the program ends: Python 3.12 begins no thread any more
            log()
        else:
            thread.join(LIVE_LIMIT_S)
        if thread.is_alive():
            raise TrackerError(
                f"{tracker.name} has not taken all files in {LIVE_LIMIT_S:.0f} s; it may still. "
                "They are on disk in any case."
            )
    error = trackers.error()
    if error is not None:
        raise error
    report.stored.append(f"{tracker.name}: {tracker.place}")
