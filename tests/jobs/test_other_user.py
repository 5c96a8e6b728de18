"""Another user of the machine: can neither read nor write a job, whatever the umask."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook

if sys.platform == "win32" or os.geteuid() != 0:
    pytest.skip("only root may become another user", allow_module_level=True)

NOBODY = 65534


@pytest.fixture(params=[0o755, 0o777, 0o1777])
def shared(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that others may enter; those of tests they may not."""
    folder = Path(tempfile.mkdtemp(prefix="modelviz-shared-"))
    folder.chmod(request.param)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def as_nobody(act: Callable[[], list[str]]) -> list[str]:
    """What another user gets done, in a process of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, "\n".join(act()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        found = answers.read()
    os.waitpid(pid, 0)
    return found.splitlines()


def attack(places: list[Path]) -> list[str]:
    """Reads, writes, adds to and renames what there is of jobs."""
    done = []
    for place in places:
        actions: dict[str, Callable[[], object]] = {
            "listed": lambda place=place: list(place.iterdir()),
            "read": lambda place=place: (place / "recording").read_bytes(),
            "wrote": lambda place=place: (place / "recording").write_bytes(b"x"),
            "added": lambda place=place: (place / "more").touch(),
            "renamed": lambda place=place: place.rename(place.with_name("mine")),
        }
        for what, action in actions.items():
            try:
                action()
            except OSError:
                continue
            done.append(f"{what} {place}")
    return done


@pytest.mark.process
@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022])
def test_another_user_can_neither_read_nor_write_nor_rename_a_job(
    mask: int, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path(tempfile.mkdtemp(prefix="modelviz-tmp-"))
    elsewhere.chmod(0o1777)  # as /tmp
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    # It rests for long: the job is there while it is attacked.
    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker._REST_OF_A_STEP", float("inf"))
    monkeypatch.setattr("modelviz_callbacks.jobs.in_worker._LONGEST_REST_S", 60.0)
    before = os.umask(mask)
    try:
        model = nn.Linear(4, 2)
        hook = GraphHook(model, dirpath=shared / "run", mlflow=False, formats=["text"])
        model(torch.randn(3, 4))
        jobs = [*shared.rglob(".job-*"), *elsewhere.glob("modelviz-job-*")]
        assert len(jobs) == 1
        found = as_nobody(lambda: attack(jobs))
        hook.close()
    finally:
        os.umask(before)
        shutil.rmtree(elsewhere, ignore_errors=True)
    assert found == []
    assert hook.report.refused == []
    assert (shared / "run" / "graph.txt").exists()
