"""Kills at random moments: no half file, no lost recording, nothing left.

A training (a plain loop, Lightning, a loop with a writer of the user's own, a loop whose files are
made in place) runs in a process of its own, forked from one that has imported everything. At a
moment that is drawn, it or its worker gets a SIGKILL, a SIGTERM or a SIGINT. When all its
processes have ended, at the latest `LIMIT_S` after the training (after one that was killed
`ALONE_S`), everything that is there is read with the reader of its kind, and it is counted

- which files are not whole, and which unfinished ones are left,
- whether what was recorded is lost: all files must be there, but for a training in place that was
  killed, which has made ``graph.json`` only,
- which processes and job folders are left,
- whether a training whose worker was killed had another end than without.

Run it with ``python -m benchmarks.faults.kills [COUNT] [FIRST_SEED]``; it needs Linux, what the
tests need, and a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COUNT = 225
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
# Ways to train, each with those who can be killed.
KINDS = tuple(
    (way, victim, name)
    for name in SIGNALS
    for way, victims in (
        ("plain", ("trainer", "worker")),
        ("lightning", ("trainer", "worker")),
        ("own writer", ("trainer", "worker")),
        ("in place", ("trainer",)),
    )
    for victim in victims
)
# How long processes and jobs may be there after the end, in seconds.
LIMIT_S = 60.0
# How long a worker may go on alone, in seconds.
ALONE_S = 300.0
# Longest training after the first batch, in seconds: the worker starts, begins, is done meanwhile.
LONGEST_S = 4.0
# For how long nothing must be found before all is said to be over, in seconds.
SETTLED_S = 0.5
AT_ONCE = 2
_TAG = "MODELVIZ_FAULTS_TAG"
_RECORDED = "recorded"
_MADE = {"graph.json", "graph.txt", "graph.svg", "index.html", "report.json"}


# --- the training


def train(way: str, folder: Path, scratch: Path, train_s: float, onnx: bool) -> None:
    """Trains for a while; leaves a word when the first batch is recorded."""
    import torch
    from torch import nn

    from modelviz_callbacks import GraphHook
    from modelviz_callbacks.jobs.queue import JobQueue

    # At idle priority a worker beside busy cores, such as those of this program, never ends.
    JobQueue.gives_way = False
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    options: dict[str, Any] = {"dirpath": folder, "onnx": onnx, "mlflow": False}
    options |= {"formats": ["svg", "text", "html", "png", "csv", "markdown"]}
    if way == "lightning":
        _train_lightning(scratch, train_s, options)
        return
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    writer = None
    if way == "own writer":
        from torch.utils.tensorboard import SummaryWriter

        writer = options["tensorboard"] = SummaryWriter(scratch / "logs")
    with GraphHook(model, background=way != "in place", **options):
        end = None
        while end is None or time.monotonic() < end:
            optimizer.zero_grad()
            model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
            if end is None:
                (scratch / _RECORDED).touch()
                end = time.monotonic() + train_s
            time.sleep(0.001)
    if writer is not None:
        writer.close()


def _train_lightning(scratch: Path, train_s: float, options: dict[str, Any]) -> None:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch import nn

    from modelviz_callbacks import GraphLogger

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self.net(batch).square().mean()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    class Ends(Callback):
        end: float | None = None

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if self.end is None:
                (scratch / _RECORDED).touch()
                self.end = time.monotonic() + train_s
            trainer.should_stop = time.monotonic() >= self.end
            time.sleep(0.001)

    trainer = Trainer(
        max_epochs=1000,
        min_steps=1,
        accelerator="cpu",
        logger=TensorBoardLogger(scratch / "logs"),
        callbacks=[GraphLogger(**options), Ends()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(60, 4), batch_size=6))  # type: ignore[arg-type]


def serve() -> int:
    """Forks a process for each training that a line of standard input asks for.

    Returns:
        In such a process: 0, when it has trained; it ends like any program.
    """
    import lightning.pytorch
    import onnx  # as a user's program might have
    import torch
    import torch.utils.tensorboard

    del lightning, onnx
    torch.set_num_threads(1)
    children: dict[int, str] = {}
    unread = b""
    while True:
        if select.select([0], [], [], 0.02)[0]:
            read = os.read(0, 65536)
            if not read:
                return 0
            *lines, unread = (unread + read).split(b"\n")
            for order in map(json.loads, lines):
                pid = os.fork()
                if pid == 0:
                    return _become(order)
                children[pid] = order["tag"]
                _say({"tag": order["tag"], "pid": pid})
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = os.waitstatus_to_exitcode(ended[1])
            _say({"tag": children.pop(ended[0]), "status": status})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _become(order: dict[str, Any]) -> int:
    os.setpgid(0, 0)
    for name in SIGNALS[1:]:  # a shell may have started us deaf to them
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ[_TAG] = order["tag"]
    scratch = Path(order["scratch"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(scratch / "said.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for target, source in ((0, nothing), (1, said), (2, said)):
        os.dup2(source, target)
    train(order["way"], scratch / "graphs", scratch, order["train_s"], order["onnx"])
    return 0


# --- the killing


@dataclass
class Outcome:
    """What one kill came to.

    Attributes:
        seed: Says what was drawn.
        kind: Way to train, victim and signal.
        recorded: Whether the first batch was over when it came.
        hit: Whether the victim was there.
        gone_s: When the last process was gone, in seconds after the training's end.
        faults: Kind of fault and what it is, one a fault.
    """

    seed: int
    kind: tuple[str, str, str]
    recorded: bool = False
    hit: bool = False
    gone_s: float = 0.0
    faults: list[tuple[str, str]] = field(default_factory=list)


class Trainers:
    """Trainings in forked processes, as `serve` makes them."""

    def __init__(self) -> None:
        """Starts the process that they are forked from."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.kills", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.told: dict[str, dict[str, int]] = {}
        self._pool = ThreadPoolExecutor(1)
        self._pool.submit(self._listen)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            self.told.setdefault(message.pop("tag"), {}).update(message)

    def start(self, order: dict[str, Any]) -> int:
        """Starts a training; its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self._known(order["tag"], "pid", 120.0)

    def status(self, tag: str, limit_s: float) -> int:
        """The exit status of a training, waited for; negative: the signal that ended it."""
        return self._known(tag, "status", limit_s)

    def _known(self, tag: str, what: str, limit_s: float) -> int:
        end = time.monotonic() + limit_s
        while what not in self.told.get(tag, {}):
            if time.monotonic() > end:
                raise TimeoutError(f"no {what} of a training within {limit_s:.0f} s")
            time.sleep(0.01)
        return self.told[tag][what]

    def close(self) -> None:
        """Ends the process that they are forked from."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._pool.shutdown()


def killed(seed: int, trainers: Trainers) -> Outcome:
    """Trains once, kills once, and looks at what is left."""
    from benchmarks.faults.left_behind import end_process, processes_with

    outcome = Outcome(seed, KINDS[seed % len(KINDS)])
    way, victim, name = outcome.kind
    chance = random.Random(seed)
    train_s = chance.choice((0.0, chance.uniform(0.0, LONGEST_S)))
    # What a worker has begun lasts longer than its first files.
    moment_s = chance.uniform(0.0, train_s + chance.choice((0.3, 2.5)))
    tag = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        order = {"way": way, "scratch": folder, "train_s": train_s, "tag": tag}
        pid = trainers.start({**order, "onnx": chance.random() < 0.5})
        # A worker is there from before the first batch, a training may be hit before it.
        if victim == "worker" or chance.random() < 0.7:
            _wait(lambda: (scratch / _RECORDED).exists() or "status" in trainers.told[tag], 60.0)
        time.sleep(moment_s)
        outcome.recorded = (scratch / _RECORDED).exists()
        for target in [pid] if victim == "trainer" else processes_with(tag):
            if "status" not in trainers.told[tag] or victim == "worker":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, getattr(signal, name))
                    outcome.hit = True
        status = trainers.status(tag, 300.0)
        ended = time.monotonic()
        limit_s = LIMIT_S if status >= 0 else ALONE_S
        _wait(lambda: not processes_with(tag), limit_s)
        outcome.gone_s = time.monotonic() - ended
        # A process that is just becoming another program has no environment to be found by.
        time.sleep(SETTLED_S)
        _wait(lambda: not processes_with(tag), limit_s)
        outcome.recorded |= victim == "worker"
        outcome.faults += _faults(outcome, status, scratch)
        for left in processes_with(tag):
            outcome.faults.append(("processes left", f"{left}"))
            end_process(left)
    return outcome


def _wait(condition: Any, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def _faults(outcome: Outcome, status: int, scratch: Path) -> Iterator[tuple[str, str]]:
    from benchmarks.faults.left_behind import broken_files, graphs_in_events, leftovers

    way, victim, _ = outcome.kind
    folder = scratch / "graphs"
    for line in broken_files(scratch):
        yield "half files", line
    for line in leftovers(scratch):
        yield ("job folders left" if line.startswith(".job-") else "unfinished files left"), line
    if victim == "worker" and status != 0:
        said = (scratch / "said.log").read_text(errors="replace")[-300:]
        yield "other exit status", f"{status}: {said}"
    made = {path.name for path in folder.glob("*")} if folder.exists() else set()
    in_place_killed = way == "in place" and status != 0
    wanted = {"graph.json"} if in_place_killed else _MADE
    if outcome.recorded and not wanted <= made:
        yield "lost recordings", f"no {', '.join(sorted(wanted - made))} (status {status})"
    elif outcome.recorded and not in_place_killed:
        refused = json.loads((folder / "report.json").read_bytes())["refused"]
        if refused:
            yield "lost parts", f"{refused[0]}"
    graphs = graphs_in_events(scratch)
    if outcome.recorded and graphs != 1:
        yield "graphs in TensorBoard", f"{graphs}"


def main(arguments: list[str]) -> int:
    """Kills so often; the exit status says whether all was as it should be."""
    if arguments == ["--serve"]:
        return serve()
    count, first = (*map(int, arguments), *(COUNT, 0)[len(arguments) :])
    began = time.monotonic()
    trainers = Trainers()
    totals: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    recorded = 0
    slowest_s = 0.0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for outcome in pool.map(lambda seed: killed(seed, trainers), range(first, first + count)):
            way, victim, name = outcome.kind
            if outcome.hit:
                hits[f"{victim}, {name}"] += 1
            recorded += outcome.recorded
            slowest_s = max(slowest_s, outcome.gone_s)
            for kind, what in outcome.faults:
                totals[kind] += 1
                print(f"seed {outcome.seed} ({way}, {victim}, {name}): {kind}: {what}", flush=True)
    trainers.close()
    print(f"{count} trainings in {time.monotonic() - began:.0f} s, {hits.total()} killed in time:")
    for kind, number in sorted(hits.items()):
        print(f"  {kind:18s} {number}")
    print(f"recorded before it: {recorded}; last process gone after at most {slowest_s:.1f} s")
    for kind in ("half files", "lost recordings", "processes left", "job folders left"):
        print(f"  {kind:18s} {totals.pop(kind, 0)}")
    for kind, number in sorted(totals.items()):
        print(f"  {kind:18s} {number}")
        totals[kind] = number
    return int(any(totals.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
