"""One torch call in standard ops, ready to be put wherever an equal call stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelviz_callbacks.writers.onnx.builder import GraphBuilder, Shape, Value

# A call of more tensors than this that takes more ops than this is one box: standard ops stack 30
# tensors by 30 ops beside each other.
_WIDE = 12


@dataclass(frozen=True, slots=True)
class SubgraphNode:
    """One node of a subgraph; places are numbers of values, inputs first; -1: left out."""

    op_type: str
    domain: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Subgraph:
    """A call in standard ops.

    Attributes:
        nodes: Its nodes.
        made: Element type and shape of each value that they make.
        outputs: Places of the results; a result may be an input.
        sequences: Places of the values that are sequences of tensors.
    """

    nodes: tuple[SubgraphNode, ...]
    made: tuple[tuple[int, Shape], ...]
    outputs: tuple[int, ...]
    sequences: tuple[int, ...] = ()

    def put(
        self, builder: GraphBuilder, inputs: Sequence[Value], specs: Sequence[Value]
    ) -> list[Value]:
        """Puts the ops on a builder.

        Args:
            builder: Where.
            inputs: The tensors of the call.
            specs: What the results are like; they become the values that the ops make.

        Returns:
            The values of the results.
        """
        count = len(inputs)
        values = [*inputs, *(Value(dtype, shape, "") for dtype, shape in self.made)]
        for place in self.sequences:
            values[place].is_sequence = True
        for node in self.nodes:
            for place in node.outputs:
                values[place].label = f"{builder.name}/{node.op_type}"
        for place, spec in zip(self.outputs, specs, strict=True):
            if place >= count:
                values[place] = spec
        is_wide = min(len(inputs), len(self.nodes)) > _WIDE
        if is_wide:
            builder.enter_call()
        for node in self.nodes:
            builder.add(
                node.op_type,
                [None if place < 0 else values[place] for place in node.inputs],
                [values[place] for place in node.outputs],
                node.attributes,
                node.domain,
            )
        if is_wide:
            builder.leave_call()
        return [values[place] for place in self.outputs]
