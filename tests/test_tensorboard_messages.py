"""The messages that are declared here are those of TensorBoard: names, numbers, types."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto

from modelviz_callbacks import tensorboard_messages
from modelviz_callbacks.trackers.tensorboard import staged

# Class -> the module of TensorBoard that has it.
HOMES = {
    "AttrValue": "attr_value",
    "DeviceStepStats": "step_stats",
    "Event": "event",
    "GraphDef": "graph",
    "NodeDef": "node_def",
    "RunMetadata": "config",
    "TaggedRunMetadata": "event",
    "TensorShapeProto": "tensor_shape",
}
# What is made by adding to a field of another message alone.
INNER = {
    "AllocatorMemoryUsed": "step_stats",
    "NodeExecStats": "step_stats",
    "NodeOutput": "step_stats",
    "StepStats": "step_stats",
    "Summary": "summary",
    "SummaryMetadata": "summary",
    "TensorProto": "tensor",
    "TensorDescription": "tensor_description",
}


def tensorboards(name: str) -> Any:
    home = {**HOMES, **INNER}[name]
    return getattr(importlib.import_module(f"tensorboard.compat.proto.{home}_pb2"), name)


def fields_of(message: DescriptorProto, path: str = "") -> dict[str, tuple[Any, ...]]:
    """What a message and those inside of it declare, by the path of each field."""
    found = {}
    for field in message.field:
        group = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        # A number of an enumeration and an integer are the same bytes.
        is_number = field.type == field.TYPE_ENUM
        kind = field.TYPE_INT32 if is_number else field.type
        of = "" if is_number else field.type_name.partition(".")[2].partition(".")[2]
        found[f"{path}{field.name}"] = (field.number, field.label, kind, of, group)
    for inner in message.nested_type:
        found |= fields_of(inner, f"{path}{inner.name}.")
    return found


def declared(cls: Any) -> dict[str, tuple[Any, ...]]:
    message = DescriptorProto()
    cls.DESCRIPTOR.CopyToProto(message)
    return fields_of(message)


def ours(name: str) -> Any:
    if name in HOMES:
        return getattr(tensorboard_messages, name)
    row = tensorboard_messages.DeviceStepStats().node_stats.add()
    output, summary = row.output.add(), tensorboard_messages.Event().summary
    value = summary.value.add()
    stats = tensorboard_messages.RunMetadata().step_stats
    made = [row, row.memory.add(), output, output.tensor_description, stats]
    made += [summary, value.metadata, value.tensor]
    return next(type(one) for one in made if one.DESCRIPTOR.name == name)


@pytest.mark.parametrize("name", [*HOMES, *INNER])
def test_each_field_has_its_number_and_its_type(name: str) -> None:
    mine = declared(ours(name))
    theirs = declared(tensorboards(name))
    assert mine
    assert mine == {path: theirs.get(path) for path in mine}


def test_every_message_is_compared() -> None:
    names = {name for name in tensorboard_messages._DECLARED if "." not in name}
    assert names == set(HOMES) | set(INNER)


def test_a_map_and_a_group_are_read_by_tensorboard_and_back() -> None:
    node = tensorboard_messages.NodeDef(name="n", op="relu", input=["a", "b:1"])
    node.attr["text"].s = b"a text"
    node.attr["_output_shapes"].list.shape.add(unknown_rank=True)
    data = node.SerializeToString(deterministic=True)
    read = tensorboards("NodeDef").FromString(data)
    assert (read.name, list(read.input), read.attr["text"].s) == ("n", ["a", "b:1"], b"a text")
    assert read.attr["_output_shapes"].list.shape[0].unknown_rank
    assert read.SerializeToString(deterministic=True) == data
    assert tensorboard_messages.NodeDef.FromString(data) == node


def test_what_is_not_declared_is_kept() -> None:
    event = tensorboards("Event")(wall_time=3.0)
    event.summary.value.add(tag="loss", simple_value=0.5)
    event.source_metadata.writer = "another"
    data = event.SerializeToString()
    ours = tensorboard_messages.Event.FromString(data)
    assert tensorboards("Event").FromString(ours.SerializeToString()) == event


_WRITES = """
import sys
from google.protobuf.internal import api_implementation
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.trackers.tensorboard import TensorBoardTracker
from modelviz_callbacks.writers.graphdef import graph_def, named_graphs
from tests.writers.graphs_by_hand import two_branches

analysis = Analysis(two_branches())
with TensorBoardTracker(sys.argv[1]) as tracker:
    tracker.add_graph(graph_def(analysis).SerializeToString(deterministic=True))
    for named in named_graphs(analysis):
        tracker.add_named_graph(named.tag, named.metadata)
    tracker.add_text("text", "a text")
    tracker.add_image("picture", bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(13))
print(api_implementation.Type())
"""


@pytest.mark.process
def test_protobuf_in_pure_python_writes_the_same(tmp_path: Path) -> None:
    written = []
    for kind in ("upb", "python"):
        done = subprocess.run(
            [sys.executable, "-c", _WRITES, str(tmp_path / kind)],
            env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": kind},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{kind}\n"
        events = list(staged(tmp_path / kind))
        for event in events:
            event.ClearField("wall_time")
        written.append([event.SerializeToString() for event in events])
    assert len(written[0]) == 5
    assert written[0] == written[1]
