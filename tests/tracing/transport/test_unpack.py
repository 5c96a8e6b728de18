"""A recording as bytes is data: it comes back whole, and nothing else is read or run."""

from __future__ import annotations

import ast
import random
import sys
import time
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modelviz_callbacks
from modelviz_callbacks.artifacts.products import graph_of
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.tracing import Capture, Recording, pack, record_backward, unpack
from modelviz_callbacks.tracing.lowering.to_program import to_program
from modelviz_callbacks.tracing.transport.function_names import function_of, name_of

MUTATIONS = 500
LIMIT_S = 5.0  # of one mutation, on a machine that is busy
EVENTS = ("import", "exec", "compile", "open", "os.", "subprocess.", "socket.", "pickle.", "ctypes")


class Model(nn.Module):
    """A bit of everything that a tape may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
        self.table = torch.arange(4.0)

    def forward(self, x: torch.Tensor, batch: Any = None, **rest: Any) -> Any:
        h = self.layers(x) + self.table
        h = h[:, 1:3].view(-1, 2).to(torch.float64)
        h += torch.tensor(numpy.array([1.0, float("inf")])) + torch.zeros(h.shape)
        h = torch.where(h > 1e300, torch.zeros_like(h, dtype=torch.float64), h)
        y = torch.func.vmap(lambda row: row.sin().sum())(h)
        return {"loss": F.mse_loss(y, y.detach() * 2), "y": (y, batch["a"].relu())}


def recorded() -> Recording:
    torch.manual_seed(0)
    model = Model()
    args, kwargs = (torch.randn(3, 4), UserDict(a=torch.ones(2))), {"flag": True, "far": 2**70}
    capture = Capture(model)
    capture.start(args, kwargs)
    try:
        result = model(*args, **kwargs)
    finally:
        capture.stop()
    recording = capture.finish(result)
    recording.backward = record_backward(recording)
    assert recording.backward is not None
    return recording


@pytest.fixture(scope="module")
def recording() -> Recording:
    return recorded()


def test_a_recording_comes_back_whole(recording: Recording) -> None:
    sent = unpack(pack(recording, with_values=True))
    assert dumps(graph_of(sent)) == dumps(graph_of(recording))
    assert str(to_program(sent).module.graph) == str(to_program(recording).module.graph)
    assert sent.backward == recording.backward
    assert sent.remarks == recording.remarks
    weights = dict(sent.model.named_parameters())
    for name, weight in recording.model.named_parameters():
        assert torch.equal(weights[name], weight), name


def test_packing_what_was_unpacked_gives_the_same_bytes(recording: Recording) -> None:
    once = pack(unpack(pack(recording)))
    assert pack(unpack(once)) == once


class Watch:
    """What the interpreter is asked to do while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, []
        sys.addaudithook(self.look)

    def look(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event.startswith(EVENTS):
            self.seen.append((event, args))


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.on = False


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes with something else in a few places: cut, doubled, changed, a number or a name."""
    made = bytearray(data)
    words = (b"os", b"system", b"builtins", b"eval", b"torch", b"load", b"subprocess", b"aten::add")
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(made)) if chance.random() < 0.5 else chance.randrange(4000)
        kind = chance.randrange(8)
        if kind == 0:
            made[at] = chance.randrange(256)
        elif kind == 1:
            del made[at : at + chance.randrange(1, 40)]
        elif kind == 2:
            made[at:at] = made[at : at + 40]
        elif kind == 3:
            made[at : at + 1] = str(chance.choice((-1, 2**31, 2**64, 99))).encode()
        elif kind == 4:
            word = chance.choice(words)
            made[at : at + len(word)] = word
        elif kind < 7:  # another number, in rows that stay rows
            near = range(at, min(at + 200, len(made)))
            digit = next((place for place in near if 48 < made[place] < 58), at)
            made[digit] = 49 + chance.randrange(9)
        else:
            start = made.find(b'"', at) + 1
            made[start : made.find(b'"', start)] = chance.choice(words)
    return bytes(made)


def test_of_500_mutations_none_is_run_and_each_is_read_or_refused(
    recording: Recording, watch: Watch
) -> None:
    data = pack(recording)
    unpack(data)  # what it imports the first time is in its own text
    outcomes = {True: 0, False: 0}
    for seed in range(MUTATIONS):
        given = mutated(data, random.Random(seed))
        began, watch.on = time.thread_time(), True
        try:
            unpack(given)
        except ValueError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
        finally:
            watch.on = False
        assert time.thread_time() - began < LIMIT_S, f"mutation {seed} takes too long"
    assert watch.seen == []
    assert min(outcomes.values()) > MUTATIONS // 50, outcomes


@pytest.mark.parametrize(
    "row",
    [
        ["torch", "os", "system"],
        ["torch", "torch", "load"],
        ["torch", "torch", "import_ir_module"],
        ["torch", "torch", "from_file"],
        ["torch", "torch.nn.functional", "importlib.import_module"],
        ["torch", "torch.serialization", "load"],
        ["torch", "torch", "Tensor.__class__"],
        ["torch", "torch", "os.system"],
        ["python", "builtins.eval"],
        ["python", "operator.methodcaller"],
        ["own", "__import__"],
        ["property", "__dict__", "mro"],
        ["op", "load_library::x", "y", "z"],
        ["eval", "1"],
        ["torch"],
        [],
    ],
)
def test_a_name_of_what_no_recorder_sees_is_refused(row: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        function_of(row)


@pytest.mark.parametrize("name", ["load_library::x", "import_module::os", "aten::from_file"])
def test_an_op_that_is_not_registered_cannot_be_called(name: str) -> None:
    found = function_of(["op", name, ""])
    with pytest.raises(modelviz_callbacks.errors.ReplayError):
        found()


def is_torchs(func: Any) -> bool:
    return str(getattr(func, "__module__", "")).partition(".")[0] == "torch"


def test_every_function_that_torch_lets_others_override_is_found_by_its_name() -> None:
    lost = []
    for functions in torch.overrides.get_overridable_functions().values():
        for func in functions:
            row = name_of(func)
            if row[0] == "unknown" or function_of(row) != func:
                lost.append(func)
    # A class; and what other libraries have put in the place of torch's.
    assert [one for one in lost if is_torchs(one)] == [torch.autocast]


def test_nothing_in_the_package_can_run_what_it_reads() -> None:
    refused = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    found = []
    root = Path(modelviz_callbacks.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {node.func.id} & {"eval", "exec", "compile", "__import__"}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_torchs = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
                names = {"pickle"} if is_torchs and node.func.attr == "load" else set()
            elif isinstance(node, ast.FunctionDef) and "transport" in path.relative_to(root).parts:
                names = {"pickle"} if node.name.startswith("__reduce") else set()
            if names & (refused | {"eval", "exec", "compile", "__import__"}):
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found == []
