"""``trace()``: one forward recorded now; what it records can be run again, to the bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from modelviz_callbacks import GraphHook, GraphLogger, ModelGraph, Trace, trace
from modelviz_callbacks.errors import CaptureError, GraphFormatError, ReplayError
from modelviz_callbacks.tracing import Capture, to_graph
from tests.models import BUILDERS, build
from tests.zoo.leaves import difference, frozen
from tests.zoo.untouched import switches


def plain_result(name: str) -> Any:
    """What the model gives without anybody looking."""
    model, args, kwargs = build(name)
    torch.manual_seed(1)
    return frozen(model(*args, **kwargs))


def traced(name: str) -> Trace:
    model, args, kwargs = build(name)
    torch.manual_seed(1)
    return trace(model, *args, **kwargs)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_replay_gives_the_models_own_result_to_the_bit(name: str) -> None:
    recorded = traced(name)
    given = frozen(recorded.outputs)
    assert difference(plain_result(name), given) == ""
    _, args, kwargs = build(name)
    torch.manual_seed(1)
    assert difference(given, frozen(recorded.replay(*args, **kwargs))) == ""


def test_there_are_enough_models_to_replay() -> None:
    assert len(BUILDERS) >= 25


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_tracing_leaves_the_model_its_state_and_the_process_as_a_plain_call_does(name: str) -> None:
    plain, args, kwargs = build(name)
    torch.manual_seed(1)
    plain(*args, **kwargs)
    after_plain = frozen((args, kwargs, torch.get_rng_state()))
    before = switches()

    model, args, kwargs = build(name)
    torch.manual_seed(1)
    trace(model, *args, **kwargs)

    assert difference(after_plain, frozen((args, kwargs, torch.get_rng_state()))) == ""
    assert difference(frozen(dict(plain.state_dict())), frozen(dict(model.state_dict()))) == ""
    assert [m.training for m in plain.modules()] == [m.training for m in model.modules()]
    assert difference(before, switches()) == ""
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()) or (
        name == "Parametrized"
    )


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_recorded_graph_comes_back_from_its_file_as_it_was(name: str, tmp_path: Path) -> None:
    graph = traced(name).graph
    graph.save(tmp_path / "graph.json")
    assert ModelGraph.load(tmp_path / "graph.json") == graph
    assert not graph.partial


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "nodes": [3]}']
)
def test_a_file_that_is_no_graph_is_named_in_the_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(GraphFormatError, match=r"other\.json"):
        ModelGraph.load(tmp_path / "other.json")


def test_replay_reads_the_weights_as_they_are_when_it_runs() -> None:
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    recorded = trace(model, x)
    with torch.no_grad():
        model.weight.mul_(2)
    assert torch.equal(recorded.replay(x), model(x))


def test_replay_with_other_values_follows_the_recorded_path() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(3, 4)
    assert torch.equal(trace(model, x).replay(-x), model(-x))


def test_replay_can_be_trained_through() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(3, 4)
    recorded = trace(model, x)
    model(x).sum().backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    recorded.replay(x).sum().backward()
    found = [parameter.grad for parameter in model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


def test_replay_leaves_running_statistics_alone() -> None:
    model, x = nn.BatchNorm1d(4), torch.randn(3, 4)
    recorded = trace(model, x)
    after = copy.deepcopy(model.state_dict())
    assert torch.equal(recorded.replay(x), recorded.outputs)
    assert difference(frozen(dict(after)), frozen(dict(model.state_dict()))) == ""


def test_replay_refuses_another_number_of_tensors_and_names_those_it_takes() -> None:
    recorded = trace(nn.Bilinear(4, 4, 2), torch.randn(3, 4), torch.randn(3, 4))
    with pytest.raises(ReplayError, match=r"takes 2 tensor\(s\) \(input1, input2\), 1 were given"):
        recorded.replay(torch.randn(3, 4))


class ThroughNumpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 2) + x


def test_a_part_out_of_sight_is_one_opaque_op_and_the_graph_says_so() -> None:
    graph = trace(ThroughNumpy(), torch.ones(2)).graph
    (opaque,) = graph.of_kind("opaque")
    assert [ref.node for ref in opaque.inputs] == ["x"]
    assert opaque.name in {ref.node for ref in graph.by_name["add"].inputs}
    assert [note.subject for note in graph.notes if note.kind == "opaque"] == [opaque.name]


def test_a_scripted_module_is_in_the_graph_and_joins_its_input_to_its_output() -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 4))
    graph = trace(model, torch.randn(3, 4)).graph
    reached, waiting = set(), [graph.of_kind("output")[0].name]
    while waiting:
        node = graph.by_name[waiting.pop()]
        reached.add(node.name)
        waiting += [ref.node for ref in node.inputs]
    assert {"input", "0_Linear/weight", "2_Linear/weight"} <= reached


@pytest.mark.parametrize("thing", [None, "model", lambda x: x, nn.Linear])
def test_only_a_module_can_be_traced(thing: Any) -> None:
    with pytest.raises(CaptureError, match=r"trace\(\) records a torch.nn.Module"):
        trace(thing, torch.ones(1))


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("of the user")


def test_an_exception_of_the_model_goes_on_and_leaves_nothing_behind() -> None:
    before = switches()
    with pytest.raises(KeyError, match="of the user"):
        trace(Failing(), torch.ones(1))
    assert difference(before, switches()) == ""


def test_recording_keeps_the_flags_the_model_has() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).eval()
    x = torch.randn(3, 4)
    recorded = trace(model, x)
    assert not model.training
    assert torch.equal(recorded.outputs, model(x))
    assert [call.training for call in recorded.graph.modules] == [False, False]


def test_a_gradient_goes_through_the_recorded_outputs() -> None:
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    trace(model, x).outputs.sum().backward()
    assert model.weight.grad is not None


class Whole(pl.LightningModule):
    """Its training step is its forward, so that all three ways see the same ops."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.net(x)) + 1).square().mean()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_callback_hook_and_trace_give_the_same_graph_byte_for_byte(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    quick: dict[str, Any] = {"onnx": False, "formats": ["text"], "tensorboard": False, **way}
    x = torch.randn(3, 4)
    trainer = pl.Trainer(
        callbacks=[GraphLogger(dirpath=tmp_path / "callback", **quick)],
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Whole(), DataLoader(x, batch_size=3))

    with GraphHook(Whole(), dirpath=tmp_path / "hook", **quick) as hook:
        hook._model(x)

    recorded = trace(Whole(), x)
    recorded.graph.save(tmp_path / "trace.json")
    recorded.save_text(tmp_path / "trace.txt")

    texts = {
        (tmp_path / name).read_bytes()
        for name in ("callback/graph.json", "hook/graph.json", "trace.json")
    }
    assert len(texts) == 1
    assert len(json.loads(texts.pop())["nodes"]) > 15
    tables = {
        (tmp_path / name).read_bytes()
        for name in ("callback/graph.txt", "hook/graph.txt", "trace.txt")
    }
    assert len(tables) == 1


def test_every_way_to_save_writes_its_file(tmp_path: Path) -> None:
    recorded = traced("TwoBranches")
    starts = {
        "svg": b"<svg",
        "png": b"\x89PNG",
        "html": b"<!doctype html",
        "text": b"TwoBranches",
        "mermaid": b"flowchart",
        "onnx": b"",
    }
    for kind, start in starts.items():
        path = tmp_path / "new folder" / f"graph.{kind}"
        assert getattr(recorded, f"save_{kind}")(path) == path
        assert path.read_bytes().lower().startswith(start.lower())
        assert path.stat().st_size > 100
    recorded.write_tensorboard(tmp_path / "board")
    assert len(list((tmp_path / "board").glob("events.out.*"))) == 1


def test_a_prompt_shows_one_line_however_large_the_graph_is() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(50)])
    recorded = trace(model, torch.zeros(2, 4))
    assert repr(recorded.graph) == "<ModelGraph Sequential: 50 ops, 1,000 parameters>"
    assert repr(recorded) == f"<Trace {recorded.graph!r}>"


def test_the_nodes_of_a_program_have_the_graphs_names_whether_or_not_it_was_asked_for() -> None:
    model, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.ones(1, 2)
    first, second = trace(model, x), trace(model, x)
    names = {node.name for node in first.graph.ops}

    for made in (first, second):
        facts = [node.meta["custom"]["modelviz"] for node in made.program.graph.nodes if node.meta]
        assert {fact["name"] for fact in facts} == names


def test_lowering_leaves_its_recording_as_it_was() -> None:
    model = nn.Linear(2, 2)
    capture = Capture(model)
    capture.start((torch.ones(1, 2),), {})
    recording = capture.finish(model(torch.ones(1, 2)))
    assert recording.tape
    before = {key: repr(value) for key, value in vars(recording).items()}

    to_graph(recording)

    assert {key: repr(value) for key, value in vars(recording).items()} == before
