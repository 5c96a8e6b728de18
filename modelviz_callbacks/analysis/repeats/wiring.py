"""How copies that may repeat hang together: what each reads of the one before, who reads of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from modelviz_callbacks.analysis.fingerprint import Key, Subgraph, place_in
from modelviz_callbacks.analysis.outline import Item, Outline
from modelviz_callbacks.analysis.repeats.variation import Variation
from modelviz_callbacks.graph.values import Ref


@dataclass(frozen=True, slots=True)
class Fold:
    """Copies of one pattern.

    Attributes:
        scope: The scope whose items they are.
        copies: The names of the items of each copy, in execution order; all equally long.
        shared: Whether the copies use the same parameters, buffers and constants.
        variation: The one thing that differs; ``None``: nothing does.
        in_parallel: Whether no copy reads of another one.
    """

    scope: str
    copies: tuple[tuple[str, ...], ...]
    shared: bool = False
    variation: Variation | None = None
    in_parallel: bool = False

    @property
    def times(self) -> int:
        """How many copies there are; at least 2."""
        return len(self.copies)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive items of a scope: from ``start`` on, ``period`` of them."""

    scope: str
    start: int
    period: int


def wiring(
    outline: Outline, first: Subgraph, subgraph: Subgraph, before: Run, number: int
) -> list[Key] | None:
    """Where a copy's inputs and parameters come from, in terms of the copy before it.

    Args:
        outline: The graph's.
        first: The first copy.
        subgraph: The copy.
        before: Where the copy before it is.
        number: How many copies are before it.

    Returns:
        For each input the place in the copy before it, or that it is what the first copy
        reads too, or the next part of what the copies before it have a part of each
        (``for frame in video.unbind(1)``), or a constant of its own; for each parameter whether it
        is the first copy's. ``None`` if some input is none of these.
    """
    found: list[Key] = []
    if len(subgraph.externals) != len(first.externals) or len(subgraph.held) != len(first.held):
        return None
    for ref, of_first in zip(subgraph.externals, first.externals, strict=True):
        place = place_in(outline, ref, before.scope, before.start, before.period)
        if place is not None:
            found.append(("chain", place, ref.index))
        elif ref == of_first:
            found.append(("same",))
        elif ref.node == of_first.node and (ref.index - of_first.index) % number == 0:
            found.append(("part", (ref.index - of_first.index) // number))
        elif outline.graph.by_name[ref.node].kind == "constant":
            found.append(("own",))
        else:
            return None
    pairs = zip(subgraph.held, first.held, strict=True)
    return found + [("held", name == of_first) for name, of_first in pairs]


def own_parameters(subgraphs: Sequence[Subgraph]) -> int:
    """How many of the copies, from the first on, have no parameter of another one by chance."""
    shared = set(subgraphs[0].held) & set(subgraphs[1].held) if len(subgraphs) > 1 else set()
    seen: set[str] = set()
    for number, subgraph in enumerate(subgraphs):
        own = set(subgraph.held) - shared
        if own & seen:
            return number
        seen |= own
    return len(subgraphs)


def names_in(outline: Outline, items: Iterable[Item]) -> frozenset[str]:
    """The names of all nodes that ran in some items."""
    return frozenset(node.name for item in items for node in outline.calls_in(item))


def read_elsewhere(outline: Outline, copy: Sequence[Item], readers: Set[str]) -> frozenset[Key]:
    """Which tensors of a copy are read elsewhere, and by what.

    Args:
        outline: The graph's.
        copy: Its items.
        readers: Nodes beside its own that may read whatever they like: those of the next copy.

    Returns:
        The place of each tensor among those made in the copy, and its reader's name; outputs of
        the graph are left out.
    """
    own = names_in(outline, copy)
    consumers = outline.graph.consumers
    found = set()
    made = (node for item in copy for node in outline.calls_in(item))
    for place, node in enumerate(made):
        for index in range(len(node.outputs)):
            for reader in consumers.get(Ref(node.name, index), ()):
                is_free = reader.kind == "output" or reader.name in own or reader.name in readers
                if not is_free:
                    found.add((place, index, reader.name))
    return frozenset(found)
