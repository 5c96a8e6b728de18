"""A fault at any step of recording, lowering or writing costs the graph, and nothing else."""

from __future__ import annotations

import functools
import logging
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy
import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils.data import DataLoader

from modelviz_callbacks import GraphHook, GraphLogger, ModelGraph
from modelviz_callbacks.artifacts import events, onnx_files, products, table
from modelviz_callbacks.artifacts.directory import Directory
from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.report import ModelvizWarning, Report
from modelviz_callbacks.tracing.capture import compile_guard, recorder, recording, session, tape
from modelviz_callbacks.tracing.capture.functorch_watcher import TransformWatcher
from modelviz_callbacks.tracing.capture.provenance import OriginFinder
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.session import Capture
from modelviz_callbacks.tracing.capture.shared_memory import SharedMemory
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker
from modelviz_callbacks.writers import graphdef
from tests.zoo.leaves import difference, frozen
from tests.zoo.switches import hooks, switches

# Only what is written at once, so that a test takes milliseconds.
IN_PLACE: dict[str, Any] = {
    "onnx": False,
    "formats": ["text"],
    "tensorboard": False,
    "background": False,  # the faults are put into this process
}
MESSAGE = "injected by the test"


class Injected(RuntimeError):
    """What every fault of these tests raises."""


class Step(NamedTuple):
    """One step of the library's way: where it is looked up, and its name there."""

    home: Any
    name: str

    def __str__(self) -> str:
        return f"{getattr(self.home, '__qualname__', self.home.__name__)}.{self.name}"


ARMING = [
    Step(StateNames, "__init__"),
    Step(Recorder, "__init__"),
    Step(OriginFinder, "__init__"),
    Step(TransformWatcher, "__init__"),
    Step(Capture, "__init__"),
    Step(Capture, "start"),
    Step(session, "forward_signature"),
    Step(Recorder, "see_state"),
    Step(module_hooks, "register_module_forward_pre_hook"),
    Step(module_hooks, "register_module_forward_hook"),
    Step(Capture, "_pause_hook"),
    Step(optimizer_hooks, "register_optimizer_step_pre_hook"),
    Step(optimizer_hooks, "register_optimizer_step_post_hook"),
    Step(compile_guard, "_hidden_from_higher_order_ops"),
    Step(session, "push_mode"),
]

# What runs in the forward, once for each op or module call.
RECORDING = [
    Step(recorder, "classify"),
    Step(recorder, "classify_file"),
    Step(recorder, "versions_in"),
    Step(recorder, "written_state"),
    Step(recorder, "flat_records"),
    Step(recorder, "autocast_state"),
    Step(recorder, "_any_autocast"),
    Step(recorder, "_sequence_number"),
    Step(tape.TensorRecord, "__init__"),
    Step(Recorder, "encode"),
    Step(Recorder, "see"),
    Step(Recorder, "record"),
    Step(Recorder, "_append"),
    Step(Recorder, "_encode_result"),
    Step(Recorder, "_encode_nested"),
    Step(Recorder, "_created"),
    Step(Recorder, "_targets"),
    Step(Recorder, "_keep_state"),
    Step(Recorder, "_new_version"),
    Step(Recorder, "_note_effects"),
    Step(OriginFinder, "explain"),
    Step(OriginFinder, "state_record"),
    Step(OriginFinder, "keep_value"),
    Step(OriginFinder, "remember"),
    Step(OriginFinder, "note_reads"),
    Step(OriginFinder, "_sharing"),
    Step(OriginFinder, "_autograd_sources"),
    Step(OriginFinder, "_read_here"),
    Step(OriginFinder, "_learn_gathered"),
    Step(SharedMemory, "hand_out"),
    Step(SharedMemory, "take_in"),
    Step(SharedMemory, "skip"),
    Step(SharedMemory, "_tell"),
    Step(StateNames, "holds"),
    Step(TransformWatcher, "is_on"),
    Step(TransformWatcher, "note_result"),
]

ENDING = [
    Step(session, "Recording"),
    Step(Capture, "finish"),
    Step(Capture, "_recording"),
]

# What the recording can do without: the graph is partial then.
DISPENSABLE = [
    Step(session, "named_inputs"),
    Step(Recorder, "adopt"),
    Step(recording, "walk"),
    Step(session, "walk"),
    Step(session, "compiled_parts"),
    Step(StateNames, "update"),
    Step(TransformWatcher, "with_layers"),
]

# Steps of the forward that arming or lowering goes through as well: nothing can be shown then.
ARMED_TOO = {
    Step(tape.TensorRecord, "__init__"),
    Step(OriginFinder, "state_record"),
    Step(OriginFinder, "remember"),
}

# Steps after the recording, what the report says is missing, and the options that lead there.
WRITING: list[tuple[Step, str, dict[str, Any]]] = [
    (Step(products, "to_graph"), "the graph", {}),
    (Step(table, "dumps"), "graph.json", {}),
    (Step(table, "render"), "graph.txt", {}),
    (Step(products, "with_flops"), "the FLOPs", {}),
    (Step(Directory, "write"), "graph.json", {}),
    (Step(TensorBoardTracker, "__init__"), "the TensorBoard graph", {"tensorboard": True}),
    (Step(graphdef, "graph_def"), "the TensorBoard graph", {"tensorboard": True}),
    (Step(TensorBoardTracker, "add_graph"), "the TensorBoard graph", {"tensorboard": True}),
    (Step(events, "_add_named_graphs"), "the TensorBoard extras", {"tensorboard": True}),
    (Step(products, "units"), "the ONNX files", {"onnx": True}),
    (Step(onnx_files, "view_of"), "graph.onnx", {"onnx": True}),
    (Step(onnx_files, "onnx_source"), "model.onnx", {"trained_onnx": True}),
    (Step(Report, "to_json"), "report.json", {}),
]


class _Squared(torch.autograd.Function):
    """An op whose inside a mode does not see."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grads[0]


class Everything(nn.Module):
    """Passes through every path of the recorder: writes, reads, numpy, what is out of sight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.gate = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.last = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(4))
        self.table = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.count += 1
        hidden = self.drop(self.norm(self.first(x)))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.gate(hidden).float()
        hidden = _Squared.apply(hidden) + self.table  # type: ignore[no-untyped-call]
        hidden = hidden + torch.from_numpy(x.detach().numpy() * 2)
        shared = hidden.new_zeros(4)
        array = shared.numpy()
        array[1] = 0.5
        shared += 1
        hidden = hidden * shared
        hidden[0] = 1.0
        biggest, _ = torch.max(hidden, dim=1)
        halves = torch.stack(torch.split(hidden, 2, dim=1))
        torch.add(self.count, 1, out=self.count)
        loose = nn.Parameter(torch.ones(4))
        (loose.sum() * 2).backward()
        if hidden.sum().item() > 0:
            hidden = hidden * loose.detach()
        with torch._C.DisableTorchFunction():
            hidden = hidden * 2  # out of sight
        rows = hidden.to_sparse().to_dense()
        return {"rows": self.last(rows), "biggest": biggest, "halves": halves + torch.rand(())}


class Learner(pl.LightningModule):
    """The same model in a training step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = loss_of(self.model(batch))
        self.losses.append(loss.detach().clone())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def loss_of(result: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum((value.square().mean() for value in result.values()), torch.zeros(()))


def batches() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def seed_everything() -> None:
    torch.manual_seed(0)
    numpy.random.seed(0)
    random.seed(0)


def trained(watch: Callable[[nn.Module], GraphHook] | None) -> Any:
    """Everything that can be seen after two steps in a plain loop, frozen."""
    seed_everything()
    model = Everything()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    hook = watch(model) if watch else None
    seen = []
    for batch in batches().split(3):
        optimizer.zero_grad()
        result = model(batch)
        loss = loss_of(result)
        loss.backward()
        grads = [p.grad for p in model.parameters()]
        seen.append(frozen((result, loss, grads, model.state_dict(), _left(model))))
        optimizer.step()
    if hook is not None:
        hook.close()
    return frozen((seen, _after(model, optimizer)))


def fitted(folder: Path, *callbacks: pl.Callback) -> Any:
    """The same after two steps of a trainer."""
    seed_everything()
    module = Learner(Everything())
    module.train()
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, Watcher()],
    )
    trainer.fit(module, DataLoader(batches(), 3))  # type: ignore[arg-type]
    watcher = trainer.callbacks[-1]  # type: ignore[attr-defined]
    if not isinstance(watcher, Watcher):
        watcher = next(c for c in trainer.callbacks if isinstance(c, Watcher))  # type: ignore[attr-defined]
    return frozen((watcher.seen, module.losses, _after(module, trainer.optimizers[0])))


class Watcher(pl.Callback):
    """Notes the gradients and what is switched on after every backward."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        grads = [p.grad for p in pl_module.parameters()]
        self.seen.append(frozen((grads, _left(pl_module))))


def _left(model: nn.Module) -> Any:
    """What a recording might have left in the process and on the modules."""
    return {
        "switches": switches(),
        "stance": _stance(),
        "compilation": _compilation(),
        "hooks": [hooks(vars(module)) for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "flags": [module.training for module in model.modules()],
    }


def _after(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    left = _left(model)
    # The exporter's progress bar and a writer of events have threads of their own.
    left["switches"] = [
        item for item in left["switches"].inside.items() if "threads" not in item[0]
    ]
    return {
        "left": left,
        "state": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "optimizer hooks": hooks(vars(optimizer)),
        "torch": torch.get_rng_state(),
        "numpy": numpy.random.get_state()[1],
        "python": list(random.getstate()[1]),
    }


def _stance() -> str:
    from torch._dynamo import eval_frame

    return str(eval_frame._stance)


def _compilation() -> str:
    from torch._higher_order_ops import utils

    function = utils._set_compilation_env
    return f"{function.__module__}.{function.__qualname__}"


@pytest.fixture(autouse=True)
def _lightning_is_quiet() -> Iterator[None]:
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Fault:
    """Stands in for a step; raises at one of its calls and from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: Step, at: int) -> None:
        self.calls = 0
        self.fired = False
        original = getattr(step.home, step.name)

        def faulty(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls > at:
                self.fired = True
                raise Injected(MESSAGE)
            return original(*args, **kwargs)

        monkeypatch.setattr(step.home, step.name, faulty)


class Way(NamedTuple):
    """A way to watch a training: its plain state, and how to run it watched."""

    plain: Callable[[], Any]
    watched: Callable[[Path, dict[str, Any]], tuple[Any, Report]]


def _through_hook(folder: Path, options: dict[str, Any]) -> tuple[Any, Report]:
    made: list[GraphHook] = []

    def watch(model: nn.Module) -> GraphHook:
        made.append(GraphHook(model, dirpath=folder, **IN_PLACE | options))
        return made[0]

    return trained(watch), made[0].report


def _through_logger(folder: Path, options: dict[str, Any]) -> tuple[Any, Report]:
    callback = GraphLogger(dirpath=folder, **IN_PLACE | options)
    state = fitted(folder, callback)
    assert callback.report is not None
    return state, callback.report


@functools.cache
def _plain(fit: bool) -> Any:
    """A training nobody watches."""
    with tempfile.TemporaryDirectory() as folder:
        return fitted(Path(folder)) if fit else trained(None)


WAYS = {
    "hook": Way(lambda: _plain(False), _through_hook),
    "logger": Way(lambda: _plain(True), _through_logger),
}


@functools.cache
def _calls_of_steps() -> dict[Step, int]:
    """How often the first forward passes through each step of the recording."""
    counts = dict.fromkeys(RECORDING, 0)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        faults = {step: Fault(patch, step, sys.maxsize) for step in RECORDING}
        finish = Capture.finish

        def counted(self: Capture, result: Any) -> Any:
            counts.update({step: fault.calls for step, fault in faults.items()})
            return finish(self, result)

        patch.setattr(Capture, "finish", counted)
        _through_hook(Path(folder), {})
    return counts


def _check(way: Way, folder: Path, fault: Fault, options: dict[str, Any]) -> Report:
    """Trains with the fault and compares with a plain training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", module="lightning")
        watched, report = way.watched(folder, options)
    assert fault.fired, "the training never came to this step"
    assert difference(way.plain(), watched) == ""
    ours = [str(item.message) for item in caught if issubclass(item.category, ModelvizWarning)]
    assert len(ours) == 1
    assert MESSAGE in ours[0]
    return report


@pytest.mark.alike
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ARMING + ENDING, ids=str)
def test_a_fault_before_or_after_the_forward_costs_the_recording_only(
    way: str, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _check(WAYS[way], tmp_path, Fault(monkeypatch, step, 0), {})
    assert [refusal.what for refusal in report.refused] == ["the recording"]
    assert MESSAGE in report.refused[0].why
    assert not (tmp_path / "graph.json").exists()


def _check_partial(report: Report, folder: Path) -> None:
    assert [refusal.what for refusal in report.refused] == ["a part of the graph"]
    assert MESSAGE in report.refused[0].why
    graph = ModelGraph.load(folder / "graph.json")
    assert graph.partial
    assert any(MESSAGE in note.message for note in graph.notes)


@pytest.mark.alike
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", DISPENSABLE, ids=str)
def test_a_fault_before_or_after_the_forward_leaves_a_graph_of_what_was_seen(
    way: str, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"update": 1}.get(step.name, 0)
    report = _check(WAYS[way], tmp_path, Fault(monkeypatch, step, at), {})
    _check_partial(report, tmp_path)
    assert len(ModelGraph.load(tmp_path / "graph.json").ops) > 20


@pytest.mark.alike
@pytest.mark.parametrize(
    ("way", "when", "step"),
    [("hook", when, step) for when in ("first", "last") for step in RECORDING]
    # From here on callback and hook share all of the way.
    + [("logger", "middle", Step(Recorder, name)) for name in ("encode", "_append")],
    ids=str,
)
def test_a_fault_in_the_forward_ends_the_recording_there_and_not_the_forward(
    way: str, when: str, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _calls_of_steps()[step]
    at = {"first": 0, "middle": calls // 2, "last": calls - 1}[when]
    report = _check(WAYS[way], tmp_path, Fault(monkeypatch, step, at), {})
    if not (tmp_path / "graph.json").exists():  # it stands between the user and the recorder, too
        assert step in ARMED_TOO
        assert all(MESSAGE in refusal.why for refusal in report.refused)
        return
    _check_partial(report, tmp_path)


@pytest.mark.parametrize(
    ("way", "step", "what", "options"),
    [("hook", *case) for case in WRITING] + [("logger", *WRITING[0]), ("logger", *WRITING[1])],
    ids=str,
)
def test_a_fault_in_writing_costs_that_file_only(
    way: str,
    step: Step,
    what: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = _check(WAYS[way], tmp_path, Fault(monkeypatch, step, 0), options)
    assert what in [refusal.what for refusal in report.refused]
    assert what not in report.files
    assert all(MESSAGE in refusal.why for refusal in report.refused)


@pytest.mark.alike
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("step", "error"),
    [
        (ARMING[0], Injected),
        (Step(session, "push_mode"), Injected),
        (Step(Recorder, "_append"), CaptureError),
        (Step(session, "walk"), CaptureError),
        (Step(products, "to_graph"), Injected),
        (Step(table, "dumps"), Injected),
        (Step(products, "with_flops"), Injected),
    ],
    ids=str,
)
def test_with_errors_raised_the_fault_comes_up_at_the_end_and_no_sooner(
    way: str,
    step: Step,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = Fault(monkeypatch, step, 0)
    steps: list[None] = []
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        _counted(torch.optim.Adam.step, steps),
    )
    with pytest.warns(ModelvizWarning), pytest.raises(error, match=MESSAGE):
        WAYS[way].watched(tmp_path, {"on_error": "raise"})
    assert fault.fired
    assert len(steps) == 2


def _counted(original: Any, calls: list[None]) -> Any:
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        calls.append(None)
        return result

    return step


def test_without_a_fault_everything_is_made(tmp_path: Path) -> None:
    for name, way in WAYS.items():
        folder = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("error", ModelvizWarning)
            watched, report = way.watched(folder, {})
        assert report.refused == []
        assert (folder / "graph.json").exists()
        assert difference(way.plain(), watched) == ""


def test_a_walk_over_the_arguments_that_fails_is_a_fault_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(monkeypatch, Step(recording, "walk"), 0)
    _check_partial(_check(WAYS["hook"], tmp_path, fault, {}), tmp_path)
