"""TensorBoard's messages, as far as its event files get any from here.

Declared here because no small library has all of them, and TensorBoard itself brings a server of
78 MB that only whoever looks at a run needs. Names, numbers and types are those of the ``.proto``
files in ``tensorboard/compat/proto`` of TensorBoard 2.21 (the same in TensorFlow); fields that
nothing here writes are left out, and are kept where a message with one is read and written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

# What ``TensorProto.dtype`` is for strings.
DT_STRING = 7

# A line a field: number, type, name; a word before the type or after the name: "repeated", "map"
# (from strings to the type), the name of the group ("oneof") of which only one field is set.
# Numbers of an enumeration are declared as the integers that they are in a file.
_DECLARED = {
    "Event": """
        1 double wall_time
        2 int64 step
        3 string file_version what
        4 bytes graph_def what
        5 Summary summary what
        8 TaggedRunMetadata tagged_run_metadata what
    """,
    "TaggedRunMetadata": """
        1 string tag
        2 bytes run_metadata
    """,
    "Summary": "1 repeated Summary.Value value",
    "Summary.Value": """
        1 string tag
        4 Summary.Image image value
        8 TensorProto tensor value
        9 SummaryMetadata metadata
    """,
    "Summary.Image": """
        1 int32 height
        2 int32 width
        3 int32 colorspace
        4 bytes encoded_image_string
    """,
    "SummaryMetadata": "1 SummaryMetadata.PluginData plugin_data",
    "SummaryMetadata.PluginData": """
        1 string plugin_name
        2 bytes content
    """,
    "TensorProto": """
        1 int32 dtype
        8 repeated bytes string_val
    """,
    "TensorShapeProto": """
        2 repeated TensorShapeProto.Dim dim
        3 bool unknown_rank
    """,
    "TensorShapeProto.Dim": "1 int64 size",
    "AttrValue": """
        1 AttrValue.ListValue list value
        2 bytes s value
    """,
    "AttrValue.ListValue": "7 repeated TensorShapeProto shape",
    "NodeDef": """
        1 string name
        2 string op
        3 repeated string input
        4 string device
        5 map AttrValue attr
    """,
    "GraphDef": "1 repeated NodeDef node",
    "RunMetadata": """
        1 StepStats step_stats
        4 repeated RunMetadata.FunctionGraphs function_graphs
    """,
    "RunMetadata.FunctionGraphs": "2 GraphDef pre_optimization_graph",
    "StepStats": "1 repeated DeviceStepStats dev_stats",
    "DeviceStepStats": """
        1 string device
        2 repeated NodeExecStats node_stats
    """,
    "NodeExecStats": """
        1 string node_name
        2 int64 all_start_micros
        5 int64 all_end_rel_micros
        6 repeated AllocatorMemoryUsed memory
        7 repeated NodeOutput output
    """,
    "AllocatorMemoryUsed": """
        1 string allocator_name
        2 int64 total_bytes
    """,
    "NodeOutput": """
        1 int32 slot
        3 TensorDescription tensor_description
    """,
    "TensorDescription": "2 TensorShapeProto shape",
}
_PACKAGE = "tensorboard"


def _message(name: str, fields: str) -> DescriptorProto:
    """One message with its fields, and what each of its maps is made of."""
    message = DescriptorProto(name=name.rpartition(".")[2])
    groups: list[str] = []
    for line in fields.strip().splitlines():
        words = line.split()
        number, kind = int(words.pop(0)), words.pop(0)
        is_repeated = kind in ("repeated", "map")
        typed = words.pop(0) if is_repeated else kind
        field = message.field.add(name=words.pop(0), number=number)
        field.label = field.LABEL_REPEATED if is_repeated else field.LABEL_OPTIONAL
        if kind == "map":
            entry = message.nested_type.add(name=f"{field.name.capitalize()}Entry")
            entry.options.map_entry = True
            for place, (part, its_type) in enumerate((("key", "string"), ("value", typed)), 1):
                _set_type(entry.field.add(name=part, number=place), its_type)
            typed = f"{name}.{entry.name}"
        _set_type(field, typed)
        if words:
            groups += [group for group in words if group not in groups]
            field.oneof_index = groups.index(words[0])
    for group in groups:
        message.oneof_decl.add(name=group)
    return message


def _set_type(field: FieldDescriptorProto, name: str) -> None:
    if name[0].isupper():
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{name}"
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{name.upper()}")


def _classes() -> dict[str, Any]:
    """The classes of all messages that are inside of no other.

    Of others there is none with protobuf's pure Python: they are made by adding to a field.
    """
    file = FileDescriptorProto(name="messages.proto", package=_PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for name, fields in _DECLARED.items():
        outer = name.rpartition(".")[0]
        beside = made[outer].nested_type if outer else file.message_type
        made[name] = beside.add()
        made[name].CopyFrom(_message(name, fields))
    # A pool of its own: in the common one the names may be those of TensorBoard, or TensorFlow.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in made
        if "." not in name
    }


if TYPE_CHECKING:
    AttrValue: TypeAlias = Any
    DeviceStepStats: TypeAlias = Any
    Event: TypeAlias = Any
    GraphDef: TypeAlias = Any
    NodeDef: TypeAlias = Any
    RunMetadata: TypeAlias = Any
    TaggedRunMetadata: TypeAlias = Any
    TensorShapeProto: TypeAlias = Any
else:
    _made = _classes()
    AttrValue = _made["AttrValue"]
    DeviceStepStats = _made["DeviceStepStats"]
    Event = _made["Event"]
    GraphDef = _made["GraphDef"]
    NodeDef = _made["NodeDef"]
    RunMetadata = _made["RunMetadata"]
    TaggedRunMetadata = _made["TaggedRunMetadata"]
    TensorShapeProto = _made["TensorShapeProto"]
