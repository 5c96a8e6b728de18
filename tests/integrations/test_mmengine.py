"""The hook of MMEngine's runner: the first iteration, its places, its bad days."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.integrations.mmengine import ModelGraphHook
from tests.integrations.seen import IN_PLACE, NET_OPS, events_in, graph_of, net, same

pytestmark = [
    pytest.mark.filterwarnings("ignore:::(torch|mmengine|yapf)"),
    pytest.mark.filterwarnings("ignore:Failed to search registry"),
]


class Rows(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {"inputs": torch.randn(4, generator=generator), "kinds": index % 3}


class Classifier(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, inputs: torch.Tensor, kinds: torch.Tensor, mode: str) -> Any:
        logits = self.net(inputs)
        if mode != "loss":
            return logits
        return {
            "loss_kind": nn.functional.cross_entropy(logits, kinds),
            "loss_size": logits.pow(2).mean(),
        }


# MMEngine keeps everything of a name for the life of the process: each runner has its own.
_NAMES = (f"run {number}" for number in itertools.count())


def runner_of(folder: Path, *hooks: Any, backends: tuple[str, ...] = (), **more: Any) -> Runner:
    name = next(_NAMES)
    arguments = {
        "model": Classifier(),
        "work_dir": str(folder),
        "train_dataloader": DataLoader(Rows(), 5),
        "train_cfg": {"by_epoch": True, "max_epochs": 2},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 1}},
        "randomness": {"seed": 0},
        "experiment_name": name,
        "log_level": "ERROR",
        "custom_hooks": list(hooks),
    }
    if backends:
        kinds = [{"type": f"{backend}VisBackend"} for backend in backends]
        arguments["visualizer"] = {"type": "Visualizer", "vis_backends": kinds, "name": name}
    return Runner(**arguments | more)


def test_the_first_iteration_is_recorded_with_its_losses_into_the_visualizers_run(
    tmp_path: Path,
) -> None:
    hook = ModelGraphHook(**IN_PLACE)
    runner = runner_of(tmp_path, hook, backends=("Tensorboard", "Local"))
    runner.train()

    graph = graph_of(hook.report)
    ops = [node.op for node in graph.ops]
    assert ops[:4] == NET_OPS
    assert {"cross_entropy", "pow", "mean"} <= {*ops}
    assert [node.path for node in graph.of_kind("input")] == ["inputs", "kinds"]
    outputs = {node.path for node in graph.of_kind("output")}
    assert outputs == {"loss", "out['loss_kind']", "out['loss_size']"}
    assert "data_preprocessor" in {call.path for call in graph.modules}
    assert hook.report is not None
    assert not [remark for remark in hook.report.remarks if "Nobody uses" in remark]
    assert Path(hook.report.folder) == Path(runner.log_dir) / "model_graph"
    found = events_in(Path(runner.log_dir) / "vis_data")
    assert found.Tags()["graph"]
    assert len(found.Scalars("loss")) == 8
    other = runner_of(tmp_path)
    other.train()
    assert same(runner.model.parameters(), other.model.parameters())
    assert "train_step" not in vars(runner.model)


def test_a_configuration_names_the_hook_and_its_options(tmp_path: Path) -> None:
    MODELS.register_module(module=Classifier, force=True)
    DATASETS.register_module(module=Rows, force=True)
    config = Config(
        {
            "custom_imports": {"imports": ["modelviz_callbacks.integrations.mmengine"]},
            "custom_hooks": [{"type": "ModelGraphHook", **IN_PLACE}],
            "model": {"type": "Classifier"},
            "work_dir": str(tmp_path),
            "train_dataloader": {
                "dataset": {"type": "Rows"},
                "batch_size": 5,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "collate_fn": {"type": "default_collate"},
            },
            "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 3},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 2},
            "log_level": "ERROR",
        }
    )
    runner = Runner.from_cfg(config)
    runner.train()
    graph = ModelGraph.load(Path(runner.log_dir) / "model_graph" / "graph.json")
    assert {"cross_entropy", "div"} <= {node.op for node in graph.ops}


def test_of_an_error_the_graph_up_to_there_is_kept_and_the_next_training_has_its_own(
    tmp_path: Path,
) -> None:
    class Fails(Classifier):
        def forward(self, inputs: torch.Tensor, kinds: torch.Tensor, mode: str) -> Any:
            super().forward(inputs, kinds, mode)
            raise RuntimeError("of the user")

    hook = ModelGraphHook(dirpath=tmp_path / "graphs", **IN_PLACE)
    with pytest.raises(RuntimeError, match="of the user"):
        runner_of(tmp_path, hook, model=Fails()).train()
    assert ModelGraph.load(tmp_path / "graphs" / "graph.json").partial
    first = hook.report
    runner_of(tmp_path, hook).train()
    assert hook.report is not first
    assert not graph_of(hook.report).partial


def test_training_goes_on_in_the_same_folder_with_the_graph_that_is_there(tmp_path: Path) -> None:
    hook = ModelGraphHook(**IN_PLACE)
    runner = runner_of(tmp_path, hook, train_cfg={"by_epoch": False, "max_iters": 2})
    runner.train()
    runner.train_loop._max_iters = 4
    runner.train()
    assert hook.report is not None
    assert any("was there already" in remark for remark in hook.report.remarks)


def test_a_resumed_training_is_recorded_in_its_own_folder(tmp_path: Path) -> None:
    default_hooks = {"checkpoint": {"type": "CheckpointHook", "interval": 1}}
    runner_of(tmp_path, default_hooks=default_hooks).train()
    hook = ModelGraphHook(**IN_PLACE)
    runner = runner_of(
        tmp_path,
        hook,
        resume=True,
        train_cfg={"by_epoch": True, "max_epochs": 3},
        default_hooks=default_hooks,
    )
    array = numpy._core.multiarray
    known = [HistoryBuffer, array._reconstruct, array.scalar, numpy.ndarray, numpy.dtype]
    known += [type(numpy.dtype("float64")), type(numpy.dtype("int64")), getattr]
    with torch.serialization.safe_globals(known):
        runner.train()
    assert runner.iter == 12
    assert [node.op for node in graph_of(hook.report).ops][:4] == NET_OPS
    assert hook.report is not None
    assert Path(hook.report.folder) == Path(runner.log_dir) / "model_graph"


def test_a_second_process_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    hook = ModelGraphHook(**IN_PLACE)
    runner_of(tmp_path, hook).train()
    assert hook.report is None
    assert not [*tmp_path.rglob("graph.json")]


def test_a_copy_of_the_hook_is_for_another_run(tmp_path: Path) -> None:
    hook = ModelGraphHook(**IN_PLACE)
    runner_of(tmp_path, hook).train()
    assert hook.report is not None
    assert copy.deepcopy(hook).report is None
