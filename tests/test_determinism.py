"""The same model and inputs give byte-identical files in any process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import modelviz_callbacks

SCRIPT = """
import sys
import torch
from tests.models import build
from modelviz_callbacks import GraphHook

for name in ("TwoBranches", "DictInDictOut", "Transformer", "Containers", "InPlace"):
    model, args, kwargs = build(name)
    with GraphHook(model, dirpath=f"{sys.argv[1]}/{name}", tensorboard=False) as hook:
        model(*args, **kwargs)
    assert hook.report.refused == [], hook.report.refused
"""

KINDS = ("graph.json", "graph.txt", "graph.svg", "graph.onnx", "graph.md", "graph.csv")
KINDS += ("index.html", "graph.png")


def run_in_a_process(folder: Path, hash_seed: str, threads: str) -> None:
    """Records and writes in a fresh process with its own hash seed and working directory."""
    (folder / "cwd").mkdir(parents=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    root = Path(modelviz_callbacks.__file__).parent.parent
    environment = os.environ | {
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": threads,
    }
    subprocess.run(
        [sys.executable, str(script), str(folder / "out")],
        cwd=folder / "cwd",
        env=environment,
        check=True,
        timeout=300,
    )


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name in KINDS
    }


@pytest.mark.slow
def test_two_processes_with_other_hash_seeds_and_folders_write_the_same_bytes(
    tmp_path: Path,
) -> None:
    runs = [(tmp_path / "a", "1", "1"), (tmp_path / "b" / "deeper", "31337", "2")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda run: run_in_a_process(*run), runs))
    first, second = (digests(folder / "out") for folder, _, _ in runs)
    assert len(first) == 5 * len(KINDS)
    assert first == second
