"""Each writer of a user's gets events of the class that it takes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks.tensorboard_messages import Event
from modelviz_callbacks.trackers.event_classes import as_taken_by
from modelviz_callbacks.trackers.event_file import EventFile

OURS = Event(wall_time=2.0, step=3, graph_def=b"g")


def test_a_writer_of_torch_or_tensorboard_gets_tensorboards(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    other = EventFileWriter(str(tmp_path))

    class Derived(EventFileWriter):
        pass

    for file in (writer.file_writer, other, Derived(str(tmp_path))):
        given = as_taken_by(file, OURS)
        assert type(given) is event_pb2.Event
        assert given == event_pb2.Event(wall_time=2.0, step=3, graph_def=b"g")
    writer.close()
    other.close()


def test_a_writer_of_tensorboardx_gets_tensorboardx_s(tmp_path: Path) -> None:
    library = pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event as Wanted

    writer = library.SummaryWriter(str(tmp_path))
    assert type(as_taken_by(writer.file_writer, OURS)) is Wanted
    assert type(as_taken_by(writer.file_writer, event_pb2.Event(step=1))) is Wanted
    writer.close()


def test_what_is_ours_gets_the_event_itself(tmp_path: Path) -> None:
    assert as_taken_by(EventFile(str(tmp_path)), OURS) is OURS


class SomebodysOwn:
    def add_event(self, event: Any) -> None:
        """Goes on to a writer of TensorBoard."""


def test_somebodys_own_gets_tensorboards_where_that_is_in_use() -> None:
    assert type(as_taken_by(SomebodysOwn(), OURS)) is event_pb2.Event


@pytest.mark.process
def test_nothing_is_loaded_for_somebodys_own() -> None:
    script = """
        import sys
        from modelviz_callbacks.tensorboard_messages import Event
        from modelviz_callbacks.trackers.event_classes import as_taken_by

        event = Event(step=1)
        assert as_taken_by(object(), event) is event
        assert not {"tensorboard", "tensorboardX", "torch"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
