"""How long the end of a short run takes with a worker, beside the same with the files in place.

The network of the Iris example trains for two seconds, in a process of its own each time; what is
measured is the closing of the hook, where files that wait are made and what the worker makes is
waited for. Both ways take turns, on the machine as it is and beside as many busy processes as it
has cores; told are the middle of all rounds, their difference and their ratio. At most 0.3 s longer
are promised, and beside busy cores at most 1.5 times as long.

Run it with ``python -m benchmarks.end_of_run [ROUNDS]``; it takes a minute a round.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROUNDS = 7
TRAIN_S = 2.0
LONGER_S, RATIO = 0.3, 1.5
_WAYS = {"worker": True, "in place": False}


def train(folder: Path, background: bool) -> None:
    """Trains for `TRAIN_S`; prints how many seconds the end took."""
    import torch
    from torch import nn

    from modelviz_callbacks import GraphHook

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    features, labels = torch.randn(120, 4), torch.randint(3, (120,))
    hook = GraphHook(
        model,
        dirpath=folder,
        mlflow=False,
        input_names=["features"],
        output_names=["logits"],
        trained_onnx=True,
        background=background,
    )
    end = time.monotonic() + TRAIN_S
    while time.monotonic() < end:
        for batch, wanted in zip(features.split(10), labels.split(10), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    began = time.monotonic()
    hook.close()
    took_s = time.monotonic() - began
    assert not hook.report.refused, hook.report.refused
    assert {"graph.json", "graph.svg", "graph.onnx", "model.onnx"} <= set(hook.report.files)
    print(f"\n{took_s}")


def measured(way: str) -> float:
    """Seconds that the end of one run took."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "benchmarks.end_of_run", "--train", folder, way]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main(arguments: list[str]) -> int:
    """Measures; the exit status says whether it is as promised."""
    if arguments[:1] == ["--train"]:
        train(Path(arguments[1]), _WAYS[arguments[2]])
        return 0
    rounds = int(arguments[0]) if arguments else ROUNDS
    kept = True
    for place, busy in (("as it is", 0), ("busy cores", os.cpu_count() or 1)):
        found: dict[str, list[float]] = {way: [] for way in _WAYS}
        with busy_cores(busy):
            for number in range(rounds):
                # Whoever comes first meets another machine than who comes second.
                for way in list(_WAYS)[:: 1 if number % 2 else -1]:
                    found[way].append(measured(way))
        worker_s, in_place_s = (median(found[way]) for way in _WAYS)
        longer_s, ratio = worker_s - in_place_s, worker_s / in_place_s
        kept &= ratio <= RATIO if busy else longer_s <= LONGER_S
        print(
            f"{place:10s}  worker {worker_s:5.2f} s, in place {in_place_s:5.2f} s: "
            f"{longer_s:+5.2f} s, {ratio:4.2f} ×",
            flush=True,
        )
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
