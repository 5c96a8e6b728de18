"""Weights that layers keep as whole numbers in buffers, and unpack to multiply by them.

So GPTQ and AWQ keep theirs, and layers quantised to 8 bits: torch counts no such weight among the
parameters. Of a number each, they are told from an adjacency or a mask by their scales, which the
layer keeps beside them.
"""

from __future__ import annotations

import math

from modelviz_callbacks.graph.model import ModelGraph, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of, may_multiply
from modelviz_callbacks.graph.values import Ref, TensorSpec

_HELD = frozenset({"parameter", "buffer", "constant"})
_WHOLE = ("int", "uint")
# What torch wants of an index; nobody packs weights in it.
_INDEX = ("int64", "uint64")


def weights_in_buffers(graph: ModelGraph) -> dict[str, int]:
    """The buffers whose whole numbers an op multiplies by.

    Args:
        graph: Any graph.

    Returns:
        The path of each, and how many weights its numbers are.
    """
    if not any(_is_whole(node.outputs[0]) for node in graph.of_kind("buffer")):
        return {}
    origins = _origins(graph)
    scales = _Scales(graph)
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.name in origins or not _may_take_weights(node):
            continue
        data = [_spec(graph, ref) for ref in node.inputs if ref.node not in origins]
        widths = {
            one.shape[-1] * out.shape[-1]
            for one in data
            for out in node.outputs
            if one.shape and out.shape and not _is_whole(one)
        }
        for ref in node.inputs:
            if buffers := origins.get(ref.node):
                buffer = max(buffers, key=_as_weight)
                if count := _count(_spec(graph, ref), buffer.outputs[0], widths, scales(buffer)):
                    found.setdefault(buffer.path, count)
    return found


class _Scales:
    """Says whether a module keeps beside a buffer what scales its numbers."""

    def __init__(self, graph: ModelGraph) -> None:
        """Reads how many real numbers the modules' own parameters and buffers hold."""
        self._sizes: dict[str, set[int]] = {}
        for node in graph.of_kind("parameter", "buffer"):
            if not _is_whole(node.outputs[0]) and node.outputs[0].dtype != "bool":
                owner = node.path.rpartition(".")[0]
                self._sizes.setdefault(owner, set()).add(node.outputs[0].numel)

    def __call__(self, buffer: Node) -> bool:
        """Whether there is one for all, or one or several for each row or column."""
        shape = buffer.outputs[0].shape or ()
        cuts = [(math.prod(shape[:at]), math.prod(shape[at:])) for at in range(1, len(shape))]
        sizes = self._sizes.get(buffer.path.rpartition(".")[0], set())
        return any(
            size == 1
            or (0 < size < side * other and not size % side and not other % (size // side))
            for cut in cuts
            for side, other in (cut, cut[::-1])
            for size in sizes
        )


def _origins(graph: ModelGraph) -> dict[str, frozenset[Node]]:
    """What is made of nothing but state, and of which buffers of whole numbers."""
    found: dict[str, frozenset[Node]] = {}
    for node in graph.nodes:
        if node.kind in _HELD:
            is_weight = node.kind == "buffer" and _is_whole(node.outputs[0])
            found[node.name] = frozenset([node] if is_weight else ())
        elif node.kind == "op" and all(ref.node in found for ref in node.inputs):
            found[node.name] = frozenset().union(*(found[ref.node] for ref in node.inputs))
    return found


def _as_weight(buffer: Node) -> tuple[bool, int, str]:
    """The greater, the more of a weight: an index of one dimension may be larger than it."""
    spec = buffer.outputs[0]
    return len(spec.shape or ()) > 1, spec.size_bytes, buffer.name


def _may_take_weights(node: Node) -> bool:
    if node.kind == "opaque":
        return True
    is_op = node.kind == "op"
    return is_op and (may_multiply(node.target) or OpFact.EMBEDDING in facts_of(node.target))


def _count(weight: TensorSpec, buffer: TensorSpec, widths: set[int], has_scales: bool) -> int:
    """How many weights an argument is; 0: nothing tells that it is any.

    Args:
        weight: The argument.
        buffer: Which it is made of.
        widths: What the op may multiply by if it unpacks the argument itself.
        has_scales: Whether the buffer's numbers may have scales.
    """
    least, most = buffer.numel, 8 * buffer.size_bytes
    if len(weight.shape or ()) < 2:
        return 0
    if least < weight.numel <= most:
        return weight.numel
    if _is_whole(weight) and weight.dtype not in _INDEX:
        for count in widths:
            if least < count <= most:
                return count
    # Numbers of more bits, each for itself, are more likely an index.
    is_byte_each = weight.numel == least == buffer.size_bytes
    return weight.numel if is_byte_each and has_scales else 0


def _spec(graph: ModelGraph, ref: Ref) -> TensorSpec:
    return graph.by_name[ref.node].outputs[ref.index]


def _is_whole(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(_WHOLE) and math.prod(spec.shape or (0,)) > 1
