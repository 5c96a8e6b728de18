"""Two processes: rank zero records, the weights are those of a training without us."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.cli import main
from tests.integrations.seen import net


def run_two(script: str, folder: Path) -> str:
    """Runs a script in two processes; what they print."""
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(Path(__file__).parent / script), str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.process
def test_each_rank_of_a_pipeline_records_its_stage_and_join_makes_one_graph_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run_two("pipeline_ranks.py", tmp_path)
    # Not by lines: what the other rank has begun to print may stand before it.
    assert sorted(re.findall(r"RANK \d \w+", told)) == ["RANK 0 True", "RANK 1 True"]
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


@pytest.mark.process
@pytest.mark.slow
def test_two_ranks_of_accelerate_and_transformers_train_the_same_and_rank_zero_records(
    tmp_path: Path,
) -> None:
    printed = run_two("two_ranks.py", tmp_path)
    # Not by lines: what the other rank has begun to print may stand before it.
    told = sorted(re.findall(r"RANK \d of \d: \w+ \w+", printed))
    assert told == ["RANK 0 of 2: True True", "RANK 1 of 2: True True"]
    graph = ModelGraph.load(tmp_path / "loop" / "graph.json")
    assert graph.parameter_count == sum(one.numel() for one in net().parameters())
    (of_trainer,) = (tmp_path / "with").glob("model_graph*")
    trained = ModelGraph.load(of_trainer / "graph.json")
    assert [node.name for node in trained.of_kind("output")] == ["loss"]
    assert {call.name for call in trained.modules if not call.parent} >= {"bert", "classifier"}
