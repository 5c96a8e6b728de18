"""A hook that nobody closes: its files are made when the program ends, and it keeps no model."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, ModelGraph
from tests.zoo.leaves import difference
from tests.zoo.switches import switches

_PROGRAM = """
import os, sys, torch
from multiprocessing import get_context
from modelviz_callbacks import GraphHook

def train(name, keeps):
    model = torch.nn.Linear(4, 2)
    options = dict(dirpath=name, onnx=False, formats=["text"], background=name == "worker")
    kept = GraphHook(model, **options)
    for _ in range(2):
        model(torch.ones(1, 4)).sum().backward()
    keeps.append(kept) if keeps is not None else None

def end_with_it(name):
    train(name, kept_for_ever)

kept_for_ever = []
if __name__ == "__main__":
    # Only without gradients: kept until the end, for the case that no better forward comes.
    forked = torch.nn.Linear(4, 2)
    hook = GraphHook(forked, dirpath="forked", onnx=False, formats=["text"], background=False)
    with torch.no_grad():
        forked(torch.ones(1, 4))
    for closes in (False, True):
        if os.fork() == 0:
            hook.close() if closes else None
            sys.exit()
        os.wait()
    print("written by a child:", os.path.exists("forked"))
    train("kept", kept_for_ever)
    train("worker", kept_for_ever)
    train("thrown_away", None)
    started = get_context("spawn").Process(target=end_with_it, args=("spawned",))
    started.start()
    started.join()
    raise ValueError("of the user")
"""


@pytest.mark.process
def test_whatever_ends_the_program_the_files_of_a_hook_that_nobody_closed_are_made(
    tmp_path: Path,
) -> None:
    (tmp_path / "program.py").write_text(_PROGRAM)
    ended = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == ended.stderr.count("ValueError: of the user") == 1
    assert "written by a child: False" in ended.stdout
    for name in ("forked", "kept", "worker", "thrown_away", "spawned"):
        graph = ModelGraph.load(tmp_path / name / "graph.json")
        assert [node.op for node in graph.ops] == ["linear"]
        assert (tmp_path / name / "graph.txt").exists(), name
        assert f"is in {name}" in ended.stdout


@pytest.mark.parametrize("options", [{}, {"profile_step": 1}], ids=["recorded", "timed"])
def test_a_hook_that_is_never_closed_keeps_no_model_alive(
    options: dict[str, Any], tmp_path: Path
) -> None:
    few: dict[str, Any] = {"onnx": False, "formats": ["text"], "background": False}

    def train() -> weakref.ref[nn.Module]:
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        GraphHook(model, dirpath=tmp_path, **few, **options)
        for _ in range(2):
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
        return weakref.ref(model)

    before = switches()
    seen = train()
    gc.collect()
    assert seen() is None
    torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.1).step()
    assert difference(before, switches()) == ""


def test_where_no_thread_begins_any_more_the_files_are_made_under_the_users_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    model = nn.Linear(4, 2)
    hook = GraphHook(model, dirpath=tmp_path, onnx=False, formats=["text"], background=False)
    model(torch.ones(1, 4)).sum().backward()
    monkeypatch.setattr(threading.Thread, "start", refuses)
    with torch.device("cpu"):  # as torch.set_default_device does for the whole program
        hook.close()
    assert hook.report.refused == []
    assert "graph.txt" in hook.report.files
