"""Events in a TensorBoard run, read back with TensorBoard's own readers and in its own page."""

from __future__ import annotations

import os
import socket
import struct
import uuid
import zlib
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks import GraphHook
from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker

GRAPH = GraphDef()
GRAPH.node.add(name="x", op="Input", device="/device:CPU:0")
GRAPH.node.add(name="relu", op="relu", input=["x"], device="/device:CPU:0")


def _profile() -> RunMetadata:
    found = RunMetadata()
    device = found.step_stats.dev_stats.add(device="/device:CPU:0")
    device.node_stats.add(node_name="relu", all_start_micros=1, all_end_rel_micros=5)
    return found


def _named() -> bytes:
    found = _profile()
    found.function_graphs.add().pre_optimization_graph.CopyFrom(GRAPH)
    return found.SerializeToString()


def _png(width: int, height: int) -> bytes:
    """A grey picture, written from the PNG specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\x80" * width) * height
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    found.Reload()
    return found


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("**/*tfevents*"))


def test_a_folder_gets_an_event_file_with_everything_in_it(tmp_path: Path) -> None:
    with TensorBoardTracker(tmp_path / "run") as tracker:
        tracker.add_graph(GRAPH.SerializeToString())
        tracker.add_named_graph("forward", _named())
        tracker.add_profile("costs", _profile().SerializeToString())
        tracker.add_text("summary", "| a | b |\n|---|---|\n| 1 | größer |", step=3)
        tracker.add_image("picture", _png(7, 5), step=4)
    run = _read(tmp_path / "run")

    assert run.Graph() == GRAPH
    (named,) = run.Tensors("forward")
    assert named.tensor_proto.string_val[0] == _named()
    metadata = run.SummaryMetadata("forward").plugin_data
    assert (metadata.plugin_name, metadata.content) == ("graph_run_metadata", b"1")
    assert run.RunMetadata("costs") == _profile()
    (text,) = run.Tensors("summary")
    assert text.step == 3
    assert "größer" in text.tensor_proto.string_val[0].decode()
    assert run.SummaryMetadata("summary").plugin_data.plugin_name == "text"
    (image,) = run.Images("picture")
    assert (image.step, image.width, image.height) == (4, 7, 5)
    assert image.encoded_image_string == _png(7, 5)


@pytest.mark.parametrize("kind", ["SummaryWriter", "FileWriter", "EventFileWriter"])
def test_a_users_writer_keeps_its_one_file_and_stays_open(tmp_path: Path, kind: str) -> None:
    writer = SummaryWriter(str(tmp_path))
    targets = {
        "SummaryWriter": writer,
        "FileWriter": writer._get_file_writer(),
        "EventFileWriter": writer._get_file_writer().event_writer,
    }
    writer.add_scalar("loss", 2.0, 0)
    with TensorBoardTracker(targets[kind]) as tracker:
        tracker.add_graph(GRAPH.SerializeToString())
        tracker.add_text("summary", "text", step=1)
    writer.add_scalar("loss", 1.0, 1)
    writer.close()
    run = _read(tmp_path)

    assert len(_event_files(tmp_path)) == 1
    assert [event.value for event in run.Scalars("loss")] == [2.0, 1.0]
    assert run.Graph() == GRAPH
    assert [event.step for event in run.Tensors("summary")] == [1]


def test_what_is_written_is_on_disk_after_a_flush_though_nothing_was_closed(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    tracker = TensorBoardTracker(writer)
    tracker.add_graph(GRAPH.SerializeToString())
    tracker.flush()

    assert _read(tmp_path).Graph() is not None
    writer.close()


def test_events_carry_the_time_at_which_they_were_written(tmp_path: Path) -> None:
    with TensorBoardTracker(tmp_path) as tracker:
        tracker.add_graph(GRAPH.SerializeToString())
    version, graph = LegacyEventFileLoader(str(_event_files(tmp_path)[0])).Load()

    assert graph.wall_time >= version.wall_time > 0


def test_a_graph_of_the_users_own_is_no_obstacle(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer._get_file_writer().add_graph((GRAPH, RunMetadata()))
    with TensorBoardTracker(writer) as tracker:
        tracker.add_named_graph("forward", _named())
    writer.close()
    run = _read(tmp_path)

    assert run.Graph() == GRAPH
    assert len(run.Tensors("forward")) == 1


@pytest.mark.parametrize("suffix", ["", ".mine"])
@pytest.mark.parametrize("library", ["torch.utils.tensorboard", "tensorboardX"])
def test_what_comes_after_the_writer_was_closed_is_in_its_file(
    tmp_path: Path, library: str, suffix: str
) -> None:
    # Files that other processes, and other hosts, have left there are none of ours.
    host = socket.gethostname()
    left = [f"{host}.{os.getpid() + 1}.0", f"{host}2.{os.getpid()}.0", f"{host}.home.77.0"]
    others = [tmp_path / f"events.out.tfevents.1700000000.{end}" for end in left]
    for path in others:
        path.touch()
    writer = pytest.importorskip(library).SummaryWriter(str(tmp_path), filename_suffix=suffix)
    tracker = TensorBoardTracker(writer)
    tracker.add_graph(GRAPH.SerializeToString())
    writer.add_scalar("loss", 1.0, 7)
    writer.close()
    tracker.add_text("summary", "text")
    tracker.close()

    for path in others:
        assert path.stat().st_size == 0
        path.unlink()
    assert len(_event_files(tmp_path)) == 1
    run = _read(tmp_path)
    assert run.Graph() is not None
    assert [event.step for event in run.Scalars("loss")] == [7]
    assert len(run.Tensors("summary")) == 1


@pytest.mark.parametrize("library", ["torch.utils.tensorboard", "tensorboardX"])
def test_a_closed_writer_that_has_one_of_several_files_is_refused_and_no_further_begins(
    tmp_path: Path, library: str
) -> None:
    writer = pytest.importorskip(library).SummaryWriter(str(tmp_path))
    other = SummaryWriter(str(tmp_path))
    tracker = TensorBoardTracker(writer)
    writer.close()
    other.close()

    with pytest.raises(TrackerError, match="would begin a second event file"):
        tracker.add_text("summary", "text")
    tracker.close()
    assert len(_event_files(tmp_path)) == 2


def test_a_writer_of_tensorboardx_gets_everything_into_its_own_file(tmp_path: Path) -> None:
    library = pytest.importorskip("tensorboardX")
    writer = library.SummaryWriter(str(tmp_path))
    tracker = TensorBoardTracker(writer)
    tracker.add_graph(GRAPH.SerializeToString())
    tracker.add_named_graph("forward", _named())
    tracker.add_text("summary", "text", step=3)
    tracker.close()
    writer.add_scalar("loss", 1.0, 7)
    writer.close()

    assert len(_event_files(tmp_path)) == 1
    run = _read(tmp_path)
    assert GraphDef.FromString(run.Graph().SerializeToString()) == GRAPH
    assert [event.step for event in run.Tensors("summary")] == [3]
    assert [event.step for event in run.Scalars("loss")] == [7]
    assert len(run.Tensors("forward")) == 1


def test_a_tensorboardx_writer_around_a_loop_is_found(tmp_path: Path) -> None:
    library = pytest.importorskip("tensorboardX")
    model, writer = torch.nn.Linear(4, 2), library.SummaryWriter(str(tmp_path))
    with GraphHook(model, onnx=False, formats=["text"], background=False) as hook:
        model(torch.ones(1, 4)).sum().backward()
    writer.close()
    assert Path(hook.report.folder) == tmp_path / "model_graph"
    assert len(_event_files(tmp_path)) == 1
    assert _read(tmp_path).Graph() is not None


def test_a_closed_file_writer_is_refused(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    tracker = TensorBoardTracker(writer)
    writer.close()

    with pytest.raises(TrackerError, match="Could not write the text 'summary'"):
        tracker.add_text("summary", "text")


def test_a_folder_that_only_a_remote_file_system_knows_works() -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    with TensorBoardTracker(folder) as tracker:
        tracker.add_graph(GRAPH.SerializeToString())
    (file,) = fsspec.filesystem("memory").ls(folder, detail=False)

    events = list(LegacyEventFileLoader(f"memory:/{file}").Load())
    assert GraphDef.FromString(events[-1].graph_def) == GRAPH


def test_a_remote_folder_s_file_gets_what_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    store = fsspec.filesystem("memory")
    with TensorBoardTracker(folder) as tracker:
        tracker.add_graph(GRAPH.SerializeToString())
        tracker.flush()
        tracker.add_text("first", "text")
    with TensorBoardTracker(folder) as tracker, monkeypatch.context() as patched:
        tracker.add_text("lost", "text")
        patched.setattr(store, "pipe_file", _refuse)
        with pytest.raises(TrackerError, match="the store is full"):
            tracker.flush()
    with TensorBoardTracker(folder) as tracker:
        tracker.add_text("second", "text")
    (file,) = store.ls(folder, detail=False)

    version, graph, *texts = LegacyEventFileLoader(f"memory:/{file}").Load()
    assert version.file_version == "brain.Event:2"
    assert GraphDef.FromString(graph.graph_def) == GRAPH
    assert [event.summary.value[0].tag for event in texts] == ["first", "second"]


def _refuse(*given: object) -> None:
    raise OSError("the store is full")


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.close()
    tracker.close()

    with pytest.raises(TrackerError, match="this tracker is closed"):
        tracker.add_text("summary", "text")


def test_a_path_that_is_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(TrackerError, match="file"):
        TensorBoardTracker(tmp_path / "file").open()


@pytest.mark.parametrize("target", [None, 7, SimpleNamespace(add_scalar=print)])
def test_something_that_is_no_writer_is_refused_with_its_type(target: object) -> None:
    with pytest.raises(TrackerError, match=type(target).__qualname__):
        TensorBoardTracker(target)


def test_a_picture_that_is_no_png_is_refused(tmp_path: Path) -> None:
    with (
        TensorBoardTracker(tmp_path) as tracker,
        pytest.raises(TrackerError, match="expected a PNG"),
    ):
        tracker.add_image("picture", b"<svg/>")


def test_a_writer_that_fails_in_its_own_way_gives_our_error(tmp_path: Path) -> None:
    class Failing:
        def add_event(self, event: object) -> None:
            raise ConnectionError("the store is gone")

        def flush(self) -> None:
            raise ConnectionError("the store is gone")

    tracker = TensorBoardTracker(Failing())

    with pytest.raises(TrackerError, match="the store is gone") as caught:
        tracker.add_graph(GRAPH.SerializeToString())
    assert isinstance(caught.value.__cause__, ConnectionError)
    with pytest.raises(TrackerError, match="flush"):
        tracker.close()
    tracker.close()
