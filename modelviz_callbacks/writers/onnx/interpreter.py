"""One run over a program without data: each call put on a builder in standard ops."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx

from modelviz_callbacks.graph import Node, Ref
from modelviz_callbacks.writers.onnx.builder import GraphBuilder, Value
from modelviz_callbacks.writers.onnx.convert import Source
from modelviz_callbacks.writers.onnx.exporter_internals import (
    PAD_PACKED,
    MissingInternal,
    set_grad_enabled,
    storage_key,
    version_of,
)
from modelviz_callbacks.writers.onnx.functionalize import Memory, Unreadable
from modelviz_callbacks.writers.onnx.gradients import HOOK, gradient
from modelviz_callbacks.writers.onnx.replacements.packed_rnn import pad_packed
from modelviz_callbacks.writers.onnx.replacements.table import functions
from modelviz_callbacks.writers.onnx.stand_ins import META, StandIns, is_array
from modelviz_callbacks.writers.onnx.translation.calls import Call, Target, TensorPlace, tensors_in
from modelviz_callbacks.writers.onnx.translation.fallback_nodes import (
    DOMAIN,
    facts_of,
    plain_attributes,
)
from modelviz_callbacks.writers.onnx.translation.joined import GrowingSequences, joined_without_data
from modelviz_callbacks.writers.onnx.translation.op_translation import subgraph_of

_TO_DEVICE = ("cpu", "cuda")
_PADS = frozenset(functions(PAD_PACKED))
_RESIZES = frozenset(functions("Tensor.resize_ Tensor.resize_as_ torch.resize_as_"))
_SETS = frozenset(functions("Tensor.set_"))
# The exporter takes the tensor for a contiguous one.
_STRIDED, _STRIDED_HERE, _STRIDED_COPY = [
    frozenset(functions(f"torch.{name} Tensor.{name} aten.{name} aten.{name}.default"))
    for name in ("as_strided", "as_strided_", "as_strided_copy")
]
_VIEWS = frozenset(functions("Tensor.view aten.view aten.view.dtype"))
_RESHAPES = frozenset(functions("torch.reshape Tensor.reshape Tensor.view"))


@dataclass
class Walked:
    """What a run over a program gave.

    Attributes:
        inputs: What it takes.
        outputs: What it gives.
        state: Parameters, buffers and constants by their qualified names, and the tensors;
            ``None`` for one that only the graph knows.
        untranslated: torch's names of the calls that have no form in standard ops.
    """

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    state: dict[str, tuple[Value, torch.Tensor | None]] = field(default_factory=dict)
    untranslated: list[str] = field(default_factory=list)


def walk(source: Source, builder: GraphBuilder) -> Walked:
    """Puts a program's calls on a builder.

    Args:
        source: The program; its state may be without data.
        builder: With the graph of the same recording.

    Returns:
        What goes in and out.

    A call that cannot be made without data (a part nobody saw inside, a tensor that is no plain
    array) is a node as torch calls it, with the results that the graph tells of; the calls
    around it are not affected.
    """
    with torch.no_grad():
        return _Walk(source, builder).run()


class _Unknown:
    """The result of a call of which the program knows nothing."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Walk:
    def __init__(self, source: Source, builder: GraphBuilder) -> None:
        self._source = source
        self._builder = builder
        self._memory = Memory(builder)
        self._sequences = GrowingSequences(builder)
        self._env: dict[fx.Node, Any] = {}
        self._state: dict[int, torch.Tensor] = {}
        self._stand_ins = StandIns()
        self._of_ref: dict[Ref, torch.Tensor] = {}
        self._originals: list[torch.Tensor] = []
        self._results: dict[Any, tuple[type, tuple[Any, ...]]] = {}
        self._walked = Walked()
        self._has_unknown = False
        self._has_opaque = any(builder.graph.of_kind("opaque"))

    def run(self) -> Walked:
        program = self._source.program
        assert isinstance(program, fx.GraphModule)
        for node in program.graph.nodes:
            if node in self._env:
                continue
            if node.op == "placeholder":
                self._env[node] = self._input()
            elif node.op == "get_attr":
                self._env[node] = self._attribute(program, node.target)
            elif node.op == "output":
                self._output(node)
            else:
                self._call(node)
        return self._walked

    # --- what there is before anything runs

    def _input(self) -> torch.Tensor:
        index = len(self._walked.inputs)
        path = self._source.inputs[index]
        ref = self._entering.get(path)
        spec = None if ref is None else self._builder.graph.spec(ref)
        tensor = self._stand_ins.for_example(self._source.examples[index], spec)
        if ref is not None:
            self._of_ref[ref] = tensor
        value = self._new(tensor, path, "input")
        self._walked.inputs.append(value)
        return tensor

    @cached_property
    def _entering(self) -> dict[str, Ref]:
        """What enters the program, by its path there."""
        graph, scope = self._builder.graph, self._builder.scope
        if scope:
            return {port.path: port.ref for port in graph.module_by_name[scope].inputs}
        return {node.path: Ref(node.name) for node in graph.of_kind("input")}

    @cached_property
    def _leaving(self) -> list[Ref]:
        """What leaves it, in order."""
        graph, scope = self._builder.graph, self._builder.scope
        if scope:
            return [port.ref for port in graph.module_by_name[scope].outputs]
        return [node.inputs[0] for node in graph.of_kind("output")]

    @cached_property
    def _state_refs(self) -> dict[str, Ref]:
        state = self._builder.graph.of_kind("parameter", "buffer", "constant")
        return {node.path: Ref(node.name) for node in state if node.path}

    def _output(self, node: fx.Node) -> None:
        given = [item for item in node.args[0] if isinstance(item, fx.Node)]  # type: ignore[union-attr]
        refs = self._leaving if len(self._leaving) == len(given) else [None] * len(given)
        for item, ref in zip(given, refs, strict=True):
            value = self._env[item]
            tensor = value if isinstance(value, torch.Tensor) else self._unseen(ref)
            self._walked.outputs.append(self._now(tensor))

    def _now(self, tensor: torch.Tensor) -> Value:
        """The value a tensor has now; the last one known where that cannot be told."""
        try:
            return self._memory.read(tensor)
        except Unreadable:
            return self._memory.last(tensor)

    def _new(self, tensor: torch.Tensor, label: str, kind: Any) -> Value:
        value = self._builder.value(_dtype(tensor), self._shape(tensor), label)
        value.kind = kind
        self._memory.define(tensor, value)
        return value

    def _attribute(self, program: fx.GraphModule, target: Any) -> Any:
        found: Any = program
        for step in target.split("."):
            found = getattr(found, step)
        if not isinstance(found, torch.Tensor):
            return found
        if id(found) not in self._state:
            self._originals.append(found)
            made = self._state[id(found)] = self._stand_ins.for_tensor(found)
            name = self._source.state.get(target, target)
            self._walked.state[name] = self._new(made, name, "state"), found
            if name in self._state_refs:
                self._of_ref[self._state_refs[name]] = made
        return self._state[id(found)]

    def _shape(self, tensor: torch.Tensor) -> tuple[int, ...] | None:
        if self._stand_ins.is_carrier(tensor) and not tensor.dim():
            return None
        return tuple(tensor.shape)

    # --- what only the graph knows

    def _unseen(self, ref: Ref | None) -> torch.Tensor:
        """What the program cannot make: the graph knows the call that made it."""
        if ref is None:
            made = self._stand_ins.for_spec(None)
            value = Value(0, None, self._builder.name)
            self._builder.add("unknown", (), (value,), (), DOMAIN)
            self._walked.untranslated.append("code out of sight")
            self._memory.define(made, value)
            return made
        if ref not in self._of_ref:
            node = self._builder.graph.by_name[ref.node]
            if node.is_call:
                self._put_recorded(node)
            else:
                self._of_ref[ref] = self._put_given(node)
        return self._of_ref[ref]

    def _put_recorded(self, node: Node) -> None:
        """Puts a call of the graph, as torch has it."""
        builder = self._builder
        inputs = [self._now(self._unseen(ref)) for ref in node.inputs]
        builder.go_to(node.scope, node.name, facts_of(node, builder.graph))
        values = [builder.value(spec.dtype, spec.shape) for spec in node.outputs]
        builder.add(node.op, inputs, values, plain_attributes(node), DOMAIN)
        self._walked.untranslated.append(node.target or node.op)
        for index, (spec, value) in enumerate(zip(node.outputs, values, strict=True)):
            made = self._of_ref[Ref(node.name, index)] = self._stand_ins.for_spec(spec)
            self._memory.define(made, value)

    def _put_given(self, node: Node) -> torch.Tensor:
        """State that is out of the program's reach (of a scripted module)."""
        name = node.path or node.name
        made = self._stand_ins.for_spec(node.outputs[0])
        if name in self._walked.state:
            self._memory.define(made, self._walked.state[name][0])
        else:
            self._walked.state[name] = (
                self._new(made, name, "state"),
                self._source.tensors.get(name),
            )
        return made

    # --- calls

    def _value(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self._env[node])

    def _asked(self, node: fx.Node) -> tuple[Target, tuple[Any, ...], dict[str, Any]]:
        """What a node calls, with what."""
        slope = gradient(node, self._env.get, self._writes)
        if slope is not None:
            return slope.function, tuple([self._env[item] for item in slope.given]), {}
        return _placed(node.target, self._value(node.args), self._value(node.kwargs))

    def _writes(self, node: fx.Node) -> bool:
        recorded = self._recorded(node)
        return recorded is not None and bool(recorded.writes)

    def _call(self, node: fx.Node) -> None:
        if node.target is set_grad_enabled or node.target == HOOK:
            return
        recorded = self._recorded(node)
        self._find_unseen(node, recorded)
        target, args, kwargs = self._asked(node)
        moves = target is setattr and args[1] == "data"
        if moves:
            self._memory.define(args[0], self._memory.read(args[2]))
        given: dict[int, tuple[int, torch.Tensor]] = {}
        arguments = _with_places(args, given), _with_places(kwargs, given)
        tensors = [tensor for _, tensor in given.values()]
        call = Call(target, *arguments, _described(tensors), (), (), ())
        self._go_to(node, recorded)
        result = joined_without_data(call, tensors)
        is_join = result is not None  # which writes to nothing, and is like no other call
        before = [] if is_join else [_state_of(tensor) for tensor in tensors]
        key = None if is_join else call.key()
        try:
            if recorded is not None and any(map(self._stand_ins.is_carrier, tensors)):
                raise Unreadable("no array of numbers")
            if result is None:
                result = self._made_before(key)
            if result is None:
                with META:
                    result = call.run(tensors, META)
                if recorded is not None and not all(map(is_array, tensors_in(result))):
                    raise Unreadable("no array of numbers")
        except MissingInternal:
            raise
        except Exception as error:
            self._as_recorded(node, call, tensors, recorded, error)
            return
        self._env[node] = result
        if moves:  # it lies on the other one's memory now
            self._memory.define(args[0], self._memory.last(args[2]))
        found = list(tensors_in(result))
        fresh = [i for i, tensor in enumerate(found) if tensor not in self._memory]
        fresh = list({id(found[i]): i for i in reversed(fresh)}.values())[::-1]
        written = [i for i, state in enumerate(before) if _state_of(tensors[i]) != state]
        written = self._first_of_each(tensors, written, target)
        if key is not None and not written:
            self._remember(key, result, tensors)
        self._put(call, tensors, {i: found[i] for i in fresh}, written, recorded)
        if recorded is not None:
            self._know(recorded, found or [tensors[i] for i in written])
            self._name_again(recorded, found)

    def _know(self, recorded: Node, made: Sequence[torch.Tensor]) -> None:
        """Keeps which tensors a call of the graph gave."""
        if len(made) == len(recorded.outputs):
            for index, tensor in enumerate(made):
                self._of_ref[Ref(recorded.name, index)] = tensor

    def _name_again(self, recorded: Node, found: Sequence[torch.Tensor]) -> None:
        for tensor in found:
            value = self._memory.last(tensor)
            if value.label != recorded.name:
                value.aliases = (*value.aliases, recorded.name)

    def _find_unseen(self, node: fx.Node, recorded: Node | None) -> None:
        """Finds in the graph what the program has no way to make of a call's arguments."""
        if recorded is None or not (self._has_unknown or self._has_opaque):
            return
        given: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), given.append)
        given = [item for item in given if self._is_tensor(item)]
        refs = list(recorded.inputs)
        if len(refs) == len(given):
            pairs = list(zip(given, refs, strict=True))
        else:
            unknown = [item for item in given if isinstance(self._env[item], _Unknown)]
            rest = [ref for ref in dict.fromkeys(refs) if ref not in self._of_ref]
            pairs = list(zip(unknown, rest, strict=False))
        for item, ref in pairs:
            # A tensor that was made out of sight is a constant of the program.
            is_opaque = self._builder.graph.by_name[ref.node].kind == "opaque"
            if isinstance(self._env[item], _Unknown) or (is_opaque and item.op == "get_attr"):
                self._env[item] = self._unseen(ref)
        for item in given:
            if isinstance(self._env[item], _Unknown):
                self._env[item] = self._unseen(None)

    def _is_tensor(self, item: fx.Node) -> bool:
        return isinstance(self._env.get(item), (torch.Tensor, _Unknown))

    def _made_before(self, key: Any) -> Any:
        """What an equal call gave, where that was new tensors alone."""
        if key not in self._results:
            return None
        kind, described = self._results[key]
        made = [
            torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            for shape, stride, dtype in described
        ]
        return made[0] if kind is torch.Tensor else kind(made)

    def _remember(self, key: Any, result: Any, tensors: Sequence[torch.Tensor]) -> None:
        kind = type(result)
        is_several = kind in (tuple, list) or kind.__module__ == "torch.return_types"
        made = list(result) if is_several else [result]
        if any(type(one) is not torch.Tensor or one.device != META for one in made):
            return
        storages = [storage_key(one.untyped_storage()) for one in (*made, *tensors)]
        if all(storages.count(storage) == 1 for storage in storages[: len(made)]):
            self._results[key] = (type(result), _described(made))

    def _first_of_each(
        self, tensors: Sequence[torch.Tensor], written: list[int], target: Any
    ) -> list[int]:
        """Of the tensors whose memory was written to, those that the call names."""
        if target is setattr:
            return []
        storages = [storage_key(tensors[i].untyped_storage()) for i in written]
        return [i for place, i in enumerate(written) if storages.index(storages[place]) == place]

    def _recorded(self, node: fx.Node) -> Node | None:
        """The call of the graph that a call of the program is."""
        facts = node.meta.get("custom", {}).get(self._source.facts_key, {})
        return self._builder.graph.by_name.get(facts.get("name", ""))

    def _go_to(self, node: fx.Node, recorded: Node | None) -> None:
        """Moves the builder to where a call belongs."""
        graph = self._builder.graph
        if recorded is None:
            self._builder.stay(node.name)
        else:
            self._builder.go_to(recorded.scope, recorded.name, facts_of(recorded, graph))

    def _as_recorded(
        self,
        node: fx.Node,
        call: Call,
        tensors: list[torch.Tensor],
        recorded: Node | None,
        error: Exception,
    ) -> None:
        """A call that cannot be made without data: what it gave is in the graph."""
        if recorded is None:
            self._has_unknown = True
            self._env[node] = _Unknown(f"{node.target}: {error}")
            return
        if recorded.writes and tensors:
            self._env[node] = tensors[0]
            self._put(call, tensors, {}, [0], recorded)
            self._know(recorded, tensors[:1])
            return
        made = [self._stand_ins.for_spec(spec) for spec in recorded.outputs]
        leaves = list(_taken_apart(node))
        if len(leaves) == len(made):
            self._env.update(zip(leaves, made, strict=True))
            self._env.update(dict.fromkeys(_ways_to(node, leaves)))
        else:
            self._env[node] = made[0] if len(made) == 1 else tuple(made)
        self._put(call, tensors, dict(enumerate(made)), [], recorded)
        self._know(recorded, made)

    def _put(
        self,
        call: Call,
        tensors: list[torch.Tensor],
        fresh: dict[int, torch.Tensor],
        written: list[int],
        recorded: Node | None,
    ) -> None:
        """Puts a call on the builder and keeps the values it made."""
        wanted = [*fresh.values(), *(tensors[i] for i in written)]
        if not wanted:
            return
        if call.function in _RESIZES and written == [0]:
            self._memory.resize(tensors[0], math.prod(call.tensors[0][0]))
            return
        if call.function in _STRIDED_HERE and written == [0]:
            self._memory.define(tensors[0], self._memory.view(tensors[0], tensors[0]))
            return
        if call.function in _SETS and written == [0] and len(tensors) == 2:
            self._memory.define(tensors[0], self._memory.view(tensors[1], tensors[0]))
            return
        if call.function in _RESHAPES and len(tensors) > 1 and len(fresh) == 1:
            # Its sizes are tensors; what they are is known.
            args = TensorPlace(0), tuple(wanted[0].shape)
            call = Call("reshape", args, {}, call.tensors[:1], (), (), ())
            tensors = tensors[:1]
        elif call.function in _PADS and len(fresh) == 2 and not call.kwargs:
            shape = tuple(wanted[0].shape)
            call = replace(call, target=pad_packed, args=(*call.args[:4], shape))
        expected = tuple(tensor.dtype for tensor in wanted)
        call = Call(
            call.target,
            call.args,
            call.kwargs,
            call.tensors,
            tuple(fresh),
            tuple(written),
            expected,
        )
        values = self._values(call, tensors, wanted, recorded)
        for index, value in zip(written, values[len(fresh) :], strict=True):
            self._memory.write(tensors[index], value)
        for tensor, value in zip(fresh.values(), values, strict=False):
            self._memory.define(tensor, value)

    def _values(
        self,
        call: Call,
        tensors: list[torch.Tensor],
        wanted: list[torch.Tensor],
        recorded: Node | None,
    ) -> list[Value]:
        builder = self._builder
        specs = [builder.value(_dtype(tensor), self._shape(tensor)) for tensor in wanted]
        try:
            inputs = [self._memory.read(tensor) for tensor in tensors]
            if any(map(self._stand_ins.is_carrier, (*tensors, *wanted))):
                raise Unreadable("no array of numbers")
            grown = self._sequences.put(call, inputs, specs)
            if grown is not None:
                return grown
            if not _is_of_memory(call):
                subgraph = subgraph_of(call)
                if subgraph is not None:
                    return subgraph.put(builder, inputs, specs)
            shown = None if call.is_foreign else self._views(call, tensors, wanted)
            if shown is not None:
                return shown
        except Unreadable:
            inputs = [self._memory.last(tensor) for tensor in tensors]
        name = recorded.op if recorded else getattr(call.target, "__name__", str(call.target))
        builder.add(name, inputs, specs, plain_attributes(recorded) if recorded else (), DOMAIN)
        self._walked.untranslated.append((recorded.target or name) if recorded else name)
        return specs

    def _views(
        self, call: Call, tensors: list[torch.Tensor], wanted: list[torch.Tensor]
    ) -> list[Value] | None:
        """The results, if each is a view of an argument."""
        bases = {storage_key(tensor.untyped_storage()): tensor for tensor in reversed(tensors)}
        found = [bases.get(storage_key(tensor.untyped_storage())) for tensor in wanted]
        if call.written or None in found:
            return None
        return [
            self._memory.view(base, tensor)
            for base, tensor in zip(found, wanted, strict=True)
            if base is not None
        ]


def _is_of_memory(call: Call) -> bool:
    """Whether a call's result depends on how its tensor lies in memory, or on the bits there.

    The exporter takes every tensor for a contiguous one, and bits read as another type for a cast.
    """
    if call.function in _STRIDED or call.function in _STRIDED_COPY:
        return True
    wanted = [value for value in (*call.args, *call.kwargs.values()) if type(value) is torch.dtype]
    return call.function in _VIEWS and any(dtype != call.tensors[0][2] for dtype in wanted)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _described(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    return tuple([(tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors])


def _state_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    storage = storage_key(tensor.untyped_storage())
    place = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
    return version_of(tensor), storage, *place


def _placed(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any] | str, tuple[Any, ...], dict[str, Any]]:
    """A call with every device as `torch.device`, whatever way it was written."""
    if target in _TO_DEVICE:
        return "to", (args[0], META), {}
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": META}
    kwargs = {key: value for key, value in kwargs.items() if key != "generator"}
    if target == "to" and len(args) > 1 and isinstance(args[1], (str, int)):
        args = (args[0], META, *args[2:])
    return target, tuple(args), dict(kwargs)


def _with_places(value: Any, tensors: dict[int, tuple[int, torch.Tensor]]) -> Any:
    """Arguments with places for their tensors, which are gathered, each once, by their ids."""
    if isinstance(value, torch.Tensor):
        return TensorPlace(tensors.setdefault(id(value), (len(tensors), value))[0])
    if type(value) in (tuple, torch.Size, fx.immutable_collections.immutable_list, list):
        items = [_with_places(item, tensors) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if type(value) in (dict, fx.immutable_collections.immutable_dict):
        return {key: _with_places(item, tensors) for key, item in value.items()}
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice(*(_with_places(part, tensors) for part in parts))
    return value


def _steps(node: fx.Node) -> list[fx.Node]:
    """The nodes that take a result apart: they come from no call of the author's."""
    return [
        user
        for user in node.users
        if not user.meta.get("custom")
        and (
            user.target in (operator.getitem, getattr)
            or getattr(user.target, "__name__", "") == "item"
        )
    ]


def _taken_apart(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes for the tensors in a result, in order; the node itself if it is one tensor."""
    steps = _steps(node)
    if not steps:
        yield node
    for step in steps:
        yield from _taken_apart(step)


def _ways_to(node: fx.Node, leaves: Sequence[fx.Node]) -> Iterator[fx.Node]:
    """The nodes between a result and its tensors."""
    if node not in leaves:
        yield node
        for step in _steps(node):
            yield from _ways_to(step, leaves)
