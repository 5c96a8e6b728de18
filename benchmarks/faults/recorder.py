"""Faults at every step of the recorder: what does one cost?

A small training is recorded once to learn which functions of the rooms ``tracing/capture``,
``tracing/lowering`` and ``analysis`` run, and how often. Then it is run again for each of them,
with a `LookupError` where it is called the first time, in the middle, and the last time. After
each run: are the weights those of the training without us, to the bit; was nothing raised; is
something said (a warning or a line of the report); is there a graph, whole or partial?

Run it with ``python -m benchmarks.faults.recorder``; words choose functions by their names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from modelviz_callbacks import GraphHook
from modelviz_callbacks.tracing.capture.torch_internals import mode_stack

_ROOMS = ("/modelviz_callbacks/tracing/capture/", "/modelviz_callbacks/tracing/lowering/")
_EVERYTHING = (*_ROOMS, "/modelviz_callbacks/analysis/")
_PACKAGE = "/modelviz_callbacks/"

# What holds the guard itself, and what only compares, asks a class or takes a hook off: nothing
# is around it that could catch what is raised before its first line.
_GUARDS = (
    "Capture.is_here",
    "OptimizerMemory._after_any_step",
    "Recorder._as_called",
    "Recorder._call_with_effects",
    "Recorder._classify",
    "StepHook.remove",
    "class_of",
    "compiled_call",
    "is_compiled",
    "is_lazy",
    "method_names",
    "runs_compiled",
    "unwrapped",
    "unwrapped_once",
    "without_wrappers",
)
_STEPS = 2


class Net(nn.Module):
    """What a recorder meets in most models: views, writes, values read, several modules."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.cell, self.head = nn.GRUCell(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.body(x)
        h = self.cell(h, h)
        h[:, 0] += 1
        if h.sum().item() > 1e9:
            h = h * 2
        return {"first": self.head(h), "second": torch.stack([h, h.relu()]).mean(0)}


@dataclass(frozen=True)
class Place:
    """One call of a function: the ``call``-th one in a run, counted from 1."""

    file: str
    name: str
    line: int
    call: int

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.name}#{self.call}"


@dataclass(frozen=True)
class Outcome:
    """What a fault cost.

    Attributes:
        raised: What came out of the training; ``""``: nothing.
        is_same: Whether the weights are those of the training without us.
        said: Warnings of the run.
        refused: Lines of the report on what is not there.
        ops: Ops in ``graph.json``; -1: there is no such file.
        happened: Whether the place was reached.
        left: Modes of ours that stayed on torch's stack.
    """

    raised: str
    is_same: bool
    said: int
    refused: int
    ops: int
    happened: bool
    left: int

    @property
    def wrong(self) -> str:
        """What must not be; ``""`` where all is well."""
        if self.raised:
            return f"raised {self.raised}"
        if not self.is_same:
            return "other weights"
        if self.left:
            return f"{self.left} modes left"
        if self.ops < 0 and not self.said + self.refused:
            return "no graph, and nothing is said"
        return f"{self.said} warnings" if self.said > 1 else ""


def trained(folder: Path | None) -> tuple[list[torch.Tensor], Any]:
    """The weights after a few steps, and the report where a folder for a recording is given."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = [torch.randn(3, 4) for _ in range(_STEPS)]
    report = None
    if folder is None:
        _train(net, optimizer, batches)
    else:
        with GraphHook(
            net, dirpath=folder, formats=["text"], tensorboard=False, onnx=False, background=False
        ) as hook:
            _train(net, optimizer, batches)
        report = hook.report
    return [tensor.clone() for tensor in net.state_dict().values()], report


def _train(net: nn.Module, optimizer: Any, batches: Iterable[torch.Tensor]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        outputs = net(batch)
        (outputs["first"].pow(2).mean() + outputs["second"].mean()).backward()
        optimizer.step()


def places(rooms: tuple[str, ...] = _EVERYTHING) -> list[Place]:
    """Three calls of each function that runs while the training is recorded."""
    counts = Counter[CodeType]()

    def count(frame: FrameType, event: str, _: Any) -> None:
        in_room = any(room in frame.f_code.co_filename for room in rooms)
        if event == "call" and in_room and _is_called_by_us(frame):
            counts[frame.f_code] += 1

    with tempfile.TemporaryDirectory() as folder:
        trained(Path(folder))  # what is done once a process
        with _profiled(count):
            trained(Path(folder))
    found = []
    for code, number in counts.items():
        for call in sorted({1, (number + 1) // 2, number}):
            found.append(Place(code.co_filename, qualified_name(code), code.co_firstlineno, call))
    return found


def _is_called_by_us(frame: FrameType) -> bool:
    """Not by torch: what torch calls has to begin to run before it can catch anything."""
    caller = frame.f_back
    if qualified_name(frame.f_code) in _GUARDS:
        return False
    return caller is not None and _PACKAGE in caller.f_code.co_filename


@cache
def qualified_name(code: CodeType) -> str:
    """The name with the class that a function is in, which Python 3.10 does not keep with its code.

    Args:
        code: Of a function in a file.
    """
    if sys.version_info >= (3, 11):
        return code.co_qualname
    return qualified_names(code.co_filename).get((code.co_name, code.co_firstlineno), code.co_name)


@cache
def qualified_names(file: str) -> dict[tuple[str, int], str]:
    """What `qualified_name` finds for each function of a file, by name and first line.

    Args:
        file: Its path.
    """
    whole = compile(Path(file).read_text(encoding="utf-8"), file, "exec", dont_inherit=True)
    return dict(_inside(whole, ""))


def _inside(code: CodeType, before: str) -> Iterator[tuple[tuple[str, int], str]]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            name = before + inner.co_name
            yield (inner.co_name, inner.co_firstlineno), name
            is_class = not inner.co_flags & CO_OPTIMIZED
            has_locals = not is_class and not inner.co_name.endswith(("comp>", "genexpr>"))
            yield from _inside(inner, f"{name}.<locals>." if has_locals else f"{name}.")


@contextmanager
def _profiled(function: Any) -> Any:
    sys.setprofile(function)
    try:
        yield
    finally:
        sys.setprofile(None)


def outcome(place: Place, wanted: list[torch.Tensor]) -> Outcome:
    """Trains with a fault at a place.

    Args:
        place: Where.
        wanted: The weights of the training without us.
    """
    left = place.call

    def fail(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        code = frame.f_code
        if event != "call" or code.co_firstlineno != place.line or code.co_filename != place.file:
            return
        if qualified_name(code) == place.name and _is_called_by_us(frame):
            left -= 1
            if left == 0:
                raise LookupError(f"injected at {place}")

    raised, weights, report = "", [], None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with _profiled(fail):
                weights, report = trained(Path(folder))
        except Exception as error:
            raised = repr(error)
        graphs = [json.loads(path.read_text()) for path in Path(folder).rglob("graph.json")]
    is_same = len(weights) == len(wanted) and all(map(torch.equal, weights, wanted))
    ops = [sum(node["kind"] == "op" for node in graph["nodes"]) for graph in graphs]
    refused = 0 if report is None else len(report.refused)
    modes = len(mode_stack() or ())
    return Outcome(raised, is_same, len(said), refused, max(ops, default=-1), left <= 0, modes)


def main() -> None:
    """Prints a line for each fault that cost too much, and how many of which kind there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=1, help="take every Nth place")
    parser.add_argument("words", nargs="*", help="parts of functions' names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted, _ = trained(None)
    kinds = Counter[str]()
    for place in places()[:: options.each]:
        if options.words and not any(word in str(place) for word in options.words):
            continue
        found = outcome(place, wanted)
        graph = "no graph" if found.ops < 0 else "a graph"
        kinds[f"{graph}, {'said' if found.said + found.refused else 'nothing said'}"] += 1
        if found.wrong:
            kinds["wrong"] += 1
            print(place, found.wrong, found, sep=" | ", flush=True)
    for kind, number in kinds.items():
        print(f"{kind}: {number}")


if __name__ == "__main__":
    main()
