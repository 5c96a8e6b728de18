"""What misbehaving MLflow servers cost a training, with a worker and in place.

A real server stands behind a proxy that refuses, denies, hangs, drops, answers garbage, a byte a
second and so on (`tests.mlflow_server.MISBEHAVIOURS`). For each of them a program trains in a
process of its own, and it is counted how long its end takes, how many warnings it gets, whether
its weights, exit status and files are what they should be, when the last process it started is
gone, and whether the password of the address stands anywhere: in what was printed, in any file.

Run it with ``python -m benchmarks.faults.servers [SERVER ...]``; it needs what the tests need,
Linux, and a quarter of an hour: a worker may go on for `PATIENCE_S` after the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.left_behind import processes_with
from tests.mlflow_server import (
    MISBEHAVIOURS,
    MlflowServer,
    Proxy,
    misbehaving_proxy,
    running_server,
)

SECRET = "s3cret-pw"
SERVERS = ("good", "refuses", "dies half-way", "bad TLS", "deleted run", *MISBEHAVIOURS)
FILES = {"graph.json", "graph.svg", "graph.txt", "graph.onnx", "report.json"}
# Trainings at a time; the workers that they leave behind do little but wait.
AT_ONCE = 2
# Beyond the worker's own limit: for it to notice, on a machine that others keep busy.
MARGIN_S = 30.0
_TAG = "MODELVIZ_FAULTS_TAG"
_training = threading.Semaphore(AT_ONCE)


@dataclass
class Outcome:
    """One training beside one server.

    Attributes:
        server: What the server does.
        way: ``"worker"`` or ``"in place"``.
        end_s: How long the end of the run took, in seconds.
        warnings: How many warnings of ours it got.
        gone_s: When the last process was gone after the end, in seconds.
        arrived: How many files the run has.
        faults: What is not as it should be.
    """

    server: str
    way: str
    end_s: float
    warnings: int
    gone_s: float
    arrived: int
    faults: list[str]

    def __str__(self) -> str:
        return (
            f"{self.server:15s} {self.way:9s} end {self.end_s:6.1f} s, {self.warnings} warning(s), "
            f"{self.arrived:2d} files arrived, gone after {self.gone_s:5.1f} s: "
            f"{'; '.join(self.faults) or 'as it should be'}"
        )


def train(folder: Path | None, run_id: str, in_place: bool) -> None:
    """The program that trains: prints how its end was, and a sum over its weights."""
    import torch
    from torch import nn

    from modelviz_callbacks import GraphHook
    from modelviz_callbacks.report import ModelvizWarning

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    hook = None
    if folder is not None:
        options = {"formats": ["svg", "text"], "tensorboard": False, "background": not in_place}
        hook = GraphHook(model, dirpath=folder, mlflow=run_id, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(50):
            optimizer.zero_grad()
            model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
        began = time.monotonic()
        if hook is not None:
            hook.close()
        end_s = time.monotonic() - began
    texts = [str(one.message) for one in caught if issubclass(one.category, ModelvizWarning)]
    total = sum(parameter.double().sum().item() for parameter in model.parameters())
    told = {"end_s": end_s, "warnings": texts, "weights": total.hex()}
    print(f"\n{json.dumps(told)}", flush=True)


@contextlib.contextmanager
def misbehaving(how: str, server: MlflowServer) -> Iterator[tuple[str, str]]:
    """The address of a bad server, with a password in it, and a run."""
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    run_id = str(client.create_run("0").info.run_id)
    with misbehaving_proxy(server.port) as proxy:
        _misbehave(proxy, how)
        if how == "deleted run":
            client.delete_run(run_id)
        scheme = "https" if how == "bad TLS" else "http"
        yield f"{scheme}://ann:{SECRET}@{proxy.uri.partition('://')[2]}", run_id


def _misbehave(proxy: Proxy, how: str) -> None:
    if how == "refuses":
        proxy.refuse()
    elif how == "dies half-way":
        proxy.dies_after_uploads = 1
    elif how in MISBEHAVIOURS:
        proxy.behaviour = how


def tried(how: str, in_place: bool, server: MlflowServer, expected: str, limit_s: float) -> Outcome:
    """Trains beside one server, and looks at what is left."""
    tag = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as scratch, misbehaving(how, server) as (uri, run_id):
        folder = Path(scratch, "graphs")
        own = {"MLFLOW_TRACKING_URI": uri, _TAG: tag}
        # Wherever something is kept for a while, it is looked for there, too.
        own |= dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"), scratch)
        arguments = ["--train", str(folder), run_id, str(int(in_place))]
        with _training:
            done = _run(arguments, own)
        ended = time.monotonic()
        gone_s = _wait_until_gone(tag, ended, limit_s + MARGIN_S)
        told = json.loads((done.stdout.splitlines() or ["{}"])[-1] or "{}")
        arrived = len(list(server.artifacts.rglob(f"{run_id}/artifacts/model_graph/*")))
        faults = list(_faults(how, done, told, folder, expected))
        if how == "good" and arrived < len(FILES):
            faults.append("not all files arrived")
        if gone_s > limit_s + MARGIN_S:
            faults.append("a process is still there")
        faults += [f"the password is in {place}" for place in _leaks(done, Path(scratch))]
    found = told.get("warnings", [])
    way = "in place" if in_place else "worker"
    return Outcome(how, way, told.get("end_s", 0.0), len(found), gone_s, arrived, faults)


def _faults(
    how: str,
    done: subprocess.CompletedProcess[str],
    told: dict[str, object],
    folder: Path,
    expected: str,
) -> Iterator[str]:
    if done.returncode != 0:
        yield f"exit status {done.returncode}: {done.stderr[-300:]}"
    if told.get("weights") != expected:
        yield "other weights"
    found = told.get("warnings", [])
    # A good server may be slower than the end of the run waits, where the machine is busy.
    wanted = (0, 1) if how == "good" else (1,)
    if not isinstance(found, list) or len(found) not in wanted:
        yield "one warning expected"
    elif found and "MLflow" not in found[0]:
        yield f"the warning says {found[0]!r}"
    missing = FILES - {path.name for path in folder.glob("*")}
    if missing:
        yield f"no {', '.join(sorted(missing))}"


def _leaks(done: subprocess.CompletedProcess[str], scratch: Path) -> Iterator[str]:
    """Where the password is."""
    for name, text in (("standard output", done.stdout), ("standard error", done.stderr)):
        if SECRET in text:
            yield name
    for path in scratch.rglob("*"):
        if path.is_file() and SECRET.encode() in path.read_bytes():
            yield str(path.relative_to(scratch))


def _run(arguments: list[str], own: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.faults.servers", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **own}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def _wait_until_gone(tag: str, since: float, limit_s: float) -> float:
    """Waits for the last process with a tag in its environment; seconds since a moment."""
    while processes_with(tag) and time.monotonic() < since + limit_s:
        time.sleep(0.5)
    return time.monotonic() - since


def main(arguments: list[str]) -> int:
    """Tries the servers named, or all; the exit status says whether all was as it should be."""
    from modelviz_callbacks.jobs.worker_program import PATIENCE_S

    if arguments[:1] == ["--train"]:
        folder, run_id, in_place = arguments[1:]
        train(Path(folder) if folder else None, run_id, in_place == "1")
        return 0
    servers = arguments or list(SERVERS)
    expected = json.loads(_run(["--train", "", "", "0"], {}).stdout.splitlines()[-1])["weights"]
    outcomes = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(Path(scratch)) as server,
        ThreadPoolExecutor(2 * len(servers)) as pool,
    ):
        waiting = [
            pool.submit(tried, how, in_place, server, expected, PATIENCE_S)
            for how in servers
            for in_place in (False, True)
        ]
        for one in waiting:
            outcomes.append(one.result())
            print(outcomes[-1], flush=True)
    bad = [outcome for outcome in outcomes if outcome.faults]
    print(f"{len(servers)} servers, {len(outcomes)} trainings; not as they should be: {len(bad)}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
