"""One run over a program without data: each call put on a board in standard ops."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from modelviz_callbacks.errors import ReplayError, WriterError
from modelviz_callbacks.graph import Node
from modelviz_callbacks.writers.onnx.builder import Board, Value
from modelviz_callbacks.writers.onnx.convert import Source
from modelviz_callbacks.writers.onnx.exporter_internals import (
    MissingInternal,
    set_grad_enabled,
    storage_key,
    version_of,
)
from modelviz_callbacks.writers.onnx.fallback_nodes import DOMAIN, facts_of, plain_attributes
from modelviz_callbacks.writers.onnx.functionalize import Layout, Memory, Unreadable
from modelviz_callbacks.writers.onnx.op_translation import Call, Slot, fragment_of, tensors_in

_META = torch.device("meta")
_TO_DEVICE = ("cpu", "cuda")


@dataclass
class Walked:
    """What a run over a program gave.

    Attributes:
        inputs: What it takes.
        outputs: What it gives.
        state: Parameters, buffers and constants by their qualified names, and the tensors.
        untranslated: torch's names of the calls that have no form in standard ops.
    """

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    state: dict[str, tuple[Value, torch.Tensor]] = field(default_factory=dict)
    untranslated: list[str] = field(default_factory=list)


def walk(source: Source, board: Board) -> Walked:
    """Puts a program's calls on a board.

    Args:
        source: The program; its state may be without data.
        board: With the graph of the same recording.

    Returns:
        What goes in and out.

    Raises:
        ReplayError: It comes to a part that nobody saw.
        WriterError: It has tensors that are not plain arrays of numbers, or a call fails of
            which nothing is known.
    """
    with torch.no_grad():
        return _Walk(source, board).run()


class _Walk:
    def __init__(self, source: Source, board: Board) -> None:
        self._source = source
        self._board = board
        self._memory = Memory(board)
        self._env: dict[fx.Node, Any] = {}
        self._state: dict[int, torch.Tensor] = {}
        self._storages: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        self._originals: list[torch.Tensor] = []
        self._results: dict[Any, tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = {}
        self._walked = Walked()

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
                given = tensors_in(self._value(node.args[0]))
                self._walked.outputs += [self._memory.read(tensor) for tensor in given]
            else:
                self._call(node)
        return self._walked

    # --- what there is before anything runs

    def _input(self) -> torch.Tensor:
        index = len(self._walked.inputs)
        example = self._source.examples[index]
        tensor = torch.empty_strided(
            example.shape, example.stride(), dtype=example.dtype, device="meta"
        )
        value = self._new(tensor, self._source.inputs[index], "input")
        self._walked.inputs.append(value)
        return tensor

    def _new(self, tensor: torch.Tensor, label: str, kind: Any) -> Value:
        value = self._board.value(_dtype(tensor), tuple(tensor.shape), label)
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
            made = self._state[id(found)] = self._without_data(found)
            name = self._source.state.get(target, target)
            self._walked.state[name] = self._new(made, name, "state"), found
        return self._state[id(found)]

    def _without_data(self, tensor: torch.Tensor) -> torch.Tensor:
        """A meta tensor like another; those that share memory share it again."""
        layout = tensor.layout
        if layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            raise WriterError(f"a tensor of the model is not a plain array ({layout})")
        storage = tensor.untyped_storage()
        key = storage_key(storage), tensor.dtype
        if key not in self._storages:
            size = max(Layout.of(tensor).end, storage.nbytes() // max(1, tensor.element_size()))
            self._storages[key] = torch.empty(size, dtype=tensor.dtype, device="meta")
        place = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        return self._storages[key].as_strided(*place)

    # --- calls

    def _value(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self._env[node])

    def _call(self, node: fx.Node) -> None:
        if node.target is set_grad_enabled:
            return
        target, args, kwargs = _placed(
            node.target, self._value(node.args), self._value(node.kwargs)
        )
        if target is setattr and args[1] == "data":
            self._memory.define(args[0], self._memory.read(args[2]))
        tensors: list[torch.Tensor] = []
        arguments = _slotted(args, tensors), _slotted(kwargs, tensors)
        before = [_state_of(tensor) for tensor in tensors]
        call = Call(target, *arguments, _described(tensors), (), (), ())
        recorded = self._go_to(node)
        key = call.key()
        try:
            result = self._made_before(key)
            if result is None:
                with _META:
                    result = call.run(tensors, _META)
        except (ReplayError, MissingInternal):
            raise
        except Exception as error:
            self._as_recorded(node, call, tensors, recorded, error)
            return
        self._env[node] = result
        found = list(tensors_in(result))
        fresh = [i for i, tensor in enumerate(found) if tensor not in self._memory]
        fresh = list({id(found[i]): i for i in reversed(fresh)}.values())[::-1]
        written = [i for i, tensor in enumerate(tensors) if _state_of(tensor) != before[i]]
        written = self._first_of_each(tensors, written, target)
        if key is not None and not written:
            self._remember(key, result, tensors)
        self._put(call, tensors, {i: found[i] for i in fresh}, written, recorded)
        for tensor in found if recorded is not None else ():
            value = self._memory.last(tensor)
            if recorded is not None and value.label != recorded.name:
                value.aliases = (*value.aliases, recorded.name)

    def _made_before(self, key: Any) -> torch.Tensor | None:
        """What an equal call gave, where that was one new tensor."""
        if key not in self._results:
            return None
        shape, stride, dtype = self._results[key]
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

    def _remember(self, key: Any, result: Any, tensors: Sequence[torch.Tensor]) -> None:
        if type(result) is not torch.Tensor or result.device != _META:
            return
        storage = storage_key(result.untyped_storage())
        if all(storage_key(tensor.untyped_storage()) != storage for tensor in tensors):
            self._results[key] = (tuple(result.shape), result.stride(), result.dtype)

    def _first_of_each(
        self, tensors: Sequence[torch.Tensor], written: list[int], target: Any
    ) -> list[int]:
        """Of the tensors whose memory was written to, those that the call names."""
        if target is setattr:
            return []
        storages = [storage_key(tensors[i].untyped_storage()) for i in written]
        return [i for place, i in enumerate(written) if storages.index(storages[place]) == place]

    def _go_to(self, node: fx.Node) -> Node | None:
        """Moves the board to where a call belongs."""
        facts = node.meta.get("custom", {}).get(self._source.facts_key, {})
        graph = self._board.graph
        recorded = graph.by_name.get(facts.get("name", ""))
        if recorded is None:
            self._board.stay(node.name)
        else:
            self._board.go_to(recorded.scope, recorded.name, facts_of(recorded, graph))
        return recorded

    def _as_recorded(
        self,
        node: fx.Node,
        call: Call,
        tensors: list[torch.Tensor],
        recorded: Node | None,
        error: Exception,
    ) -> None:
        """A call that cannot be made without data: what it gave is in the graph."""
        shapes = [spec.shape for spec in recorded.outputs] if recorded else [None]
        if recorded is None or None in shapes:
            raise WriterError(f"nothing is known of the result of {node.target}") from error
        if recorded.writes and tensors:
            self._env[node] = tensors[0]
            self._put(call, tensors, {}, [0], recorded)
            return
        made = [
            torch.empty(spec.shape or (), dtype=getattr(torch, spec.dtype), device="meta")
            for spec in recorded.outputs
        ]
        leaves = list(_taken_apart(node))
        if len(leaves) == len(made):
            self._env.update(zip(leaves, made, strict=True))
            self._env.update(dict.fromkeys(_ways_to(node, leaves)))
        else:
            self._env[node] = made[0] if len(made) == 1 else tuple(made)
        self._put(call, tensors, dict(enumerate(made)), [], recorded)

    def _put(
        self,
        call: Call,
        tensors: list[torch.Tensor],
        fresh: dict[int, torch.Tensor],
        written: list[int],
        recorded: Node | None,
    ) -> None:
        """Puts a call on the board and keeps the values it made."""
        wanted = [*fresh.values(), *(tensors[i] for i in written)]
        if not wanted:
            return
        if call.name in ("view", "reshape") and len(tensors) > 1 and len(fresh) == 1:
            # Its sizes are tensors; what they are is known.
            args = Slot(0), tuple(wanted[0].shape)
            call = Call("reshape", args, {}, call.tensors[:1], (), (), ())
            tensors = tensors[:1]
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
        board = self._board
        specs = [board.value(_dtype(tensor), tuple(tensor.shape)) for tensor in wanted]
        try:
            inputs = [self._memory.read(tensor) for tensor in tensors]
            if call.target is not torch.as_strided:
                fragment = fragment_of(call)
                if fragment is not None:
                    return fragment.put(board, inputs, specs)
            shown = self._views(call, tensors, wanted)
            if shown is not None:
                return shown
        except Unreadable:
            inputs = [self._memory.last(tensor) for tensor in tensors]
        name = recorded.op if recorded else getattr(call.target, "__name__", str(call.target))
        board.add(name, inputs, specs, plain_attributes(recorded) if recorded else (), DOMAIN)
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
        return "to", (args[0], _META), {}
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": _META}
    kwargs = {key: value for key, value in kwargs.items() if key != "generator"}
    if target == "to" and len(args) > 1 and isinstance(args[1], (str, int)):
        args = (args[0], _META, *args[2:])
    return target, tuple(args), dict(kwargs)


def _slotted(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Arguments with slots for their tensors, which are gathered, each once."""
    if isinstance(value, torch.Tensor):
        for index, tensor in enumerate(tensors):
            if tensor is value:
                return Slot(index)
        tensors.append(value)
        return Slot(len(tensors) - 1)
    if type(value) in (tuple, torch.Size, fx.immutable_collections.immutable_list, list):
        items = [_slotted(item, tensors) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if type(value) in (dict, fx.immutable_collections.immutable_dict):
        return {key: _slotted(item, tensors) for key, item in value.items()}
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice(*(_slotted(part, tensors) for part in parts))
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
