"""An upload that the training process waits for, in a process of its own.

MLflow takes its time limits from the environment, which belongs to the user's process; and a
call that hangs can be ended with its process only. So what is uploaded in place goes through a
child that has its own environment and is gone when the upload returns. Where no child can be
started, because the program is no Python interpreter, it is made here, and MLflow's settings stand
in the environment meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.tracking import publish
from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.errors import ModelvizError, TrackerError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.ranks import IN_WORKER
from modelviz_callbacks.report import Report
from modelviz_callbacks.trackers.mlflow.target import MlflowTarget

# How often a call is made to a server that fails for the moment.
_TRIES = 2

# How long one call may take while the server has never answered, in seconds.
_SILENCE_LIMIT_S = 5.0

# How long the process may take besides its deadline, for its start and end, in seconds.
_START_LIMIT_S = 30.0

_GRAPH = "graph.json"


class Patience:
    """The time for a server that training waits for: little until it has answered once."""

    def __init__(self, deadline_s: float) -> None:
        """The clock starts when `remaining_s` is first asked.

        Args:
            deadline_s: Seconds for all calls together.
        """
        self._deadline_s = deadline_s
        self._end: float | None = None
        self._answers = 0

    def heard(self, answered: bool | None, size_bytes: int | None) -> None:
        """Takes note of a call, see `modelviz_callbacks.trackers.interface.Heard`."""
        self._answers += bool(answered)

    def remaining_s(self) -> float:
        """Seconds left for the next call."""
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._deadline_s
        # The first that works is no call to the server: it makes the client.
        limit_s = _SILENCE_LIMIT_S if self._answers <= 1 else self._deadline_s
        return min(limit_s, self._end - now)


def upload(target: MlflowTarget, report: Report, names: list[str], deadline_s: float) -> None:
    """`publish`, made by a child process and waited for.

    Args:
        target: The run.
        report: Of the recording; learns where the files are, and of a new run its id.
        names: The files, in the report's folder; the graph is read from ``graph.json``.
        deadline_s: Seconds for the calls to the server.

    Raises:
        TrackerError: Something did not arrive, or no process could be started.
    """
    if getattr(sys, "frozen", False) or not _is_python(sys.executable):
        # A program that is no interpreter would start itself again.
        publish(target, report, _analysis(report), names, deadline_s, _TRIES)
        return
    order = {
        "report": asdict(report),
        "run": asdict(replace(target, tracking_uri=None)),
        "names": names,
        "deadline_s": deadline_s,
    }
    answer = _ask(order, target, deadline_s + _START_LIMIT_S)
    report.mlflow_run_id = answer["run_id"] or report.mlflow_run_id
    report.stored += [place for place in answer["stored"] if place not in report.stored]
    if answer["error"]:
        raise TrackerError(answer["error"], answer["reason"])


def _is_python(executable: str | None) -> bool:
    return Path(executable or "").name.lower().startswith(("python", "pypy"))


def _ask(order: dict[str, Any], target: MlflowTarget, limit_s: float) -> dict[str, Any]:
    uri = {} if target.tracking_uri is None else {"MLFLOW_TRACKING_URI": target.tracking_uri}
    hidden = {**os.environ, **uri, IN_WORKER: "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _start_code()],
            input=json.dumps(order).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=hidden,
            timeout=limit_s,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise TrackerError(
            f"could not upload to {target.public_uri}: no answer in {limit_s:.0f} s. Check that "
            "the server runs and is reachable, then upload again. What was written to disk stays "
            "there."
        ) from None
    except (OSError, ValueError) as error:
        said = without_credentials(f"{type(error).__name__}: {error}")
        raise TrackerError(
            f"could not upload to {target.public_uri}: the process for it could not be started or "
            f"ended early ({said}). Upload the folder with: modelviz upload. What was written to "
            "disk stays there."
        ) from None
    return answer


def _start_code() -> str:
    """What the new interpreter runs: it imports from where this one does, in the same order."""
    paths = [str(Path(entry).absolute()) for entry in sys.path if Path(entry).exists()]
    paths.append(str(Path(__file__).parents[2]))
    return (
        f"import sys; sys.path[:] = {paths!r}; "
        "from modelviz_callbacks.jobs.upload_process import main; main()"
    )


def main() -> None:
    """The child: an order on standard input, an answer on standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what MLflow prints is no answer
    order = json.loads(sys.stdin.buffer.read())
    report = Report.from_json(order["report"])
    target = MlflowTarget(**order["run"] | {"tracking_uri": os.environ.get("MLFLOW_TRACKING_URI")})
    before = list(report.stored)
    error: ModelvizError | None = None
    patience = Patience(order["deadline_s"])
    remaining_s, heard = patience.remaining_s, patience.heard
    try:
        publish(target, report, _analysis(report), order["names"], remaining_s, _TRIES, heard)
    except ModelvizError as caught:
        error = caught
    answer = {
        "run_id": report.mlflow_run_id,
        "stored": [place for place in report.stored if place not in before],
        "error": "" if error is None else str(error),
        "reason": getattr(error, "reason", ""),
    }
    os.write(answers, json.dumps(answer).encode())
    # Threads of calls that were given up may still be waiting for their server.
    os._exit(0)


def _analysis(report: Report) -> Analysis | None:
    path = Path(report.folder) / _GRAPH
    return Analysis(ModelGraph.load(path)) if path.is_file() else None
