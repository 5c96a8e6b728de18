"""From frames to nested ONNX functions: one for all module calls that do the same.

What Netron 9 does with the names decides them. It shows of a function's name what follows the
last dot. A weight that is passed to a function of the same formal name, and to no other, it draws
inside; every other weight it lists on the box. So a module of modules that is called once has
formal inputs under their qualified names, and a leaf has ``weight`` and ``bias``.

That is so for tensors with values. Without values they are sparse tensors, which Netron draws
inside a function only where they are made there: a module of modules that is called once makes
them, as constants without an entry, in place of taking them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from modelviz_callbacks.graph import ModuleCall, Port
from modelviz_callbacks.writers.onnx.builder import Frame, Op, Value, ops_of
from modelviz_callbacks.writers.onnx.empty_tensors import constant_without_values

# Domain of the functions that stand for modules.
DOMAIN = "modules"

# The first version of the format with shapes inside functions.
IR_VERSION = 10


@dataclass(eq=False)
class _Function:
    """All frames that do the same."""

    name: str
    first: Frame
    count: int = 1


class Library:
    """The functions of one file."""

    def __init__(self, root: Frame, has_values: bool) -> None:
        """Finds out which frames do the same.

        Args:
            root: Everything, connected.
            has_values: Whether parameters and buffers have their values in the file.
        """
        self._has_values = has_values
        self._embedded: dict[Frame, frozenset[Value]] = {}
        self._by_key: dict[Any, _Function] = {}
        self._of_frame: dict[Frame, _Function] = {}
        self._names: set[str] = set()
        for item in root.items:
            if isinstance(item, Frame):
                self._add(item)

    def _add(self, frame: Frame) -> None:
        for item in frame.items:
            if isinstance(item, Frame):
                self._add(item)
        assert frame.call is not None
        key = (label_of(frame.call), frame.call.class_name, *self._body(frame))
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = _Function(self._name(frame.call), frame)
        else:
            found.count += 1
        self._of_frame[frame] = found

    def _body(self, frame: Frame) -> Iterator[Any]:
        """What a frame does, whatever the names of its values are."""
        places: dict[Value, int] = {}

        def place(value: Value | None) -> Any:
            if value is None:
                return None
            if value not in places:
                places[value] = len(places)
                return places[value], value.dtype, value.shape
            return places[value]

        yield tuple([place(value) for value in frame.inputs])
        for item in frame.items:
            if isinstance(item, Op):
                yield item.op_type, item.domain, item.attributes
                yield item.facts.get("source"), item.facts.get("op"), item.facts.get("class")
            else:
                yield self._of_frame[item].name
            yield tuple([place(value) for value in item.inputs])
            yield tuple([place(value) for value in item.outputs])
        yield tuple([place(value) for value in frame.outputs])

    def _name(self, call: ModuleCall) -> str:
        label, kind = _clean(label_of(call)), _clean(call.type_name)
        name = kind if label == kind else f"{kind}.{label}"
        number = 2
        while name in self._names:
            name, number = f"{kind}.{number}.{label}", number + 1
        self._names.add(name)
        return name

    @property
    def is_used(self) -> bool:
        """Whether there is any."""
        return bool(self._by_key)

    def name_of(self, frame: Frame) -> str:
        """The function that a frame is a call of."""
        return self._of_frame[frame].name

    def protos(self, imports: Sequence[onnx.OperatorSetIdProto]) -> list[onnx.FunctionProto]:
        """The functions, callees first."""
        made = []
        for function in self._by_key.values():
            frame = function.first
            body = Body(self, frame, self.is_solo(frame))
            assert frame.call is not None
            proto = onnx.FunctionProto(name=function.name, domain=DOMAIN)
            proto.doc_string = frame.call.class_name
            proto.opset_import.extend(imports)
            embedded = self.embedded(frame)
            taken = [value for value in frame.inputs if value not in embedded]
            proto.input.extend([body.names[value] for value in taken])
            proto.output.extend([body.names[value] for value in frame.outputs])
            proto.node.extend(body.nodes)
            proto.value_info.extend(body.value_infos())
            made.append(proto)
        return made

    def embedded(self, frame: Frame) -> frozenset[Value]:
        """Parameters and buffers that a frame's function makes for itself, without values."""
        if self._has_values or frame.is_leaf or frame.call is None or not self.is_solo(frame):
            return frozenset()
        if frame not in self._embedded:
            state = [value for value in frame.inputs if value.kind == "state"]
            known = frozenset(v for v in state if v.dtype and v.shape is not None)
            self._embedded[frame] = known
        return self._embedded[frame]

    def is_solo(self, frame: Frame) -> bool:
        """Whether this is the only call of its function, and so are all around it."""
        inner: Frame | None = frame
        while inner is not None and inner.parent is not None:
            if self._of_frame[inner].count > 1:
                return False
            inner = inner.parent
        return True


class Body:
    """The nodes of a function or of the whole graph, with names.

    Attributes:
        names: Of its values.
        nodes: In order.
    """

    def __init__(
        self, library: Library, frame: Frame, is_solo: bool, names: dict[Value, str] | None = None
    ) -> None:
        """Names everything.

        Args:
            library: The functions.
            frame: What is in it.
            is_solo: Whether it stands for this frame alone.
            names: Names that are given already.
        """
        self._library = library
        self._frame = frame
        self._is_solo = is_solo
        self.names: dict[Value, str] = names if names is not None else {}
        self._taken = set(self.names.values())
        self._numbers: dict[str, int] = {}
        self._node_names: set[str] = set()
        self._node_numbers: dict[str, int] = {}
        for value in frame.inputs:
            if value not in self.names:
                self.names[value] = self._unique(self._formal_name(value))
        self.nodes = [self._node(item) for item in frame.items]
        self.nodes[:0] = list(self._constants())

    def _unique(self, wanted: str) -> str:
        return unique(wanted, self._taken, self._numbers)

    def _formal_name(self, value: Value) -> str:
        call = self._frame.call
        if call is None:
            return value.label
        if value.kind == "state":
            if self._is_solo and not self._frame.is_leaf:
                return value.label
            return _within(value.label, call.path or "", ".")
        return self._port_name(call.inputs, value) or value.label.rpartition("/")[2]

    def _port_name(self, ports: Sequence[Port], value: Value) -> str:
        """What the module's forward calls a value that enters or leaves it; ``""`` if nothing."""
        for port in ports:
            known = port.ref.node in (value.label, *value.aliases)
            if known and port.path not in self._taken:
                return port.path
        return ""

    def _made_name(self, value: Value) -> str:
        call = self._frame.call
        if call is not None and value in self._frame.outputs:
            return self._port_name(call.outputs, value) or self._relative(value.label)
        return self._relative(value.label)

    def _relative(self, name: str) -> str:
        call = self._frame.call
        return name if call is None else _within(name, call.name, "/")

    def _constants(self) -> Iterator[onnx.NodeProto]:
        """What the function makes of the parameters and buffers, for the ops that read them."""
        wanted = self._library.embedded(self._frame)
        made: set[Value] = set()
        for item in self._frame.items if wanted else ():
            for value in self._inputs(item):
                if value in wanted and value not in made:
                    made.add(value)
                    assert self._frame.call is not None
                    name = f"{self._frame.call.label}/{value.label}"
                    proto = constant_without_values(value, self.names[value])
                    proto.name = unique(name, self._node_names, self._node_numbers)
                    reader = next(op for op in _ops_in(item) if value in op.inputs)
                    for key, text in reader.facts.items():
                        proto.metadata_props.add(key=key, value=text)
                    yield proto

    def _inputs(self, item: Op | Frame) -> list[Value | None]:
        embedded = frozenset() if isinstance(item, Op) else self._library.embedded(item)
        return [value for value in item.inputs if value not in embedded]

    def _node(self, item: Op | Frame) -> onnx.NodeProto:
        proto = onnx.NodeProto()
        given = self._inputs(item)
        proto.input.extend(["" if v is None else self.names[v] for v in given])
        for value in item.outputs:
            if value not in self.names:
                self.names[value] = self._unique(self._made_name(value))
        proto.output.extend([self.names[value] for value in item.outputs])
        if isinstance(item, Op):
            proto.op_type, proto.domain = item.op_type, item.domain
            name, facts = item.name, dict(item.facts)
            for attribute in item.attributes:
                proto.attribute.append(onnx.AttributeProto.FromString(attribute))
        else:
            assert item.call is not None
            proto.op_type, proto.domain = self._library.name_of(item), DOMAIN
            name = item.call.name
            facts = {"module": item.call.path or "", "class": item.call.class_name}
        proto.name = unique(self._relative(name), self._node_names, self._node_numbers)
        if not self._is_solo and self._frame.call is not None and self._frame.call.path:
            path = facts.get("module", "")
            facts["module"] = (
                "" if path == self._frame.call.path else _within(path, self._frame.call.path, ".")
            )
        for key, text in facts.items():
            if text:
                proto.metadata_props.add(key=key, value=text)
        return proto

    def value_infos(self, besides: Collection[Value] = ()) -> list[onnx.ValueInfoProto]:
        """Type and shape of each value, as far as they are known."""
        return [
            value_info(value, name)
            for value, name in self.names.items()
            if value not in besides and value.dtype
        ]


def _ops_in(item: Op | Frame) -> Iterator[Op]:
    return iter((item,)) if isinstance(item, Op) else ops_of(item)


def label_of(call: ModuleCall) -> str:
    """What a module call is called: the author's name, the class where that is a number.

    A function is called what it is called, whatever the number of the call.
    """
    if call.is_function:
        return call.type_name
    name = (call.path or call.label).rpartition(".")[2]
    return call.type_name if name.isdigit() or not name else name


def value_info(value: Value, name: str) -> onnx.ValueInfoProto:
    """What a file says about a value; a tensor without one shape is an opaque type to it."""
    info = onnx.ValueInfoProto(name=name)
    if value.is_sequence:
        info.type.sequence_type.elem_type.tensor_type.elem_type = value.dtype
    elif value.dtype:
        made = onnx.helper.make_tensor_type_proto(value.dtype, value.shape)
        info.type.CopyFrom(made)
    return info


def end_info(value: Value, name: str) -> onnx.ValueInfoProto:
    """`value_info` of an input or output of the whole, of which the format wants to know all."""
    info = value_info(value, name)
    is_tensor = info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape")
    if not is_tensor and not value.is_sequence:
        info.type.opaque_type.domain, info.type.opaque_type.name = "pytorch", "Tensor"
    return info


def inline_leaves(frame: Frame) -> None:
    """Puts modules of one op in their parent's place, unless the author named their weights' home.

    Args:
        frame: Changed in place; not yet connected.
    """
    items: list[Op | Frame] = []
    for item in frame.items:
        if isinstance(item, Frame):
            inline_leaves(item)
            if _is_one_op(item):
                for op in item.items:
                    assert isinstance(op, Op)
                    for value in op.outputs:
                        value.home = frame
                    items.append(op)
                continue
        items.append(item)
    frame.items = items


def _is_one_op(frame: Frame) -> bool:
    assert frame.call is not None
    ops = [item for item in frame.items if isinstance(item, Op)]
    if len(ops) < len(frame.items) or sum(op.op_type != "Constant" for op in ops) > 1:
        return False
    has_state = any(v is not None and v.kind == "state" for op in ops for v in op.inputs)
    return not has_state or label_of(frame.call) == frame.call.type_name


def _within(name: str, outer: str, mark: str) -> str:
    return name.removeprefix(f"{outer}{mark}") if outer else name


def unique(wanted: str, taken: set[str], numbers: dict[str, int]) -> str:
    """A name that is not taken yet, with a number at its end if need be; it is taken then."""
    name = wanted
    while name in taken or not name:
        number = numbers.get(wanted, 1)
        numbers[wanted] = number + 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def _clean(text: str) -> str:
    return re.sub(r"\W", "_", text) or "module"
