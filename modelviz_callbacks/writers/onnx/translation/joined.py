"""Many tensors put together by one call, as a growing loop does with ever more of them.

The exporter, and torch without data, take longer for each tensor the more there are; a node for
each of them in every step of a loop would make a file of the square of its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import onnx
import torch

from modelviz_callbacks.writers.onnx.builder import (
    GraphBuilder,
    Value,
    attributes,
    element_type,
)
from modelviz_callbacks.writers.onnx.replacements.table import functions
from modelviz_callbacks.writers.onnx.translation.calls import Call, TensorPlace
from modelviz_callbacks.writers.onnx.translation.subgraph import Subgraph, SubgraphNode

# From this number of tensors on.
_MANY = 50
_CATS = frozenset(functions("torch.cat torch.concat torch.concatenate"))
_STACKS = frozenset(functions("torch.stack"))
# The floating-point numbers that ONNX's sequences may hold.
_IN_SEQUENCES = frozenset({torch.float16, torch.float32, torch.float64})


def _places(call: Call, fewest: int = _MANY) -> list[int] | None:
    """Which tensors a call joins, in order; ``None`` if it is no such call of many of one kind."""
    is_stack = call.function in _STACKS
    if not (is_stack or call.function in _CATS) or len(call.args) not in (1, 2):
        return None
    given, dim = call.args[0], _dim(call)
    if not isinstance(given, (list, tuple)) or len(given) < fewest or {*call.kwargs} - {"dim"}:
        return None
    kinds = {(len(shape), dtype) for shape, _, dtype in call.tensors}
    if len(kinds) != 1 or not isinstance(dim, int):
        return None
    ((rank, dtype),) = kinds
    if dtype.is_complex or not -rank - is_stack <= dim < rank + is_stack:
        return None
    places = [item.index for item in given if isinstance(item, TensorPlace)]
    return places if len(places) == len(given) else None


def _dim(call: Call) -> Any:
    return call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)


def joined(call: Call) -> Subgraph | None:
    """A call that joins many tensors in standard ops; ``None`` for any other.

    Args:
        call: Any call.
    """
    places = _places(call, 1 if call.function in _STACKS else _MANY)
    if places is None or call.results != (0,) or call.written:
        return None
    rank, dtype = len(call.tensors[0][0]), call.tensors[0][2]
    kind = element_type(str(dtype).removeprefix("torch."), None)[0]
    if len(places) < _MANY:
        return _stacked_few(places, call, kind)
    count = len(call.tensors)
    if call.function in _CATS:
        one = attributes(axis=_dim(call) % rank)
        nodes = [SubgraphNode("Concat", "", tuple(places), (count,), one)]
        return Subgraph(tuple(nodes), ((kind, None),), (count,))
    if dtype.is_floating_point and dtype not in _IN_SEQUENCES:
        return _stacked_along(places, call, kind) if rank else None
    stacks = attributes(axis=_dim(call) % (rank + 1), new_axis=1)
    nodes = [
        SubgraphNode("SequenceConstruct", "", tuple(places), (count,), ()),
        SubgraphNode("ConcatFromSequence", "", (count,), (count + 1,), stacks),
    ]
    return Subgraph(tuple(nodes), ((kind, None), (kind, None)), (count + 1,), (count,))


def _stacked_few(places: list[int], call: Call, kind: int) -> Subgraph:
    """Each with one more dimension, joined: as the exporter does it, at no cost for each tensor."""
    shape, dim = call.tensors[0][0], _dim(call)
    nodes: list[SubgraphNode] = []
    made: list[tuple[int, tuple[int, ...]]] = []
    results: list[int] = []
    at = dim % (len(shape) + 1)
    one = (kind, (*shape[:at], 1, *shape[at:]))
    for place in places:
        axes = len(call.tensors) + len(made)
        nodes.append(SubgraphNode("Constant", "", (), (axes,), attributes(value_ints=[dim])))
        nodes.append(SubgraphNode("Unsqueeze", "", (place, axes), (axes + 1,), ()))
        made += [(onnx.TensorProto.INT64, (1,)), one]
        results.append(axes + 1)
    if len(results) > 1:
        end = len(call.tensors) + len(made)
        nodes.append(SubgraphNode("Concat", "", tuple(results), (end,), attributes(axis=dim)))
        made.append((kind, (*shape[:at], len(places), *shape[at:])))
        results = [end]
    return Subgraph(tuple(nodes), tuple(made), tuple(results))


def _stacked_along(places: list[int], call: Call, kind: int) -> Subgraph:
    """Joins along the first dimension, which is made two: the tensor's number, and its own."""
    count, shape = len(call.tensors), call.tensors[0][0]
    sizes = numpy.array([len(places), *shape], dtype=numpy.int64)
    proto = onnx.numpy_helper.from_array(sizes)
    order = [*range(1, len(sizes))]
    order.insert(_dim(call) % len(sizes), 0)
    nodes = (
        SubgraphNode("Concat", "", tuple(places), (count,), attributes(axis=0)),
        SubgraphNode("Constant", "", (), (count + 1,), attributes(value=proto)),
        SubgraphNode("Reshape", "", (count, count + 1), (count + 2,), ()),
        SubgraphNode("Transpose", "", (count + 2,), (count + 3,), attributes(perm=order)),
    )
    made = ((kind, None), (proto.data_type, (len(sizes),)), (kind, None), (kind, None))
    return Subgraph(nodes, made, (count + 3,))


def _grew(before: list[Value], now: list[Value]) -> bool:
    """Whether a list is another one with a few more at its end."""
    return len(now) <= 1.5 * len(before) and now[: len(before)] == before


@dataclass(slots=True)
class _Chain:
    """Tensors that were joined: ``sequence`` holds them, once that was worth while."""

    members: list[Value]
    sequence: Value | None


class GrowingSequences:
    """The sequences of one run: a loop that joins what it has made so far adds to the last one.

    Without them the file of a loop of n steps has n² references.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        """There are none yet.

        Args:
            builder: Where ops are put.
        """
        self._builder = builder
        self._chains: dict[Value, _Chain] = {}

    def put(
        self, call: Call, inputs: Sequence[Value], specs: Sequence[Value]
    ) -> list[Value] | None:
        """Puts a call that joins many tensors of a sequence; ``None`` for any other.

        Args:
            call: Any call.
            inputs: Its tensors.
            specs: What the result is like; it becomes the value of the result.
        """
        places = _places(call)
        if places is None or call.results != (0,) or call.written:
            return None
        rank, dtype = len(call.tensors[0][0]), call.tensors[0][2]
        if dtype.is_floating_point and dtype not in _IN_SEQUENCES:
            return None
        members = [inputs[place] for place in places]
        known = self._chains.get(members[0])
        is_longer = known is not None and _grew(known.members, members)
        is_stack = call.function in _STACKS
        if not is_stack and not is_longer:
            self._chains[members[0]] = _Chain(members, None)
            return None
        if known is None or not is_longer or known.sequence is None:
            sequence = self._step("SequenceConstruct", members)
        else:
            sequence = known.sequence
            for member in members[len(known.members) :]:
                sequence = self._step("SequenceInsert", (sequence, member))
        self._chains[members[0]] = _Chain(members, sequence)
        along = attributes(axis=_dim(call) % (rank + is_stack), new_axis=int(is_stack))
        self._builder.add("ConcatFromSequence", (sequence,), specs, along)
        return [*specs]

    def _step(self, op_type: str, inputs: Sequence[Value]) -> Value:
        made = self._builder.inner(op_type, inputs[-1].dtype, None)
        made.is_sequence = True
        self._builder.add(op_type, inputs, (made,))
        return made


def joined_without_data(call: Call, tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """What a call gives that joins many tensors without data; ``None`` for any other.

    Args:
        call: Any call.
        tensors: Its tensors.
    """
    places = _places(call)
    if places is None or call.function not in _STACKS:
        return None
    if any(type(one) is not torch.Tensor or one.device.type != "meta" for one in tensors):
        return None
    shapes = {shape for shape, _, _ in call.tensors}
    if len(shapes) != 1:
        return None  # it is for torch to say what is wrong
    ((*sizes,),) = shapes
    sizes.insert(_dim(call) % (len(sizes) + 1), len(places))
    return torch.empty(sizes, dtype=tensors[0].dtype, device="meta")
