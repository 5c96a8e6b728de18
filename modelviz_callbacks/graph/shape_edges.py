"""Edges along which only a shape goes: an op asks for it and does not read the values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from modelviz_callbacks.graph.op_facts import OpFact, facts_of, torch_name
from modelviz_callbacks.graph.parts import Node
from modelviz_callbacks.graph.values import Argument, Ref, refs

_PLACES = ((OpFact.SHAPE_OF_FIRST, 0), (OpFact.SHAPE_OF_SECOND, 1))


def with_shape_edges(target: str, arguments: Sequence[Argument]) -> tuple[Argument, ...]:
    """The arguments of an op, those marked of which it asks only the shape.

    Args:
        target: The qualified name of what was called.
        arguments: In the order of the call.

    Returns:
        Equal arguments.
    """
    facts = facts_of(target)
    found = list(arguments)
    for fact, place in _PLACES:
        if fact in facts and place < len(found) and isinstance(found[place].value, Ref):
            ref = replace(found[place].value, shape_only=True)  # type: ignore[type-var]
            found[place] = Argument(found[place].name, ref)
    return tuple(found)


def wrong_shape_edges(node: Node) -> Iterator[Ref]:
    """The edges of a node that say that only a shape is asked for, though values are read.

    An op that is not torch's own may ask whatever it says.
    """
    if node.is_call and (not torch_name(node.target) or node.kind == "opaque"):
        return
    facts = facts_of(node.target)
    asked = {place for fact, place in _PLACES if fact in facts}
    for place, argument in enumerate(node.arguments):
        for ref in refs(argument.value):
            if ref.shape_only and (place not in asked or not isinstance(argument.value, Ref)):
                yield ref
