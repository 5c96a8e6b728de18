"""``GraphHook``: one recording in a plain training loop, and nothing else changed by it."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks import GraphHook, ModelGraph
from modelviz_callbacks.errors import CaptureError, OptionError
from modelviz_callbacks.report import ModelvizWarning
from tests.models import build
from tests.zoo.leaves import difference, frozen
from tests.zoo.untouched import switches

QUICK: dict[str, Any] = {"onnx": False, "formats": ["text"], "tensorboard": False}
# For what is in a graph, and for faults that are put into this process.
IN_PLACE: dict[str, Any] = QUICK | {"background": False}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def graph_in(folder: Path) -> ModelGraph:
    return ModelGraph.load(folder / "graph.json")


def hooks_of(model: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


# --- when it records


def test_the_first_forward_in_training_mode_is_recorded_and_no_other(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    model = small().eval()
    with GraphHook(model, dirpath=tmp_path, **QUICK, **way):
        model(torch.randn(2, 4))
        assert not (tmp_path / "graph.json").exists()
        model.train()
        model(torch.randn(5, 4))
        model(torch.randn(7, 4))
    assert graph_in(tmp_path).of_kind("input")[0].outputs[0].shape == (5, 4)
    assert len(graph_in(tmp_path).ops) == 5


def test_in_place_the_graph_is_written_right_after_the_forward(tmp_path: Path) -> None:
    with GraphHook(small(), dirpath=tmp_path, **IN_PLACE) as hook:
        hook._model(torch.randn(5, 4))
        assert len(graph_in(tmp_path).ops) == 5


def test_nothing_is_left_after_the_first_forward(tmp_path: Path, way: dict[str, Any]) -> None:
    model, before = small(), switches()
    hook = GraphHook(model, dirpath=tmp_path, **QUICK, **way)
    model(torch.randn(5, 4))
    assert difference(before, switches()) == ""
    assert hooks_of(model) == [0] * 5
    hook.close()


def test_nothing_is_left_when_no_forward_ever_came(tmp_path: Path, way: dict[str, Any]) -> None:
    model, before = small(), switches()
    with pytest.warns(ModelvizWarning), GraphHook(model, dirpath=tmp_path, **QUICK, **way):
        pass
    assert difference(before, switches()) == ""
    assert hooks_of(model) == [0] * 5


def test_a_forward_after_close_is_not_recorded(tmp_path: Path, way: dict[str, Any]) -> None:
    model = small()
    hook = GraphHook(model, dirpath=tmp_path, **QUICK, **way)
    with pytest.warns(ModelvizWarning, match="Nothing was recorded"):
        hook.close()
    model(torch.randn(5, 4))
    hook.close()
    assert not (tmp_path / "graph.json").exists()


def test_closing_twice_writes_and_says_everything_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: dict[str, Any]
) -> None:
    model = small()
    hook = GraphHook(model, dirpath=tmp_path, **QUICK, **way)
    model(torch.randn(5, 4))
    hook.close()
    report = (tmp_path / "report.json").read_bytes()
    hook.close()
    assert (tmp_path / "report.json").read_bytes() == report
    assert capsys.readouterr().out.count(f"is in {tmp_path}") == 1


def test_a_model_that_is_never_called_gives_one_warning_that_says_what_to_do_and_no_folder(
    tmp_path: Path, way: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = tmp_path / "graph"
        with GraphHook(small().eval(), dirpath=folder, **QUICK, **way) as hook, torch.no_grad():
            hook._model(torch.randn(5, 4))
    ours = [str(item.message) for item in caught if issubclass(item.category, ModelvizWarning)]
    assert len(ours) == 1
    assert "training mode" in ours[0]
    assert "model.train()" in ours[0]
    assert "trace(" in ours[0]
    assert "method=" in ours[0]
    assert hook.report.refused
    assert not folder.exists()
    assert capsys.readouterr().out == ""


# --- what it leaves alone


def test_training_goes_the_same_to_the_bit_with_and_without_it(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    def train(watch: Callable[[nn.Module], Any]) -> Any:
        model = small()
        frozen_part = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
        frozen_part.requires_grad_(False)
        whole = nn.Sequential(frozen_part, model)
        optimizer = torch.optim.Adam(model.parameters())
        torch.manual_seed(1)
        numpy.random.seed(1)
        hook = watch(whole)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = whole(torch.randn(6, 4)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if hook is not None:
            hook.close()
        return frozen(
            {
                "losses": losses,
                "state": dict(whole.state_dict()),
                "gradients": [p.grad for p in whole.parameters()],
                "optimizer": optimizer.state_dict(),
                "flags": [(m.training, list(vars(m))) for m in whole.modules()],
                "torch": torch.get_rng_state(),
                "numpy": numpy.random.get_state()[1],
                # The exporter's progress bar has a thread of its own.
                "switches": [
                    item for item in switches().inside.items() if "threads" not in item[0]
                ],
            }
        )

    plain = train(lambda model: None)
    watched = train(lambda model: GraphHook(model, dirpath=tmp_path, trained_onnx=True, **way))
    assert (tmp_path / "model.onnx").exists()
    assert difference(plain, watched) == ""


def test_no_activation_is_held_after_the_forward(tmp_path: Path, way: dict[str, Any]) -> None:
    import gc
    import weakref

    seen: list[weakref.ref[torch.Tensor]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.layer(x)
            seen.append(weakref.ref(hidden))
            return hidden * 2

    model = Watched()
    hook = GraphHook(model, dirpath=tmp_path, **QUICK, **way)
    with torch.no_grad():
        model(torch.randn(5, 4))
    gc.collect()
    assert seen[0]() is None
    hook.close()


def test_the_result_of_the_watched_forward_is_the_models_own(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    model, args, kwargs = build("NestedOutputs")
    plain = model(*args, **kwargs)
    with GraphHook(model, dirpath=tmp_path, **QUICK, **way):
        watched = model(*args, **kwargs)
    assert difference(frozen(plain), frozen(watched)) == ""


# --- odd loops


def test_a_model_that_calls_itself_is_recorded_to_its_outermost_end(tmp_path: Path) -> None:
    model, args, kwargs = build("CallsItself")
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        model(*args, **kwargs)
    graph = graph_in(tmp_path)
    assert sum(node.op == "tanh" for node in graph.nodes) == 3
    assert len(graph.of_kind("output")) == 1


def test_two_hooks_on_two_models_record_each_its_own(tmp_path: Path, way: dict[str, Any]) -> None:
    first, second = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    with (
        GraphHook(first, dirpath=tmp_path / "first", **QUICK, **way),
        GraphHook(second, dirpath=tmp_path / "second", **QUICK, **way),
    ):
        second(first(torch.randn(3, 4)))
    assert [node.op for node in graph_in(tmp_path / "first").ops] == ["linear"]
    assert [node.op for node in graph_in(tmp_path / "second").ops] == ["linear", "relu"]


def test_hooks_on_a_model_and_on_its_part_do_not_see_each_other(tmp_path: Path) -> None:
    x, before = torch.randn(3, 4), switches()

    def call(model: nn.Module) -> None:
        model(x)  # ops of torch's own modules count as coming from this line

    for name, watch_parts in (("alone", False), ("together", True)):
        model = nn.Sequential(small(), nn.ReLU())
        hooks = [GraphHook(model, dirpath=tmp_path / name, **IN_PLACE)]
        if watch_parts:
            hooks += [
                GraphHook(model[0], dirpath=tmp_path / "part", **IN_PLACE),
                GraphHook(model[0][1], dirpath=tmp_path / "norm", **IN_PLACE),
            ]
        call(model)
        for hook in hooks:
            hook.close()
    alone = tmp_path / "alone" / "graph.json"
    assert alone.read_bytes() == (tmp_path / "together" / "graph.json").read_bytes()
    with GraphHook(small(), dirpath=tmp_path / "part alone", **IN_PLACE) as hook:
        call(hook._model)
    part_alone = (tmp_path / "part alone" / "graph.json").read_bytes()
    assert part_alone == (tmp_path / "part" / "graph.json").read_bytes()
    assert [node.op for node in graph_in(tmp_path / "norm").ops] == ["add_", "batch_norm"]
    assert difference(before, switches()) == ""


def test_two_hooks_on_one_model_both_record(tmp_path: Path, way: dict[str, Any]) -> None:
    model = small()
    with (
        GraphHook(model, dirpath=tmp_path / "a", **QUICK, **way),
        GraphHook(model, dirpath=tmp_path / "b", **QUICK, **way),
    ):
        model(torch.randn(3, 4))
    first, second = ((tmp_path / name / "graph.json").read_bytes() for name in "ab")
    assert first == second


def test_a_model_called_in_another_thread_is_recorded_there(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    model, before = small(), switches()
    with GraphHook(model, dirpath=tmp_path, **QUICK, **way):
        thread = threading.Thread(target=model, args=(torch.randn(5, 4),))
        thread.start()
        thread.join()
    assert len(graph_in(tmp_path).ops) == 5
    assert difference(before, switches()) == ""


def test_what_another_thread_runs_meanwhile_is_not_in_the_graph(tmp_path: Path) -> None:
    started, may_end = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1
            started.set()
            assert may_end.wait(30)
            return y * 2

    def noise() -> None:
        started.wait(30)
        nn.Sequential(nn.Linear(4, 4), nn.Tanh())(torch.randn(2, 4))
        may_end.set()

    thread = threading.Thread(target=noise)
    thread.start()
    with GraphHook(Waits(), dirpath=tmp_path, **IN_PLACE) as hook:
        hook._model(torch.ones(2))
    thread.join()
    assert [node.op for node in graph_in(tmp_path).ops] == ["add", "mul"]


def test_the_files_stay_together_when_the_loop_changes_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    model = nn.Linear(4, 2)
    hook = GraphHook(model, onnx=False, formats=["text", "svg"], tensorboard=False, **way)
    model(torch.randn(3, 4))
    monkeypatch.chdir(tmp_path / "elsewhere")
    hook.close()
    found = {path.name for path in (tmp_path / "model_graph" / "Linear").iterdir()}
    expected = {"backward.svg", "graph.json", "graph.svg", "graph.txt", "report.json"}
    assert found - {"worker.log"} == expected
    assert not list((tmp_path / "elsewhere").iterdir())


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["svgg"]}, r"unknown format 'svgg'.*did you mean 'svg'"),
        ({"formats": "svg"}, r"formats='svg' \(str\).*a list"),
        ({"formats": 5}, r"formats=5 \(int\)"),
        ({"formats": [["svg"]]}, r"unknown format \['svg'\]"),
        ({"fromats": ["svg"]}, r"no option 'fromats'. Did you mean 'formats'"),
        ({"dirpath": 5}, r"dirpath=5 \(int\).*a folder's path"),
        ({"name": " "}, r"name=' '.*not empty"),
        ({"name": 3}, r"name=3 \(int\)"),
        ({"onnx": "yes"}, r"onnx='yes' \(str\).*True or False"),
        ({"onnx_weights": 1}, r"onnx_weights=1 \(int\)"),
        ({"depth": 0}, r"depth=0.*from 1 on"),
        ({"depth": True}, r"depth=True"),
        ({"profile_step": -1}, r"profile_step=-1.*from 1 on"),
        ({"tensorboard": 3}, r"tensorboard=3 \(int\).*a SummaryWriter or a directory"),
        ({"mlflow": 3}, r"mlflow=3 \(int\).*a run id or a tracking URI"),
        ({"on_error": "ignore"}, r"on_error='ignore'.*'warn' or 'raise'"),
        ({"input_names": "x"}, r"input_names='x' \(str\).*a list"),
        ({"input_names": 5}, r"input_names=5 \(int\)"),
        ({"input_names": ["x", ""]}, r"input_names=.*not empty"),
        ({"output_names": ["y", "y"]}, r"output_names=.*differ"),
    ],
)
def test_a_wrong_option_is_named_with_what_was_expected(
    options: dict[str, Any], message: str
) -> None:
    model = small()
    with pytest.raises(OptionError, match=message):
        GraphHook(model, **options)
    assert hooks_of(model) == [0] * 5


def test_formats_may_be_anything_that_can_be_walked_through_once(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    kinds: Any = (kind for kind in ["text", "csv"])
    options = QUICK | {"formats": kinds}
    with GraphHook(small(), dirpath=tmp_path, **options, **way) as hook:
        hook._model(torch.randn(3, 4))
    assert {"graph.txt", "graph.csv"} <= set(hook.report.files)


@pytest.mark.parametrize("thing", [None, "model", nn.Linear])
def test_only_a_module_can_be_watched(thing: Any) -> None:
    with pytest.raises(CaptureError, match=r"GraphHook watches a torch\.nn\.Module"):
        GraphHook(thing)


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", ".", "../../up", ".hidden", "größe ✓", "con\ncat\t", "<script>&\"'", "x" * 300],
)
def test_any_name_stays_inside_the_working_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    with GraphHook(small(), name=name, onnx=False, formats=["text", "svg"], **way) as hook:
        hook._model(torch.randn(3, 4))
    assert hook.report.refused == []
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in inside.iterdir()] == ["model_graph"]
    (folder,) = (inside / "model_graph").iterdir()
    assert graph_in(folder).name == name


def test_a_name_leads_through_to_the_report_and_the_text(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    with GraphHook(small(), name="my net", dirpath=tmp_path, **QUICK, **way) as hook:
        hook._model(torch.randn(3, 4))
    assert hook.report.name == "my net"
    assert (tmp_path / "graph.txt").read_text().startswith("my net: ")


def test_the_users_own_writer_gets_the_graph_and_stays_open(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, writer = small(), SummaryWriter(tmp_path / "run")
    options = QUICK | {"tensorboard": writer}
    with GraphHook(model, dirpath=tmp_path / "graphs", **options, **way):
        model(torch.randn(3, 4))
    writer.add_scalar("loss", 1.0, 0)
    writer.close()
    (events,) = (tmp_path / "run").iterdir()
    found = EventAccumulator(str(events)).Reload()
    assert "0_Linear/linear" in {node.name for node in _graph_of(found)}
    assert [scalar.value for scalar in found.Scalars("loss")] == [1.0]


def test_without_a_writer_a_new_event_file_lies_beside_the_files(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = QUICK | {"tensorboard": True}
    with GraphHook(small(), dirpath=tmp_path, **options, **way) as hook:
        hook._model(torch.randn(3, 4))
    (events,) = tmp_path.glob("events.out.*")
    assert "3_Linear/linear" in {node.name for node in _graph_of(EventAccumulator(str(events)))}


def _graph_of(accumulator: Any) -> Any:
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    accumulator.Reload()
    serialized = accumulator.Graph()
    return (serialized if isinstance(serialized, GraphDef) else GraphDef(serialized)).node


def test_a_copy_of_a_watched_model_is_not_watched(tmp_path: Path, way: dict[str, Any]) -> None:
    model = small()
    hook = GraphHook(model, dirpath=tmp_path, **QUICK, **way)
    copied = copy.deepcopy(model)
    copy.deepcopy(hook).close()  # nor is a copy of the hook anybody's
    model(torch.randn(3, 4))
    hook.close()
    before = (tmp_path / "graph.json").read_bytes()
    copied(torch.randn(7, 4))
    assert (tmp_path / "graph.json").read_bytes() == before
    assert difference(frozen(dict(copied.state_dict())), frozen(dict(model.state_dict()))) != ""
