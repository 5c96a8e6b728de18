"""Disks that are full at any stage: whole files or none, the rest made, one warning.

A file system in memory of some kilobytes, a larger one each time, takes the files of a recording,
its job and its events. What is there is read with the reader of its kind; each file that the report
lists must be there, whatever is missing must be refused in one warning, and nothing unfinished may
be left. The largest disk must take all.

Run it with ``python -m benchmarks.faults.full_disks [LARGEST_KB [STEP_KB]]`` as root on Linux: a
disk each of `LARGEST_KB` in steps of `STEP_KB`, in place and with a worker by turns.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks.faults.left_behind import broken_files, leftovers
from modelviz_callbacks import GraphHook
from modelviz_callbacks.report import ModelvizWarning

LARGEST_KB, STEP_KB = 720, 12
_LEFT_WITHIN_S = 60.0


@contextlib.contextmanager
def disk(size_kb: int) -> Iterator[Path | None]:
    """A new file system of some size; ``None`` where none may be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", folder]
        try:
            done = subprocess.run(["mount", *options], capture_output=True, check=False)
            mounted = done.returncode == 0
        except OSError:
            mounted = False
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", "-l", folder], check=False)


def faults_on(folder: Path, in_place: bool, onnx: bool = True) -> tuple[list[str], int]:
    """What is not as it should be on a disk, and how many files it has.

    Args:
        folder: The disk; it is new.
        in_place: Whether the files are made in the training process.
        onnx: Whether ONNX files are wanted.
    """
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    formats = ["svg", "text", "html", "png", "csv", "markdown"]
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("always")
        hook = GraphHook(
            model, dirpath=folder, formats=formats, onnx=onnx, background=not in_place, mlflow=False
        )
        model(torch.randn(6, 4)).sum().backward()
        hook.close()
    end = time.monotonic() + _LEFT_WITHIN_S
    while (left := list(leftovers(folder))) and time.monotonic() < end:
        time.sleep(0.05)
    faults = [f"half a file: {line}" for line in broken_files(folder)]
    faults += [f"left: {name}" for name in left]
    made = {path.name for path in folder.glob("*")}
    faults += [f"no {name}" for name in hook.report.files if name not in made]
    ours = [one for one in caught if issubclass(one.category, ModelvizWarning)]
    if len(ours) != bool(hook.report.refused):
        faults.append(f"{len(ours)} warnings")
    wanted = {"graph.json", "graph.svg", "graph.txt", "graph.csv", "index.html", "report.json"}
    if not hook.report.refused and not wanted <= made:
        faults.append("something is missing and was not refused")
    return faults, len(hook.report.files)


def main(arguments: list[str]) -> int:
    """Tries all sizes; the exit status says whether all was as it should be."""
    largest, step = (*map(int, arguments), *(LARGEST_KB, STEP_KB)[len(arguments) :])
    sizes = range(step, largest + 1, step)
    bad, made = 0, []
    for number, size_kb in enumerate(sizes):
        with disk(size_kb) as folder:
            if folder is None:
                print("no file system may be mounted here")
                return 2
            faults, count = faults_on(folder, in_place=number % 8 != 7)
        made.append(count)
        bad += bool(faults)
        if faults:
            print(f"{size_kb} kB: {'; '.join(faults)}", flush=True)
    print(
        f"{len(sizes)} disks of {step} to {largest} kB, {min(made)} to {max(made)} files made; "
        f"not as they should be: {bad}"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
