"""The records of event files, beside TensorBoard's own reader and writer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.event_records import read_records, records
from modelviz_callbacks.trackers.tensorboard import staged

EVENTS = [Event(step=n, graph_def=b"g" * size) for n, size in enumerate([0, 1, 70_000, 3])]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(records(EVENTS))
    return path


def test_tensorboard_reads_what_is_written(file: Path) -> None:
    assert [Event.FromString(data) for data in RawEventFileLoader(str(file)).Load()] == EVENTS


def test_what_tensorboard_writes_is_read(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    for event in EVENTS:
        writer.add_event(event)
    writer.close()
    (path,) = tmp_path.iterdir()
    version, *found = [Event.FromString(data) for data in read_records(path)]
    assert version.file_version == "brain.Event:2"
    assert found == EVENTS
    assert [event.step for event in staged(tmp_path)] == [0, 1, 2, 3]


def test_a_file_that_is_cut_anywhere_has_the_records_before_that(file: Path) -> None:
    whole = file.read_bytes()
    sizes = [len(records([event])) for event in EVENTS]
    ends = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    for length in [*range(0, ends[2] + 1), ends[3] - 5, ends[3] - 1, ends[3] + 11, len(whole)]:
        file.write_bytes(whole[:length])
        assert len(list(read_records(file))) == sum(length >= end for end in ends[1:])


# A byte of the last record from its start, or from its end -> the stretch that is told: its length
# (8 bytes and a checksum) or its data.
@pytest.mark.parametrize(
    ("byte", "start"), [(0, 0), (7, 0), (8, 0), (11, 0), (12, 12), (-5, 12), (-1, 12)]
)
def test_a_damaged_record_is_told_and_those_before_it_are_there(
    file: Path, byte: int, start: int
) -> None:
    whole = bytearray(file.read_bytes())
    last = len(records(EVENTS[:3]))
    whole[last + byte if byte >= 0 else len(whole) + byte] ^= 1
    file.write_bytes(whole)
    read = read_records(file)
    assert [Event.FromString(next(read)) for _ in EVENTS[:3]] == EVENTS[:3]
    told = rf"{file.name} is damaged: of the \d bytes from byte {last + start} on"
    with pytest.raises(TrackerError, match=told):
        next(read)
