"""What a subgraph is, apart from its names: keys that are equal for equal subgraphs.

A subgraph is a run of items of one scope, or everything that a module call did. Its key lists
ops and module calls in execution order: what they are, their arguments, the shapes they
made, and how they are wired. Tensors from inside are named by their place, tensors from
outside, parameters, buffers and constants by the order of their first use. Left out are
names, source lines, devices, FLOPs and the ``requires_grad`` of activations; that of
parameters stays, because a frozen block is not the same as a trained one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from modelviz_callbacks.analysis.outline import HELD_KINDS, Item, Outline
from modelviz_callbacks.graph.functions import without_functions
from modelviz_callbacks.graph.model import ModuleCall, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of
from modelviz_callbacks.graph.values import (
    Items,
    Ref,
    SliceValue,
    TensorSpec,
    Value,
)

# Nested tuples of plain values, whose ``repr`` is the same in any process.
Key: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Subgraph:
    """The key of a subgraph and what the subgraph takes from outside.

    Attributes:
        digest: Equal for subgraphs with equal keys.
        externals: The tensors it reads from outside, by first use; of what may repeat one for
            each use.
        held: Names of the parameter, buffer and constant nodes it reads, by first use.
        gathered: The tensors from outside that it reads in lists, where lists may be of any
            length; see `Fingerprinter`.
    """

    digest: str
    externals: tuple[Ref, ...]
    held: tuple[str, ...]
    gathered: tuple[Ref, ...] = ()


def exact_literal(_node: Node, _position: int, value: Value) -> Key:
    """The key of a literal argument: itself."""
    return (type(value).__name__, str(value))


def exact_tensor(spec: TensorSpec) -> Key:
    """The key of an activation: what it looks like, wherever it lies."""
    return (spec.shape, spec.dtype, spec.layout)


def exact_held(spec: TensorSpec) -> Key:
    """The key of a parameter, buffer or constant, its trainable flag apart."""
    return (spec.shape, spec.dtype, spec.layout)


def architecture_fingerprinter(outline: Outline) -> Fingerprinter:
    """Keys that are equal at any batch size, with any weights; see `Analysis.fingerprint`.

    Functions are seen through: an architecture is the same however its code is cut into them.
    """
    if any(call.is_function for call in outline.graph.modules):
        outline = Outline(without_functions(outline.graph))
    inputs = outline.graph.of_kind("input")
    shapes = (node.outputs[0].shape for node in inputs)
    batch = next((shape[0] for shape in shapes if shape and shape[0] > 0), 0)

    def literal(node: Node, position: int, value: Value) -> Key:
        counts = type(value) is int and value > 0 and batch and value % batch == 0
        if counts and position == 0 and OpFact.TAKES_SHAPE in facts_of(node.target):
            return ("batch", value // batch)  # type: ignore[operator]
        return exact_literal(node, position, value)

    return Fingerprinter(outline, literal, lambda spec: (spec.dtype, spec.layout))


class Fingerprinter:
    """Gives subgraphs of one graph their keys; each one's is computed once.

    Args:
        outline: The graph's.
        literal: Key of one literal of a node; its position among the integers of the node's
            arguments is given.
        tensor: Key of an activation.
        held: Key of a parameter, buffer or constant.
        kind: ``whole``: of subgraphs as they are. ``copy``: of what may repeat: a constant may
            stand where another copy reads what was computed, as the first state of a loop does,
            and it does not count how the arguments of module calls are called. ``step``: of steps
            of one loop: moreover lists of tensors may be of any length, and each op is of one
            line of source.
    """

    def __init__(
        self,
        outline: Outline,
        literal: Callable[[Node, int, Value], Key] = exact_literal,
        tensor: Callable[[TensorSpec], Key] = exact_tensor,
        held: Callable[[TensorSpec], Key] = exact_held,
        kind: Literal["whole", "copy", "step"] = "whole",
    ) -> None:
        self.outline = outline
        self.literal = literal
        self.tensor = tensor
        self.held = held
        self.kind = kind
        self._bodies: dict[str, Subgraph] = {}
        self._runs: dict[tuple[str, int], Subgraph] = {}

    def body(self, scope: str) -> Subgraph:
        """The subgraph that a module call is, or the whole graph (``""``)."""
        if scope not in self._bodies:
            self._bodies[scope] = _SubgraphKey(self, scope, self.outline.items[scope]).body()
        return self._bodies[scope]

    def run(self, items: Sequence[Item]) -> Subgraph:
        """The subgraph that a run of consecutive items of one scope is; at least one item."""
        which = items[0].name, len(items)
        if which not in self._runs:
            scope = self.outline.scope_of(items[0])
            self._runs[which] = _SubgraphKey(self, scope, items).subgraph()
        return self._runs[which]

    def alone(self, item: Item) -> str:
        """A key of one item without its wiring, cheap to compare before anything else."""
        if isinstance(item, ModuleCall):
            return self.body(item.name).digest
        key = (item.op, item.target, item.kind, tuple(map(self.tensor, item.outputs)))
        return repr((*key, item.source) if self.kind == "step" else key)


class _SubgraphKey:
    """Writes one subgraph's key."""

    def __init__(self, fingerprinter: Fingerprinter, scope: str, items: Sequence[Item]) -> None:
        self.fingerprinter = fingerprinter
        self.outline = fingerprinter.outline
        self.graph = fingerprinter.outline.graph
        self.scope = scope
        self.items = items
        self.start = self.outline.position[items[0].name] if items else 0
        self.externals: dict[Ref, int] = {}
        self.uses: list[Ref] = []  # of these, where a tensor may be another one at each use
        self.held: dict[str, int] = {}
        self.gathered: dict[Ref, None] = {}

    def subgraph(self) -> Subgraph:
        """The key of the items."""
        return self._finish(tuple(map(self._item, self.items)))

    def body(self) -> Subgraph:
        """The key of a whole scope: its items and what enters and leaves it."""
        steps = tuple(map(self._item, self.items))
        call = self.graph.module_by_name.get(self.scope)
        if call is None:
            ends: Key = tuple(
                (node.path, self._ref(node.inputs[0])) for node in self.graph.of_kind("output")
            )
            return self._finish((self.graph.class_name, steps, ends))
        # What was handed in but not read is left out: a cache of past keys grows from layer
        # to layer and passes through all of them.
        inputs: Key = ()
        if self.fingerprinter.kind == "whole":
            ports = (port for port in call.inputs if port.ref in self.externals)
            inputs = tuple((port.path, self._ref(port.ref)) for port in ports)
        # What leaves a function is what others read: of the last one in a loop that is less.
        made = () if call.is_function else call.outputs
        outputs = tuple((port.path, self._ref(port.ref)) for port in made)
        return self._finish((call.class_name, steps, inputs, outputs))

    def _finish(self, key: Key) -> Subgraph:
        digest = blake2b(repr(key).encode(), digest_size=16).hexdigest()
        # What is read alone, too, is followed from there.
        alone = set(self.uses)
        gathered = tuple(ref for ref in self.gathered if ref not in alone)
        return Subgraph(digest, tuple(self.uses or self.externals), tuple(self.held), gathered)

    def _item(self, item: Item) -> Key:
        if isinstance(item, ModuleCall):
            inner = self.fingerprinter.body(item.name)
            taken = tuple(self._ref(ref) for ref in inner.externals)
            held = tuple(self._ref(Ref(name)) for name in inner.held)
            return (inner.digest, taken, held, self._gather(inner.gathered))
        count = 0
        arguments = []
        for argument in item.arguments:
            key, count = self._value(item, argument.value, count)
            arguments.append((argument.name, key))
        made = tuple(map(self.fingerprinter.tensor, item.outputs))
        source = item.source if self.fingerprinter.kind == "step" else None
        return (item.kind, item.op, item.target, tuple(arguments), made, item.writes, source)

    def _value(self, node: Node, value: Value, count: int) -> tuple[Key, int]:
        """The key of an argument, and how many integers came before."""
        if isinstance(value, Ref):
            return self._ref(value), count
        if isinstance(value, SliceValue):
            return self._values(node, "slice", (value.start, value.stop, value.step), count)
        if isinstance(value, Items):
            keys = tuple(key for key, _ in value.items)
            return self._values(node, keys, tuple(item for _, item in value.items), count)
        if isinstance(value, tuple):
            if self.fingerprinter.kind == "step" and any(isinstance(v, Ref) for v in value):
                return self._gather(v for v in value if isinstance(v, Ref)), count
            return self._values(node, "list", value, count)
        return self.fingerprinter.literal(node, count, value), count + (type(value) is int)

    def _values(
        self, node: Node, head: Key, values: tuple[Value, ...], count: int
    ) -> tuple[Key, int]:
        keys = [head]
        for value in values:
            key, count = self._value(node, value, count)
            keys.append(key)
        return tuple(keys), count

    def _gather(self, found: Iterable[Ref]) -> Key:
        """The key of a list of tensors of any length: those of them that are made here."""
        here: dict[Key, None] = {}
        for ref in found:
            kind = self.graph.by_name[ref.node].kind
            place = None if kind in HELD_KINDS else self.place(ref)
            if kind in ("parameter", "buffer"):
                here[self._ref(ref)] = None
            elif place is not None:
                here["here", place, ref.index] = None
            elif kind != "constant":
                self.gathered[ref] = None
        return ("gathered", *here)

    def _ref(self, ref: Ref) -> Key:
        node = self.graph.by_name[ref.node]
        if node.kind == "constant" and self.fingerprinter.kind != "whole":
            return self._external(ref)
        if node.kind in HELD_KINDS:
            spec = node.outputs[0]
            look = (node.kind, self.fingerprinter.held(spec), spec.requires_grad)
            return ("held", self.held.setdefault(node.name, len(self.held)), look)
        place = self.place(ref)
        if place is not None:
            return ("here", place, ref.index)
        return self._external(ref)

    def _external(self, ref: Ref) -> Key:
        """The key of a tensor from outside; which ones are the same is compared apart of copies.

        Of the first step of a loop two may be the same that are two later on: zeros.
        """
        look = self.fingerprinter.tensor(self.graph.spec(ref))
        if self.fingerprinter.kind != "whole":
            self.uses.append(ref)
            return ("from", look)
        return ("from", self.externals.setdefault(ref, len(self.externals)), look)

    def place(self, ref: Ref) -> tuple[int, ...] | None:
        """Where a tensor is made, as positions from this subgraph's first item on."""
        return place_in(self.outline, ref, self.scope, self.start, len(self.items))


def place_in(
    outline: Outline, ref: Ref, scope: str, start: int, length: int
) -> tuple[int, ...] | None:
    """Where a tensor is made within some consecutive items of a scope.

    Args:
        outline: The graph's.
        ref: Any tensor.
        scope: The items' scope.
        start: Position of the first item.
        length: How many items.

    Returns:
        The item's position from the first on, and the positions below it; ``None`` if the
        tensor is made elsewhere.
    """
    if outline.graph.by_name[ref.node].kind in ("input", *HELD_KINDS):
        return None
    path = outline.path_below(ref.node, scope)
    if path is None:
        return None
    first, *rest = (outline.position[name] for name in path)
    return (first - start, *rest) if start <= first < start + length else None
