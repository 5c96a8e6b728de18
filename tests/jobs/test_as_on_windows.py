"""What is Windows' own, where there is none: the package sees its platform and what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.process
STAND_IN = Path(__file__).parent / "as_on_windows"
HOME = Path(__file__).parents[2]
FEW = "formats=['text'], onnx=False, mlflow=False"


def said_there(code: str, folder: Path) -> list[str]:
    """The lines that a program prints, without those that the package does."""
    paths = [str(STAND_IN), str(HOME)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        encoding="utf-8",
        timeout=4 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if not line.startswith("modelviz:")]


@pytest.mark.slow
def test_the_stand_in_shows_the_package_a_windows_and_nobody_else(tmp_path: Path) -> None:
    said = said_there(
        """
        import os, sys
        from modelviz_callbacks.jobs import worker_process as ours
        print(ours.sys.platform, hasattr(ours.os, "fork"), sys.platform, hasattr(os, "fork"))
        """,
        tmp_path,
    )
    assert said == [f"win32 False {sys.platform} {hasattr(os, 'fork')}"]


@pytest.mark.slow
def test_one_worker_makes_the_files_of_one_recording_after_the_other(tmp_path: Path) -> None:
    said = said_there(
        f"""
        import time
        import torch
        from torch import nn
        from modelviz_callbacks import GraphHook
        from modelviz_callbacks.jobs.job import Job
        from modelviz_callbacks.jobs.queue import QUEUE
        Job.take_back = lambda _: False  # the worker does it, and is told that it is waited for
        QUEUE.hold(QUEUE)
        first = QUEUE.worker
        for name in ("first", "second"):
            model = nn.Linear(4, 2)
            hook = GraphHook(model, dirpath=name, {FEW})
            model(torch.randn(3, 4))
            hook.close()
            time.sleep(0.5)  # were it to start itself anew
            print(hook.report.refused, hook.report.remarks, QUEUE.worker is first, first.has_ended)
        QUEUE.let_go(QUEUE)
        print(first.wait({PATIENCE_S}))
        """,
        tmp_path,
    )
    assert said == ["[] [] True False", "[] [] True False", "True"]
    for name in ("first", "second"):
        assert "Linear" in (tmp_path / name / "graph.txt").read_text(encoding="utf-8")
        assert not list((tmp_path / name).glob(".job-*"))
