"""Two processes: rank zero records, the weights are those of a training without us."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelviz_callbacks import ModelGraph
from tests.integrations.seen import net


@pytest.mark.process
@pytest.mark.slow
def test_two_ranks_of_accelerate_and_transformers_train_the_same_and_rank_zero_records(
    tmp_path: Path,
) -> None:
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    script = str(Path(__file__).parent / "two_ranks.py")
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", script, str(tmp_path)],
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
    # Not by lines: what the other rank has begun to print may stand before it.
    told = sorted(re.findall(r"RANK \d of \d: \w+ \w+", done.stdout))
    assert told == ["RANK 0 of 2: True True", "RANK 1 of 2: True True"]
    graph = ModelGraph.load(tmp_path / "loop" / "graph.json")
    assert graph.parameter_count == sum(one.numel() for one in net().parameters())
    (of_trainer,) = (tmp_path / "with").glob("model_graph*")
    trained = ModelGraph.load(of_trainer / "graph.json")
    assert [node.name for node in trained.of_kind("output")] == ["loss"]
    assert {call.name for call in trained.modules if not call.parent} >= {"bert", "classifier"}
