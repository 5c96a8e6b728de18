"""What goes into an ONNX file, before it has names: values, ops, and module calls around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import onnx

from modelviz_callbacks.graph import ModelGraph, ModuleCall

_FLOAT, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE

# ONNX's element types by torch's names for them.
_ELEMENT_TYPES = {
    "float32": _FLOAT,
    "float64": _DOUBLE,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "float8_e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
    "float8_e4m3fnuz": onnx.TensorProto.FLOAT8E4M3FNUZ,
    "float8_e5m2": onnx.TensorProto.FLOAT8E5M2,
    "float8_e5m2fnuz": onnx.TensorProto.FLOAT8E5M2FNUZ,
    "int8": onnx.TensorProto.INT8,
    "int16": onnx.TensorProto.INT16,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "uint8": onnx.TensorProto.UINT8,
    "uint16": onnx.TensorProto.UINT16,
    "uint32": onnx.TensorProto.UINT32,
    "uint64": onnx.TensorProto.UINT64,
    "bool": onnx.TensorProto.BOOL,
    "qint8": onnx.TensorProto.INT8,
    "quint8": onnx.TensorProto.UINT8,
    "qint32": onnx.TensorProto.INT32,
}
# Sizes of a tensor; ``None`` for one that depends on data, or for all of them.
Shape: TypeAlias = "tuple[int | None, ...] | None"

# Standard ops know no complex numbers: a last dimension of two stands for them.
_COMPLEX = {"complex32": onnx.TensorProto.FLOAT16, "complex64": _FLOAT, "complex128": _DOUBLE}


def element_type(dtype: str, shape: Sequence[int] | None) -> tuple[int, Shape]:
    """ONNX's element type for a dtype, and the shape of a tensor of it.

    Args:
        dtype: torch's name without the prefix: ``"float32"``.
        shape: Of the tensor; ``None``: not known.

    Returns:
        The type (0, undefined, where ONNX has none) and the shape; complex numbers are pairs.
    """
    if dtype in _COMPLEX:
        return _COMPLEX[dtype], None if shape is None else (*shape, 2)
    return _ELEMENT_TYPES.get(dtype, 0), None if shape is None else tuple(shape)


@dataclass(eq=False, slots=True)
class Value:
    """One tensor in the file.

    Attributes:
        dtype: ONNX's element type; 0 if unknown.
        shape: Its shape; ``None`` if unknown.
        label: What to call it: for state and inputs the name, else that of the op.
        kind: ``"input"`` of the graph, ``"state"`` (an initializer), or ``"made"`` by an op.
        home: The frame that it is made in; ``None`` for inputs and state.
        aliases: Other torch calls whose result it is too, without an op of their own.
        is_sequence: Whether it is a sequence of tensors of that type.
    """

    dtype: int
    shape: Shape
    label: str
    kind: Literal["input", "state", "made"] = "made"
    home: Frame | None = None
    aliases: tuple[str, ...] = ()
    is_sequence: bool = False


@dataclass(eq=False, slots=True)
class Op:
    """One ONNX node.

    Attributes:
        op_type: Its type.
        domain: ``""`` for the standard ops.
        inputs: What it reads; ``None`` for one left out.
        outputs: What it makes.
        attributes: Serialised ``AttributeProto`` messages, by name.
        name: The torch call it comes from, with a suffix if that took several.
        facts: Metadata for people.
    """

    op_type: str
    domain: str
    inputs: Sequence[Value | None]
    outputs: Sequence[Value]
    attributes: tuple[bytes, ...]
    name: str
    facts: Mapping[str, str]


@dataclass(eq=False, slots=True)
class Frame:
    """One stretch of one module call.

    Attributes:
        call: The module call; ``None`` for the whole.
        parent: The frame around it.
        depth: How many frames are around it.
        items: Ops and frames, in order.
        is_leaf: Whether no other module is called in it.
        inputs: What is read inside and made outside; filled when all is there.
        outputs: What is made inside and read outside; likewise.
    """

    call: ModuleCall | None = None
    parent: Frame | None = None
    depth: int = 0
    items: list[Op | Frame] = field(default_factory=list)
    is_leaf: bool = True
    inputs: dict[Value, None] = field(default_factory=dict)
    outputs: dict[Value, None] = field(default_factory=dict)


class GraphBuilder:
    """Where ops are put, in order of execution, under the module calls that they belong to.

    Attributes:
        root: The whole.
        graph: The model graph.
        scope: The module call that is the whole.
    """

    def __init__(self, graph: ModelGraph, scope: str) -> None:
        """An empty one.

        Args:
            graph: Says which module calls there are.
            scope: The module call that is the whole; ``""``: the model's own forward.
        """
        self.root = Frame()
        self.graph = graph
        self.scope = scope
        self._now = self.root
        self._chains: dict[str, list[ModuleCall]] = {}
        self.name = ""
        self.facts: Mapping[str, str] = {}

    def go_to(self, scope: str, name: str, facts: Mapping[str, str]) -> None:
        """The next ops come from a torch call.

        Args:
            scope: The module call it was made in.
            name: Its name in the graph.
            facts: Metadata for its ops.
        """
        self.name, self.facts = name, facts
        chain = self._chain(scope)
        frame = self._now
        while frame.parent is not None and not (
            frame.depth <= len(chain) and frame.call is chain[frame.depth - 1]
        ):
            frame = frame.parent
        for call in chain[frame.depth :]:
            inner = Frame(call, frame, frame.depth + 1)
            frame.items.append(inner)
            frame.is_leaf = False
            frame = inner
        self._now = frame

    def enter_call(self) -> None:
        """The next ops are those of one torch call, which is a box of its own until it is left."""
        call = ModuleCall(self.name, None, self.facts.get("op", ""), kind="function")
        inner = Frame(call, self._now, self._now.depth + 1)
        self._now.items.append(inner)
        self._now.is_leaf = False
        self._now = inner

    def leave_call(self) -> None:
        """The call entered last is over."""
        assert self._now.parent is not None
        self._now = self._now.parent

    def stay(self, name: str) -> None:
        """The next ops come from a call that has no name in the graph."""
        self.name, self.facts = name, {}

    def _chain(self, scope: str) -> list[ModuleCall]:
        if scope not in self._chains:
            modules = self.graph.module_by_name
            around = []
            for name in self.graph.scopes_of(scope):
                if name == self.scope:
                    break
                if modules[name].called:
                    around.append(modules[name])
            self._chains[scope] = around[::-1]
        return self._chains[scope]

    def value(self, dtype: str, shape: Sequence[int] | None, label: str = "") -> Value:
        """A new value for the next op to make; ``dtype`` is torch's name."""
        kind, sizes = element_type(dtype, shape)
        return Value(kind, sizes, label or self.name)

    def add(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value],
        attributes: tuple[bytes, ...] = (),
        domain: str = "",
    ) -> None:
        """Puts an op here; one whose output is not the call's gets a name below the call's."""
        for value in outputs:
            value.home = self._now
        name = (outputs[0].label if outputs else self.name) or op_type
        self._now.items.append(Op(op_type, domain, inputs, outputs, attributes, name, self.facts))

    def inner(self, op_type: str, dtype: int, shape: Shape) -> Value:
        """A new value for an op to make that is only one step of the call."""
        return Value(dtype, shape, f"{self.name}/{op_type}")

    def sequence(self, members: Sequence[Value], label: str) -> Value:
        """Puts several tensors of one dtype together; they are one value after that.

        Args:
            members: The tensors.
            label: What to call it.
        """
        # Where they come together, so that one value leaves the modules around.
        self._now = _around([value.home or self.root for value in members])
        self.name, self.facts = label, {}
        made = Value(members[0].dtype, None, label, is_sequence=True)
        self.add("SequenceConstruct", members, (made,))
        return made

    def constant(self, tensor: onnx.TensorProto) -> Value:
        """Puts a constant here."""
        made = self.inner("Constant", tensor.data_type, tuple(tensor.dims))
        self.add("Constant", (), (made,), attributes(value=tensor))
        return made


def _around(frames: Sequence[Frame]) -> Frame:
    """The innermost frame that has all of these inside it."""
    chains = [[*_outwards(frame)][::-1] for frame in frames]
    shared: list[Frame] = [
        level[0]
        for level in zip(*chains, strict=False)
        if all(frame is level[0] for frame in level)
    ]
    return shared[-1]


def _outwards(frame: Frame | None) -> Iterator[Frame]:
    while frame is not None:
        yield frame
        frame = frame.parent


def attributes(**values: Any) -> tuple[bytes, ...]:
    """Attributes of an op from Python values."""
    made = [onnx.helper.make_attribute(name, value) for name, value in sorted(values.items())]
    return tuple(attribute.SerializeToString(deterministic=True) for attribute in made)


def ops_of(frame: Frame) -> Iterator[Op]:
    """The ops in a frame and in the frames inside it, in order."""
    for item in frame.items:
        if isinstance(item, Op):
            yield item
        else:
            yield from ops_of(item)


def keep_needed(frame: Frame, needed: set[Value]) -> None:
    """Drops the ops that nothing needs, and frames left empty.

    Args:
        frame: Changed in place.
        needed: The values that are wanted; grows by what these are made of.
    """
    kept: list[Op | Frame] = []
    for item in reversed(frame.items):
        if isinstance(item, Frame):
            keep_needed(item, needed)
            if item.items:
                kept.append(item)
        elif any(value in needed for value in item.outputs):
            needed.update(value for value in item.inputs if value is not None)
            kept.append(item)
    frame.items = kept[::-1]


def connect(root: Frame, outputs: Sequence[Value]) -> None:
    """Fills in what goes into each frame and comes out of it.

    Args:
        root: Everything.
        outputs: What the whole gives back.
    """
    _connect(root)
    for value in outputs:
        _lead_out(value, root)
    _put_state_last(root)


def _put_state_last(frame: Frame) -> None:
    frame.inputs = dict.fromkeys(sorted(frame.inputs, key=lambda value: value.kind == "state"))
    for item in frame.items:
        if isinstance(item, Frame):
            _put_state_last(item)


def _connect(frame: Frame) -> None:
    for item in frame.items:
        if isinstance(item, Frame):
            _connect(item)
            continue
        for value in item.inputs:
            if value is None:
                continue
            around = _lead_out(value, frame)
            inner: Frame | None = frame
            while inner is not None and inner is not around:
                inner.inputs.setdefault(value)
                inner = inner.parent


def _lead_out(value: Value, reader: Frame) -> Frame | None:
    """Makes a value an output of the frames it leaves; returns the one that has both."""
    home, other = value.home, reader
    while home is not None and home is not other:
        if home.depth >= other.depth:
            home.outputs.setdefault(value)
            assert home.parent is not None
            home = home.parent
        else:
            assert other.parent is not None
            other = other.parent
    return home
