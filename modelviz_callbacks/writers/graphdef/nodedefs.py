"""The nodes of the op graph, as TensorBoard's graph dashboard reads them.

What a field of ``NodeDef`` does there (found in TensorBoard 2.21's dashboard source):

- ``name`` places the node (see ``layout``); ``op`` is its operation; an op type that contains
  ``Const`` is drawn as a small circle at whoever reads it: right for parameters and buffers;
- ``input`` is ``node`` or ``node:k`` for output ``k``;
- ``_output_shapes`` labels the edges and makes big tensors thick;
- ``device`` is listed only if it looks like ``/device:CPU:0``;
- ``_XlaCluster`` is a free label for one of the colourings: here, whether the op trains
  anything;
- every other attribute is a row of the card, non-ASCII shown as octal escapes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from modelviz_callbacks.analysis.costs import is_uncounted
from modelviz_callbacks.graph import (
    Items,
    ModelGraph,
    ModuleCall,
    Node,
    PythonText,
    Ref,
    SliceValue,
    TensorSpec,
)
from modelviz_callbacks.graph.values import (
    Value,
)
from modelviz_callbacks.tensorboard_messages import (
    AttrValue,
    GraphDef,
    NodeDef,
    TensorShapeProto,
)

LONGEST_ATTRIBUTE = 200

TRAINING_STATES = ("trainable", "frozen")  # the stronger one first

# TensorBoard folds this many numbered ops of one type in a box into one stack.
_FOLDED = 5

_TRAILING_NUMBER = re.compile(r"^\D*?(\d*)$")

_OP_TYPES = {
    "input": "Input",
    "parameter": "Parameter(Const)",
    "buffer": "Buffer(Const)",
    "constant": "Constant",
    "output": "Output",
}


def ascii_text(text: str, longest: int = LONGEST_ATTRIBUTE) -> bytes:
    """Text for an attribute: ASCII, on one line, at most ``longest`` characters."""
    if text.isascii() and text.isprintable():
        if len(text) <= longest:
            return text.encode()
    else:
        text = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    return (text if len(text) <= longest else f"{text[: longest - 3]}...").encode()


def set_texts(node_def: NodeDef, texts: Iterable[tuple[str, str]]) -> None:
    """Adds rows to a node's card."""
    attributes = node_def.attr
    for key, text in texts:
        attributes[_key(key)].s = ascii_text(text)


# The same few keys, types and devices come again with every node; a model may have 100,000.
@lru_cache(maxsize=1024)
def _key(text: str) -> str:
    return ascii_text(text, 60).decode()


def set_output_shapes(node_def: NodeDef, specs: Sequence[TensorSpec]) -> None:
    """Gives the edges that leave a node their labels."""
    if specs:
        shapes = tuple([spec.shape for spec in specs])
        node_def.attr["_output_shapes"].CopyFrom(_shapes_value(shapes))


@lru_cache(maxsize=1024)
def _shapes_value(shapes: tuple[tuple[int, ...] | None, ...]) -> AttrValue:
    value = AttrValue()
    for shape in shapes:
        if shape is None:
            value.list.shape.add(unknown_rank=True)
        else:
            value.list.shape.append(shape_proto(shape))
    return value


def set_training_state(node_def: NodeDef, state: str) -> None:
    """Colours a node by whether it trains anything; without a state it stays grey."""
    if state:
        node_def.attr["_XlaCluster"].s = state.encode()


@lru_cache(maxsize=1024)
def shape_proto(shape: tuple[int, ...]) -> TensorShapeProto:
    """A shape, sizes in elements; to be copied, never changed."""
    return TensorShapeProto(dim=[{"size": size} for size in shape])


@lru_cache(maxsize=64)
def device_name(device: str) -> str:
    """A torch device as TensorBoard lists it: ``/device:CPU:0``, ``/device:cuda:1``."""
    kind, _, number = device.partition(":")
    return f"/device:{'CPU' if kind == 'cpu' else kind}:{number or 0}"


def spec_text(spec: TensorSpec) -> str:
    """A tensor in words: ``float32 [64, 1, 28, 28]``."""
    layout = "" if spec.layout == "strided" else f" {spec.layout}"
    shape = "[unknown shape]" if spec.shape is None else str(list(spec.shape))
    return f"{spec.dtype} {shape}{layout}"


@lru_cache(maxsize=1024)
def _plain_type(op: str) -> str:
    """An op's name without the words that stand for circles, chart icons and side notes."""
    return re.sub("Const|Summary|NoOp", lambda match: match[0].lower(), op)


def ref_text(name: str, index: int) -> str:
    """An output of a node, as the inputs of others name it."""
    return f"{name}:{index}" if index else name


def value_text(value: Value, room: int = LONGEST_ATTRIBUTE) -> str:
    """An argument in words; a tensor is the name of the node that made it, as in the graph.

    Stops adding items once ``room`` characters are full: an argument may hold thousands.
    """
    if isinstance(value, Ref):
        return ref_text(value.node, value.index)
    if isinstance(value, (PythonText, str)):
        return str(value)[: room + 1]
    if isinstance(value, SliceValue):
        ends = (value.start, value.stop, *(() if value.step is None else (value.step,)))
        return ":".join("" if end is None else value_text(end, room) for end in ends)
    if isinstance(value, Items):
        pairs = (f"{key}: {value_text(item, room)}" for key, item in value.items)
        return f"{{{_joined(pairs, room)}}}"
    if isinstance(value, tuple):
        return f"({_joined((value_text(item, room) for item in value), room)})"
    return repr(value)


def _joined(texts: Iterable[str], room: int) -> str:
    shown, length = [], 0
    for text in texts:
        shown.append(text)
        length += len(text) + 2
        if length > room:
            break
    return ", ".join(shown)


class NodeDefs:
    """Turns the nodes of one graph into ``NodeDef`` messages.

    Args:
        graph: The graph.
        names: Each node's name in TensorBoard.
    """

    def __init__(self, graph: ModelGraph, names: Mapping[str, str]) -> None:
        self._graph = graph
        self._names = names
        trained = {
            name: info.trainable for info in graph.parameters for name in (info.name, *info.aliases)
        }
        self._states = {
            node.name: TRAINING_STATES[not trained.get(node.path, node.outputs[0].requires_grad)]
            for node in graph.of_kind("parameter")
        }
        self._calls = Counter(call.path for call in graph.modules if call.called and call.path)
        self._alike = Counter((node.scope, node.op) for node in graph.nodes if node.is_call)
        self._module_rows = {call.name: self._describe_module(call) for call in graph.modules}
        self._default_device = next((n.outputs[0].device for n in graph.nodes if n.outputs), "cpu")

    def add(self, node: Node, placed: str, graph_def: GraphDef) -> NodeDef:
        """Adds one node under its name in TensorBoard."""
        inputs = node.inputs
        node_def: NodeDef = graph_def.node.add(
            name=placed, op=self.op_type(node), device=device_name(self.device(node))
        )
        if inputs:
            names = self._names
            node_def.input.extend([ref_text(names[ref.node], ref.index) for ref in inputs])
        set_output_shapes(node_def, node.outputs)
        set_training_state(node_def, self.training_state(node, inputs))
        set_texts(node_def, self.rows(node))
        return node_def

    def module_rows(self, call: str) -> Mapping[str, str]:
        """The rows of a card that tell of a module call; none for the model's own forward."""
        return self._module_rows.get(call, {})

    def device(self, node: Node) -> str:
        """Where a node's first output is; else its first input, else the graph's first tensor."""
        if node.outputs:
            return node.outputs[0].device
        first = next(iter(node.inputs), None)
        return self._default_device if first is None else self._graph.spec(first).device

    def training_state(self, node: Node, inputs: Iterable[Ref]) -> str:
        """``trainable`` or ``frozen``: the parameters it reads, or is; ``""`` without any."""
        if node.kind == "parameter":
            return self._states[node.name]
        found = {self._states[ref.node] for ref in inputs if ref.node in self._states}
        return next((state for state in TRAINING_STATES if state in found), "") if found else ""

    def op_type(self, node: Node) -> str:
        """What the card calls the operation."""
        if not node.is_call:
            return _OP_TYPES[node.kind]
        name = _plain_type(node.op)
        if node.kind == "opaque":
            return f"opaque {name}"
        # The dashboard stacks relu_1 ... relu_5 into one box, which ties a chain into knots. Ops
        # of unequal type are never stacked, and a space at the end does not show.
        if self._alike[node.scope, node.op] < _FOLDED:
            return name
        number = _TRAILING_NUMBER.match(node.label)
        return f"{name} " if number and int(number[1] or 0) % 2 else name

    def rows(self, node: Node) -> Iterator[tuple[str, str]]:
        """The rows of a node's card; of two with one name the last one counts."""
        # Our own keys hold a space or a capital, which the names of arguments hardly ever do.
        for argument in node.arguments:
            yield argument.name, value_text(argument.value)
        yield from self._tensor_rows(node)
        if node.is_call:
            yield from self.module_rows(node.scope).items()
        if node.is_call and node.target != f"torch.{node.op}":
            yield "torch function", node.target
        if node.source is not None:
            yield "source line", f"{node.source} in {node.source.function}"
        if node.flops is not None:
            yield "FLOPs", f"{node.flops:,}"
        elif is_uncounted(node):
            yield "FLOPs", "at least 0: how much it multiplies is not known"
        if node.writes:
            yield "in place", "overwrites one of its arguments"
        if node.reads_value:
            yield "reads values", "Python looked at them: other data may take another path"
        if node.kind == "opaque":
            yield "opaque call", "what happens inside is not recorded"

    def _tensor_rows(self, node: Node) -> Iterator[tuple[str, str]]:
        if node.is_call:
            for number, spec in enumerate(node.outputs[:8]):
                key = f"output dtype {number}" if len(node.outputs) > 1 else "output dtype"
                yield key, spec.dtype if spec.layout == "strided" else f"{spec.dtype} {spec.layout}"
            return
        if node.path:
            yield "path", node.path
        if node.outputs:
            spec = node.outputs[0]
            yield "dtype", spec.dtype
            yield "shape", "unknown" if spec.shape is None else str(list(spec.shape))
        if node.kind == "parameter":
            yield "trainable", str(self._states[node.name] == "trainable")
        if node.aliases:
            yield "tied to", ", ".join(node.aliases)

    def _describe_module(self, call: ModuleCall) -> dict[str, str]:
        if call.is_function:
            return {"function": call.class_name}
        where = call.path if call.path is not None else "not part of the model"
        rows = {"module path": f"{where} ({call.type_name})"}
        if not call.training:
            rows["module mode"] = "evaluation"
        total = self._calls[call.path] if call.path else 1
        if total > 1:
            rows["module reused"] = f"call {call.call_index + 1} of {total} of this module"
        return rows
