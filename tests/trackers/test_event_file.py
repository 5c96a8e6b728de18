"""Event files of our own, read back with TensorBoard's reader."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from modelviz_callbacks.trackers.event_file import EventFile


def read(folder: Path) -> list[bytes]:
    """The graphs of a folder's only event file."""
    (path,) = folder.glob("events.out.tfevents.*")
    version, *events = LegacyEventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2"
    return [event.graph_def for event in events]


def event(size: int) -> Event:
    return Event(wall_time=1.0, graph_def=b"g" * size)


def test_what_comes_later_goes_on_with_the_file_of_the_folder(tmp_path: Path) -> None:
    for size in (10, 300_000):
        file = EventFile(str(tmp_path))
        file.add_event(event(size))
        file.close()

    assert [len(graph) for graph in read(tmp_path)] == [10, 300_000]


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.process
def test_a_forked_child_begins_a_file_of_its_own(tmp_path: Path) -> None:
    script = """
        import os, sys
        from tensorboard.compat.proto.event_pb2 import Event
        from modelviz_callbacks.trackers.event_file import EventFile

        def write(size):
            file = EventFile(sys.argv[1])
            file.add_event(Event(wall_time=1.0, graph_def=b"g" * size))
            file.close()

        write(10)
        child = os.fork()
        write(20 if child else 30)
        if child:
            os.waitpid(child, 0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True)
    found = sorted(
        [len(event.graph_def) for event in LegacyEventFileLoader(str(path)).Load()][1:]
        for path in tmp_path.iterdir()
    )

    assert found == [[10, 20], [30]]


@pytest.mark.parametrize("before", [True, False])
def test_a_file_size_limit_leaves_whole_records_or_no_file(tmp_path: Path, before: bool) -> None:
    resource = pytest.importorskip("resource")
    file = EventFile(str(tmp_path))
    if before:
        file.add_event(event(1000))
        file.flush()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        file.add_event(event(30_000))
        with pytest.raises(OSError, match="large"):
            file.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert len(list(tmp_path.iterdir())) == before
    file.add_event(event(7))
    file.close()
    assert [len(graph) for graph in read(tmp_path)] == ([1000, 7] if before else [7])


def test_a_file_that_was_taken_away_meanwhile_begins_anew(tmp_path: Path) -> None:
    file = EventFile(str(tmp_path))
    file.add_event(event(10))
    file.flush()
    for path in tmp_path.iterdir():
        path.unlink()
    file.add_event(event(20))
    file.close()

    assert [len(graph) for graph in read(tmp_path)] == [20]


@pytest.mark.process
def test_no_messages_are_imported_before_something_is_written(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom modelviz_callbacks.trackers.event_file import EventFile\n"
        "EventFile(sys.argv[1])\nassert not {'google.protobuf', 'tensorboard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
