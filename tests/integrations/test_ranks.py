"""Two processes: rank zero records, the weights are those of a training without us."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import SplitPoint, pipeline

from modelviz_callbacks import GraphHook, ModelGraph
from modelviz_callbacks.cli import main
from tests.integrations.seen import IN_PLACE, NET_OPS, net
from tests.integrations.test_transformers import bert

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# What `accelerate launch` runs. It has no flag for two processes without an accelerator; the script
# asks for the CPU itself.
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
)


def run_two(script: str, folder: Path, launcher: tuple[str, ...] | None = TORCHRUN) -> str:
    """Runs a script in two processes, unless it starts them itself; what they print."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore"),
            *(("-m", *launcher) if launcher is not None else ()),
            *(str(Path(__file__).parent / script), str(folder)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_interleaved_stages_are_joined(folder: Path) -> None:
    """Four stages on two ranks; the second hands on to the third what the first gave it."""
    assert main(["join", str(folder)]) == 0
    graph = ModelGraph.load(folder / "graph.json")
    assert graph.parameter_count == 4 * (8 + 1) * 8
    assert [node.kind for node in graph.nodes].count("input") == 1
    reads = {node.op: [ref.node for ref in node.inputs] for node in graph.ops}
    (adds,) = [given for op, given in reads.items() if op.startswith("add")]
    assert adds == ["stage_2/layer/linear", "stage_0/sigmoid"]


@pytest.mark.slow
@pytest.mark.process
def test_each_rank_of_a_pipeline_records_its_stage_and_join_makes_one_graph_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run_two("pipeline_ranks.py", tmp_path)
    # Not by lines: what the other rank has begun to print may stand before it.
    trained = sorted(re.findall(r"RANK \d \w+ \w+", told))
    assert trained == ["RANK 0 True True", "RANK 1 True True"]
    assert_interleaved_stages_are_joined(tmp_path / "interleaved")
    assert main(["join", str(tmp_path)]) == 0
    graph = ModelGraph.load(tmp_path / "graph.json")
    assert graph.parameter_count == (8 + 1) * 16 + (16 + 1) * 16 + (16 + 1) * 4
    assert [node.op for node in graph.ops] == ["linear", "relu", "linear", "relu", "linear"]
    assert [node.kind for node in graph.nodes].count("input") == 1
    assert all((tmp_path / name).stat().st_size for name in ("index.html", "graph.svg"))
    capsys.readouterr()
    (tmp_path / "stage_0" / "graph.json").unlink()
    assert main(["join", str(tmp_path)]) != 0
    assert "none left out" in capsys.readouterr().err


class Skips(nn.Module):
    """The first layer's result goes to the third, past the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = torch.sigmoid(self.a(x))
        return torch.tanh(self.c(self.b(torch.relu(skip * 2))) + skip)


def test_of_a_pipeline_that_tracing_has_split_a_connection_past_a_stage_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.randn(2, 8)
    begins = dict.fromkeys("bc", SplitPoint.BEGINNING)
    pipe = pipeline(Skips(), (x,), split_spec=begins)
    parts = [pipe.get_stage_module(number) for number in range(3)]
    hooks = [
        GraphHook(
            SimpleNamespace(submod=part, stage_index=number, pipe_info=pipe.info()),  # type: ignore[arg-type]
            dirpath=tmp_path,
            **IN_PLACE,
        )
        for number, part in enumerate(parts)
    ]
    hidden, skip = parts[0](x)
    parts[2](parts[1](hidden), skip).sum().backward()
    for hook in hooks:
        hook.close()
    assert main(["join", str(tmp_path)]) == 0
    graph = ModelGraph.load(tmp_path / "graph.json")
    reads = {node.op: [ref.node for ref in node.inputs] for node in graph.ops}
    assert [one for op, one in reads.items() if op.startswith("add")] == [
        ["stage_2/c/linear", "stage_0/sigmoid"]
    ]
    assert [node.kind for node in graph.nodes].count("input") == 1
    (tmp_path / "stage_2.json").write_text("{}")
    assert main(["join", str(tmp_path)]) != 0
    assert "should say where the inputs of a stage come from" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate launch"])
def test_two_ranks_of_accelerate_and_transformers_train_the_same_and_rank_zero_records(
    launcher: tuple[str, ...], tmp_path: Path
) -> None:
    printed = run_two("two_ranks.py", tmp_path, launcher)
    # Not by lines: what the other rank has begun to print may stand before it.
    told = sorted(re.findall(r"RANK \d of \d: \w+ \w+", printed))
    assert told == ["RANK 0 of 2: True True", "RANK 1 of 2: True True"]
    (of_trainer,) = (tmp_path / "with").glob("model_graph*")
    assert sorted(tmp_path.rglob("graph.json")) == [
        tmp_path / "loop" / "graph.json",
        of_trainer / "graph.json",
    ]
    graph = ModelGraph.load(tmp_path / "loop" / "graph.json")
    assert sizes(graph) == {name: one.numel() for name, one in net().named_parameters()}
    trained = ModelGraph.load(of_trainer / "graph.json")
    assert [node.name for node in trained.of_kind("output")] == ["loss"]
    assert {call.name for call in trained.modules if not call.parent} >= {"bert", "classifier"}
    assert sizes(trained) == {name: one.numel() for name, one in bert().named_parameters()}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ray is in the test group on Linux only")
def test_two_workers_of_ray_train_the_same_and_the_first_of_them_records(tmp_path: Path) -> None:
    run_two("ray_workers.py", tmp_path, launcher=None)
    for kind, prefix in (("loop", ""), ("lightning", "network.")):
        first, second = (
            json.loads((tmp_path / f"{kind}_{rank}.json").read_text()) for rank in range(2)
        )
        assert first["same"]
        assert second == {"same": True, "files": []}
        assert "graph.json" in first["files"]
        assert not (tmp_path / f"{kind}1").exists()
        graph = ModelGraph.load(tmp_path / f"{kind}0" / "graph.json")
        assert sizes(graph) == {
            prefix + name: one.numel() for name, one in net().named_parameters()
        }
        assert [node.op for node in graph.ops] == [*NET_OPS, "cross_entropy"]
        assert [node.name for node in graph.of_kind("output")] == ["loss"]


def sizes(graph: ModelGraph) -> dict[str, int]:
    """Of each parameter how many values it has; a shared one once."""
    return {one.name: math.prod(one.spec.shape) for one in graph.parameters}
