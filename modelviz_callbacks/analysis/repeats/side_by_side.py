"""Copies that do not feed each other: the heads of an attention, a layer that is given each frame.

Copies that look alike and read the same are many things: query, key and value are three equal
layers of one tensor, and no reader would want them as one. They are one pattern where the author
wrote them as one: entries of a container, or one line of source that ran again and again, and where
all that is made of them is what one consumer reads in a list (``torch.cat([h(x) for h in heads])``)
or what the model returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from modelviz_callbacks.analysis.outline import Item, Outline
from modelviz_callbacks.analysis.repeats.variation import Variation
from modelviz_callbacks.analysis.repeats.wiring import names_in
from modelviz_callbacks.graph.model import ModuleCall, Node
from modelviz_callbacks.graph.values import Ref, refs

# Up to three branches are told better one by one.
_FEWEST = 4

# Entries with names of their own (``age``, ``income``) are worth a box each, up to so many.
_MOST_NAMED = 8

_NUMBER = re.compile(r"\d+")


def are_side_by_side(outline: Outline, scope: str, copies: Sequence[Sequence[Item]]) -> bool:
    """Whether copies that are equal, and of which none reads of another, were written as one.

    Args:
        outline: The graph's.
        scope: The scope whose items they are.
        copies: Of one pattern, in execution order.
    """
    return of_one_loop(outline, scope, copies) and _are_collected(outline, copies)


def of_one_loop(outline: Outline, scope: str, copies: Sequence[Sequence[Item]]) -> bool:
    """Whether copies are what a loop did: with one entry of a container after the other, if any.

    Args:
        outline: The graph's.
        scope: The scope whose items they are.
        copies: Of one pattern, in execution order.
    """
    return all(_one_place(outline, scope, items) for items in zip(*copies, strict=True))


def told_side_by_side(outline: Outline, scope: str, copies: Sequence[Sequence[Item]]) -> bool:
    """Whether such copies are also too many to be told one by one.

    Args:
        outline: The graph's.
        scope: The scope whose items they are.
        copies: Of one pattern, in execution order.
    """
    if len(copies) < _FEWEST:
        return False
    calls = ([item.path or "" for item in copy if isinstance(item, ModuleCall)] for copy in copies)
    is_numbered = len({_NUMBER.sub("#", " ".join(paths)) for paths in calls}) == 1
    is_enough = is_numbered or len(copies) > _MOST_NAMED
    return is_enough and are_side_by_side(outline, scope, copies)


def is_a_choice(variation: Variation | None) -> bool:
    """Whether copies that read by an index read what an author chose, and not one after the other.

    Four slices of an image that are joined to one with more channels are told one by one, if
    nothing else is done with each.

    Args:
        variation: What differs between the copies.
    """
    return variation is not None and variation.names == ("index",) and variation.counter is None


def _one_place(outline: Outline, scope: str, items: Sequence[Item]) -> bool:
    """Whether the items in one place of all copies are of one container, or one line of source."""
    calls = [item for item in items if isinstance(item, ModuleCall)]
    if not calls:
        sources = {item.source for item in items if isinstance(item, Node)}
        return len(sources) == 1 and sources != {None}
    if len(calls) < len(items):
        return False
    paths = [call.path or "" for call in calls]
    if all(call.is_function for call in calls) or len(set(paths)) == 1:
        return True
    around = outline.graph.module_by_name.get(scope)
    container = paths[0].rpartition(".")[0]
    if any(path.rpartition(".")[0] != container for path in paths):
        return False
    # Attributes of the module itself have a name each, for a reason.
    is_attribute = container == (around.path if around else "")
    return not is_attribute or all(path.rpartition(".")[2].isdigit() for path in paths)


def _are_collected(outline: Outline, copies: Sequence[Sequence[Item]]) -> bool:
    """Whether what is read of each copy is read by the same consumers, of all copies in a list."""
    given = [frozenset(_given(outline, copy)) for copy in copies]
    return len(set(given)) == 1 and None not in given[0]


def _given(outline: Outline, copy: Sequence[Item]) -> Iterator[tuple[int, int, str, str] | None]:
    """Each tensor of a copy that is read elsewhere: its place, its reader and as which argument.

    ``None`` for one that is read alone, in no list. What the model returns is left out.
    """
    own = names_in(outline, copy)
    consumers = outline.graph.consumers
    made = (node for item in copy for node in outline.calls_in(item))
    for place, node in enumerate(made):
        for index in range(len(node.outputs)):
            ref = Ref(node.name, index)
            for reader in consumers.get(ref, ()):
                if reader.kind != "output" and reader.name not in own:
                    yield from _roles(reader, ref, (place, index))


def _roles(
    reader: Node, ref: Ref, place: tuple[int, int]
) -> Iterator[tuple[int, int, str, str] | None]:
    for argument in reader.arguments:
        if isinstance(argument.value, tuple):
            if ref in refs(argument.value):
                yield (*place, reader.name, argument.name)
        elif ref in refs(argument.value):
            yield None
