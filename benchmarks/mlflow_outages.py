"""What a bad MLflow server costs a training: wall times beside the undisturbed one, in one run.

A real server behind a proxy that refuses connections, answers 500, accepts and hangs, dies
half-way through the uploads, or comes back after a minute. The training may wait for the stated
limit at its end, here 5 s, and be at most 1.05 times as long as without a hook otherwise; its
weights are compared, too.

Run it with ``python -m benchmarks.mlflow_outages``; it needs what the tests need.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from torch import nn

from modelviz_callbacks import GraphHook
from modelviz_callbacks.jobs import in_worker
from modelviz_callbacks.jobs.queue import QUEUE
from tests.mlflow_server import Proxy, misbehaving_proxy, running_server, store_in_use

LIMIT_S = 5.0
STEPS = 400


def train(folder: Path | None, uri: str = "", run_id: str = "") -> tuple[float, Any, float]:
    """Seconds that a training took, its worker, and a sum over its weights."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(6)))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    x = torch.randn(256, 512)
    start = time.perf_counter()
    hook = None
    if folder is not None:
        with store_in_use(uri):
            hook = GraphHook(model, dirpath=folder, mlflow=run_id)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    worker = QUEUE.worker
    if hook is not None:
        hook.close()
    took = time.perf_counter() - start
    return took, worker, sum(parameter.double().sum().item() for parameter in model.parameters())


def misbehave(proxy: Proxy, how: str) -> None:
    """Makes the proxy a bad server."""
    if how in ("refuses", "back after a minute"):
        proxy.refuse()
        if how != "refuses":
            proxy.recover_after(60.0)
    elif how == "dies half-way":
        proxy.dies_after_uploads = 1
    else:
        proxy.behaviour = how


def main() -> None:
    torch.set_num_threads(1)
    in_worker.WAIT_LIMIT_S = LIMIT_S
    train(None)
    for how in ("refuses", "500", "hang", "dies half-way", "back after a minute"):
        with (
            tempfile.TemporaryDirectory() as scratch,
            running_server(Path(scratch)) as server,
            misbehaving_proxy(server.port) as proxy,
        ):
            run_id = MlflowClient(server.uri).create_run("0").info.run_id
            # Beside the same server, which takes its share of a small machine.
            plain, _, weights = train(None)
            misbehave(proxy, how)
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                took, worker, found = train(Path(scratch, "graphs"), proxy.uri, run_id)
            assert worker is not None
            if how == "back after a minute":
                worker.wait(180)
            worker.kill()
            arrived = len(list(server.artifacts.rglob(f"{run_id}/artifacts/model_graph/*")))
        bound = 1.05 * plain + LIMIT_S
        print(
            f"{how:20s} {took:6.2f} s, no hook {plain:6.2f} s, allowed {bound:6.2f} s; weights "
            f"{'the same' if found == weights else 'DIFFERENT'}; {arrived} files arrived",
            flush=True,
        )


if __name__ == "__main__":
    main()
