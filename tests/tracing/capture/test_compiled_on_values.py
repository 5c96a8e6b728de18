"""Compiled code that goes where values say: its graph is that of a run on copies, and no more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, GraphLogger, ModelGraph, trace
from modelviz_callbacks.tracing.capture import value_copies
from tests.lightning_modules import Classifier, data, trainer_for
from tests.samples import one_and_the_rest_slow
from tests.tracing.capture.test_compiled import Make, compared, in_place, trained
from tests.tracing.capture.test_setups import IN_PLACE, Network
from tests.zoo.leaves import difference, frozen

ON_COPIES = "ran once more on copies of its tensors"


class Values(Network):
    """Goes on with values of its hidden layer, counts its calls, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[float] = []
        self.register_buffer("mean", torch.zeros(8))

    def run_block(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.mean.mul_(0.9).add_(hidden.detach().mean(0))
        return self.chosen(self.block(hidden))

    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Item(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append(hidden.sum().item())
        return hidden * 2 if self.seen[-1] > -1e9 else hidden * 3


class Numpy(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append(float(numpy.abs(hidden.detach().numpy()).max()))
        return hidden * self.seen[-1]


class Any_(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.tanh() if (hidden > -1e9).any() else hidden.sigmoid()


class Nonzero(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = (hidden.sum(1) > -1e9).nonzero().flatten()
        return hidden + torch.zeros_like(hidden).index_add(0, rows, hidden[rows])


class Listed(Values):
    def chosen(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = [len(row) for row in hidden.detach().round().tolist()]
        return torch.cat([part[None] for part in hidden[: len(parts)]])


class Around(nn.Module):
    """Something before the part that is compiled."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.before(x))  # type: ignore[no-any-return]


KINDS = {"item": Item, "numpy": Numpy, "any": Any_, "nonzero": Nonzero, "list": Listed}


def whole(kind: Callable[[], nn.Module], **options: Any) -> Make:
    def make() -> tuple[nn.Module, nn.Module]:
        model = kind()
        return model, torch.compile(model, **options)  # type: ignore[return-value]

    return make


def part(kind: Callable[[], nn.Module], **options: Any) -> Make:
    def make() -> tuple[nn.Module, nn.Module]:
        model = Around(torch.compile(kind(), **options))
        return model, model

    return make


def of_eager(kind: Callable[[], nn.Module]) -> ModelGraph:
    return trace(kind(), torch.randn(6, 4)).graph


def ops(graph: ModelGraph, under: str = "") -> list[Any]:
    return [
        (node.op, node.scope.removeprefix(under).strip("/"), [one.shape for one in node.outputs])
        for node in graph.ops
    ]


CASES = {
    f"{name} {way.__name__} {backend}": (kind, way(kind, backend=backend))
    for name, kind in KINDS.items()
    for way in (whole, in_place, part)
    for backend in ("eager", "aot_eager")
}


@pytest.mark.process
@pytest.mark.parametrize("case", one_and_the_rest_slow(CASES))
def test_five_steps_are_the_same_and_the_ops_are_those_of_the_eager_model(
    case: str, tmp_path: Path
) -> None:
    kind, make = CASES[case]
    graph, remarks = compared(make, tmp_path)
    assert any(ON_COPIES in text for text in remarks)
    found = ops(graph, "inner")
    expected = ops(of_eager(kind))
    assert found[len(found) - len(expected) :] == expected


@pytest.mark.slow
@pytest.mark.process
def test_what_is_too_large_to_copy_is_one_box_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_copies, "MOST_BYTES", 100)
    graph, remarks = compared(part(Item, backend="eager"), tmp_path)
    assert [node.op for node in graph.ops] == ["linear", "Item"]
    (said,) = [text for text in remarks if "what is inside of it is not shown" in text]
    assert "failed without data (DataDependent" in said
    assert said.endswith("to copy.")


class Meter:
    """An object of the author's that a forward changes."""

    def __init__(self) -> None:
        self.count = 0
        self.total = torch.zeros(())

    def update(self, value: torch.Tensor) -> None:
        self.count += 1
        self.total.add_(value.detach())


class Effects(nn.Module):
    """Changes all that a module may hold, and goes where that says."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.reads = reads
        self.is_first = True
        self.register_buffer("is_ready", torch.tensor(False))
        self.meter = Meter()
        self.update = self.meter.update
        self.python, self.numpy = random.Random(1), numpy.random.default_rng(1)
        self.generator = torch.Generator().manual_seed(1)
        self.histogram = numpy.zeros(2)
        self.names = Counter[str]()
        self.lists = {"a": [0]}
        self.numbers = iter([1, 2, 3, 4, 5, 6, 7])
        self.settings = SimpleNamespace(used=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("I ran")
        self.update(x.sum())
        drawn = self.python.random() + self.numpy.random() + random.random() + numpy.random.rand()
        self.histogram[0] += 1
        self.names["a"] += next(self.numbers)
        self.lists["a"].append(1)
        self.settings.used += 1
        y = self.layer(x + torch.rand(4, generator=self.generator) * drawn)
        if self.is_first:
            self.is_first, y = False, y.tanh()
        if self.reads and not self.is_ready.item():
            self.is_ready.fill_(True)
            y = y.sigmoid()
        return y

    def seen(self) -> list[Any]:
        """What there is of it now."""
        held = [self.meter.count, self.meter.total, self.histogram, dict(self.names), self.lists]
        drawn = [self.python.random(), self.numpy.random(), random.random(), numpy.random.rand()]
        state = [self.generator.get_state(), torch.get_rng_state(), dict(self.state_dict())]
        return frozen([held, drawn, state, list(self.numbers), self.settings.used])


@pytest.mark.alike
@pytest.mark.process
@pytest.mark.parametrize("reads", [False, True])
def test_what_a_forward_changes_is_changed_once_and_the_graph_is_of_what_was_before(
    reads: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for watched in (True, False):
        torch._dynamo.reset()
        random.seed(0), numpy.random.seed(0), torch.manual_seed(0)
        model = Effects(reads)
        compiled: Any = torch.compile(model, backend="eager")
        batch = torch.randn(2, 4)
        hook = GraphHook(compiled, dirpath=tmp_path, **IN_PLACE) if watched else None
        for _ in range(3):
            compiled(batch).sum().backward()
        if hook is not None:
            hook.close()
        found.append(frozen([model.seen(), capsys.readouterr().out.count("I ran")]))
    assert difference(found[1], found[0]) == ""
    graph = ModelGraph.load(tmp_path / "graph.json")
    assert ops(graph) == ops(trace(Effects(reads), batch).graph)


ELSEWHERE = torch.zeros(8)


class WritesElsewhere(Item):
    """Writes to a tensor that is no part of it."""

    def run_block(self, hidden: torch.Tensor) -> torch.Tensor:
        ELSEWHERE.add_(hidden.detach().mean(0))
        return super().run_block(hidden)


class NormalisesElsewhere(Item):
    """Runs a module that is no part of it, whose statistics change."""

    def run_block(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().run_block(NORM(hidden))


NORM = nn.BatchNorm1d(8)


@pytest.mark.alike
@pytest.mark.process
@pytest.mark.parametrize("kind", [WritesElsewhere, NormalisesElsewhere])
def test_code_that_writes_to_what_was_not_copied_is_one_box(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    after = []
    make = part(kind, backend="eager")
    for folder in (tmp_path, None):
        ELSEWHERE.zero_()
        NORM.reset_running_stats()
        trained(make, folder)
        after.append(frozen([ELSEWHERE.clone(), dict(NORM.state_dict())]))
    assert difference(after[1], after[0]) == ""
    assert [node.op for node in ModelGraph.load(tmp_path / "graph.json").ops][1] == kind.__name__


class Once(Item):
    """Takes its numbers from a generator, which nobody can run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = (float(number) for number in range(100))

    def run_block(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().run_block(hidden) * next(self.numbers)


@pytest.mark.process
def test_code_that_takes_what_is_there_once_is_one_box_that_says_so(tmp_path: Path) -> None:
    graph, remarks = compared(part(Once, backend="eager"), tmp_path)
    assert [node.op for node in graph.ops] == ["linear", "Once"]
    assert any(text.endswith("it uses a generator.") for text in remarks)


class ReadsItsLoss(Classifier):
    """Scales its loss by what the loss is."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        loss = self.head(self.backbone(batch)).square().mean()
        return loss * 2 if loss.item() > -1 else loss * 3


@pytest.mark.process
def test_a_compiled_lightning_module_ends_the_same(tmp_path: Path) -> None:
    ends = []
    for watched in (True, False):
        torch._dynamo.reset()
        module = ReadsItsLoss()
        logger = GraphLogger(tmp_path / "graph", **IN_PLACE)
        trainer = trainer_for(tmp_path, *([logger] if watched else []), max_steps=5)
        torch.manual_seed(1)
        trainer.fit(torch.compile(module, backend="eager"), data(32))  # type: ignore[arg-type]
        ends.append(frozen([dict(module.state_dict()), torch.get_rng_state()]))
        if watched:
            assert any(ON_COPIES in text for text in logger.report.remarks)
    assert difference(ends[1], ends[0]) == ""
    (path,) = tmp_path.rglob("graph.json")
    found = [node.op for node in ModelGraph.load(path).ops]
    assert found[-4:] == ["square", "mean", "item", "mul"]
