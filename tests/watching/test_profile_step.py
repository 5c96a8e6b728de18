"""``profile_step``: one later step is timed, and the times are where people look for them."""

from __future__ import annotations

import csv
import gc
import json
import math
import os
import signal
import sys
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch
import torch._dynamo.utils
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.checkpoint import checkpoint

from modelviz_callbacks import GraphHook, GraphLogger
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.jobs.queue import QUEUE
from modelviz_callbacks.tracing import StepTimer
from tests.lightning_modules import Classifier, data, trainer_for
from tests.models import build
from tests.waiting import wait_for
from tests.writers.page_visit import content
from tests.zoo.leaves import difference
from tests.zoo.switches import switches

FEW: dict[str, Any] = {"formats": ["html", "csv"], "onnx": False, "mlflow": False}


@pytest.fixture(autouse=True)
def nothing_was_compiled() -> None:
    """Compiled code is not timed, and another test may have compiled some."""
    torch._dynamo.utils.counters.clear()


def train(model: nn.Module, args: Any, steps: int) -> list[torch.Tensor]:
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(*args).sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def tags(folder: Path) -> list[str]:
    events = EventAccumulator(str(folder), {"tensors": 0})
    events.Reload()
    return list(events.Tags()["tensors"])


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="no process can be stopped there")
def test_the_times_wait_for_the_graph_that_a_worker_is_still_at(tmp_path: Path) -> None:
    model, args, _ = build("TwoBranches")
    with GraphHook(model, dirpath=tmp_path, profile_step=2, **FEW) as hook:
        train(model, args, 1)
        (job,) = tmp_path.glob(".job-*")
        wait_for((job / "begun.json").exists)
        assert QUEUE.worker is not None
        worker = QUEUE.worker.pid
        os.kill(worker, signal.SIGSTOP)
        assert not (tmp_path / "graph.json").exists()
        train(model, args, 2)
        Timer(1.0, os.kill, (worker, signal.SIGCONT)).start()
    assert hook.report.refused == []
    assert "time of step 2" in tags(tmp_path)


def test_a_later_step_of_a_plain_loop_is_timed(way: dict[str, Any], tmp_path: Path) -> None:
    model, args, _ = build("TwoBranches")
    plain, plain_args, _ = build("TwoBranches")
    before = switches()
    with GraphHook(model, dirpath=tmp_path, profile_step=2, **way, **FEW) as hook:
        weights = train(model, args, 4)
        assert difference(before, switches()) == ""
        assert not model._forward_hooks
    assert hook.report.refused == []
    assert hook.report.figures["step_us"] > 0
    assert hook.report.figures["backward_us"] > 0
    assert {"time of step 2", "time of the backward of step 2"} <= set(tags(tmp_path))
    page = content((tmp_path / "index.html").read_bytes())
    assert '"times":[' in page
    assert '"backward":[' in page
    rows = {row["name"]: row for row in table(tmp_path)}
    assert all(float(row["forward_us"]) > 0 for row in rows.values())
    assert float(rows["fc"]["backward_us"]) > 0
    check_trace(json.loads((tmp_path / "trace.json").read_text()))
    expected = train(plain, plain_args, 4)
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))


def test_what_the_optimizer_keeps_and_what_limits_an_op_stand_beside_the_parameters(
    way: dict[str, Any], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 8))
    optimizer = torch.optim.Adam(model.parameters())
    with GraphHook(model, dirpath=tmp_path, profile_step=1, **way, **FEW):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(512, 64)).sum().backward()
            optimizer.step()
    rows = {row["name"]: row for row in table(tmp_path)}
    assert int(rows["0_Linear"]["optimizer_bytes"]) == 2 * 4 * (64 * 128 + 128) + 2 * 4
    assert rows["0_Linear"]["bound"] in ("compute", "memory", "overhead")
    assert 0 < float(rows["0_Linear"]["peak_share"]) <= 1


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "graph.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_trace(trace: dict[str, Any]) -> None:
    """Holds what Perfetto demands of the format, to the nanosecond.

    Slices of a row lie beside or inside of each other (others are dropped), an arrow begins and
    ends at the beginning of a slice that stands before it in the file, each number has one
    beginning and one end in time's order, rows are named.
    """
    rows: dict[int, list[tuple[int, int]]] = {}
    arrows: dict[str, dict[int, int]] = {"s": {}, "f": {}}
    for event in trace["traceEvents"]:
        assert event["ph"] in "MXCsf"
        assert isinstance(event["pid"], int)
        if event["ph"] != "M":
            assert math.isfinite(event["ts"])
            assert event["ts"] >= 0
        start = round(event.get("ts", 0) * 1000)
        if event["ph"] == "X":
            rows.setdefault(event["tid"], []).append((start, start + round(event["dur"] * 1000)))
        elif event["ph"] in arrows:
            assert start in [begun for begun, _ in rows[event["tid"]]]
            assert event["id"] not in arrows[event["ph"]]
            arrows[event["ph"]][event["id"]] = start
        elif event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
    assert len(rows) == 2  # what ran forward, and what autograd's thread ran
    named = [one for one in trace["traceEvents"] if one["name"] == "thread_name"]
    assert {one["tid"] for one in named} >= set(rows)
    assert arrows["s"].keys() == arrows["f"].keys()
    assert all(arrows["f"][number] >= start for number, start in arrows["s"].items())
    for slices in rows.values():
        around: list[int] = []
        for start, end in sorted(slices, key=lambda one: (one[0], -one[1])):
            while around and around[-1] <= start:
                around.pop()
            assert not around or end <= around[-1]
            around.append(end)
    names = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}
    assert {"cnn.0", "conv2d", "ConvolutionBackward0"} <= names
    kinds = [event["ph"] for event in trace["traceEvents"]]
    assert kinds.count("s") == kinds.count("f") > 0  # arrows from ops to their backward
    assert "C" in kinds


def test_a_later_training_step_of_lightning_is_timed(way: dict[str, Any], tmp_path: Path) -> None:
    module = Classifier()
    callback = GraphLogger(dirpath=tmp_path, profile_step=1, **way, **FEW)
    trainer_for(tmp_path, callback).fit(module, data())
    assert callback.report is not None
    assert callback.report.refused == []
    assert callback.report.figures["step_us"] > 0
    assert "time of step 1" in tags(tmp_path)
    assert "training_step" not in vars(module)


def test_a_compiled_part_is_timed_as_one_and_no_hook_is_left(
    way: dict[str, Any], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    with GraphHook(model, dirpath=tmp_path, profile_step=1, **way, **FEW) as hook:
        train(model, (torch.ones(2, 4),), 3)
        assert not model._forward_hooks
    assert hook.report.refused == []
    assert any("was timed as one" in remark for remark in hook.report.remarks)
    assert "time of step 1" in tags(tmp_path)


def test_a_backward_that_does_not_come_is_said(way: dict[str, Any], tmp_path: Path) -> None:
    model, args, _ = build("TwoBranches")
    with GraphHook(model, dirpath=tmp_path, profile_step=1, **way, **FEW) as hook:
        for _ in range(3):
            model(*args)
    assert hook.report.figures["step_us"] > 0
    assert any("none ran through what was timed" in remark for remark in hook.report.remarks)


def test_training_that_ends_before_the_step_says_so(way: dict[str, Any], tmp_path: Path) -> None:
    model, args, _ = build("TwoBranches")
    with GraphHook(model, dirpath=tmp_path, profile_step=9, **way, **FEW) as hook:
        train(model, args, 2)
    assert hook.report.refused == []
    assert any("Step 9 was not timed" in remark for remark in hook.report.remarks)
    assert not model._forward_hooks


def test_the_recorded_step_cannot_be_the_one_that_is_timed() -> None:
    with pytest.raises(OptionError, match="profile_step"):
        GraphLogger(profile_step=0)


def test_a_forward_that_was_interrupted_while_it_was_timed_leaves_nothing_on_its_graph(
    tmp_path: Path,
) -> None:
    class Interrupted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.made = super().forward(x)
            if len(x) > 1:
                raise KeyboardInterrupt
            return self.made

    def timers() -> list[StepTimer]:
        return [one for one in gc.get_objects() if type(one) is StepTimer]

    model, before, known = Interrupted(4, 2), switches(), timers()
    with GraphHook(model, dirpath=tmp_path, profile_step=1, background=False, **FEW):
        model(torch.ones(1, 4)).sum().backward()
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(2, 4))
    assert difference(before, switches()) == ""
    gc.collect()
    assert not [one for one in timers() if one not in known]


def test_a_forward_that_was_interrupted_is_not_timed_as_one_with_the_next(tmp_path: Path) -> None:
    class Interrupted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 1:
                raise KeyboardInterrupt
            return super().forward(x)

    model, before = Interrupted(4, 2), switches()
    with GraphHook(model, dirpath=tmp_path, profile_step=1, background=False, **FEW) as hook:
        model(torch.ones(1, 4)).sum().backward()
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(2, 4))
        for _ in range(2):
            model(torch.ones(1, 4)).sum().backward()
        assert difference(before, switches()) == ""
    assert hook.report.remarks == ["Step 1 was not timed: its forward was interrupted."]
    assert "step_us" not in hook.report.figures


def test_a_checkpoint_with_reentry_is_told_to_be_in_one_ops_time(tmp_path: Path) -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(checkpoint(self.inner, x, use_reentrant=True))
            return found

    model = Kept()
    with GraphHook(model, dirpath=tmp_path, profile_step=1, background=False, **FEW) as hook:
        train(model, (torch.ones(2, 4, requires_grad=True),), 3)
    assert any("checkpoint with reentry" in remark for remark in hook.report.remarks)
