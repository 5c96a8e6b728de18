"""Which of the author's functions become scopes of a graph, their names, and their ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from modelviz_callbacks.graph import NameAllocator, Port, Ref
from modelviz_callbacks.tracing.lowering.node_builder import NodeBuilder
from modelviz_callbacks.tracing.lowering.scopes import Scope

_HELD = ("parameter", "buffer", "constant")


def settle(scopes: Sequence[Scope], builders: Sequence[NodeBuilder], names: NameAllocator) -> None:
    """Decides which functions are kept, names those, and finds what enters and leaves them.

    The names come last, after those of all nodes and modules: these are not changed by it.

    A function tells nothing, and what it holds belongs to what is around it, if it holds one thing
    only, or if it is a method that does all that its module does.

    Args:
        scopes: All of a graph in order of entry; functions are changed in place.
        builders: The graph's nodes.
        names: Gives names below those of scopes.
    """
    if not any(scope.is_function for scope in scopes):
        return
    _merge_trivial(scopes, builders)
    for scope in scopes:
        if scope.is_function and not scope.merged:
            scope.name = names.allocate(scope.home.name, scope.label)
    _find_ends(builders)


def _merge_trivial(scopes: Sequence[Scope], builders: Iterable[NodeBuilder]) -> None:
    count: Counter[int] = Counter()
    for builder in builders:
        if builder.kind in ("op", "opaque"):
            count[id(builder.within)] += 1
    # What is inside of a scope comes after it.
    for scope in reversed(scopes):
        around = scope.parent
        while around is not None and not around.called:
            around = around.parent
        inside = count[id(scope)] if scope.is_function and count[id(scope)] <= 1 else 1
        scope.merged = scope.is_function and count[id(scope)] <= 1
        count[id(around)] += inside if scope.called else 0
    for scope in scopes:
        if scope.is_function and not scope.merged and scope.is_own:
            scope.merged = scope.around is scope.home and count[id(scope.home)] == 1


def _find_ends(builders: Sequence[NodeBuilder]) -> None:
    """The tensors that enter and leave each function."""
    makers = {builder.name: builder for builder in builders}
    chains: dict[int, tuple[Scope, ...]] = {}
    inputs: dict[int, dict[Ref, None]] = {}
    outputs: dict[int, dict[Ref, None]] = {}
    functions: dict[int, Scope] = {}
    for builder in builders:
        for ref in builder.refs():
            maker = makers[ref.node]
            if maker.kind in _HELD or maker.within is builder.within:
                continue
            sources, targets = _chain(maker.within, chains), _chain(builder.within, chains)
            for ends, here, others in (
                (inputs, targets, sources),
                (outputs, sources, targets),
            ):
                for scope in here:
                    if scope not in others:
                        functions[id(scope)] = scope
                        ends.setdefault(id(scope), {})[ref] = None
    order = {builder.name: number for number, builder in enumerate(builders)}
    for key, scope in functions.items():
        made = sorted(outputs.get(key, {}), key=lambda ref: (order[ref.node], ref.index))
        scope.inputs, scope.outputs = _ports(inputs.get(key, {})), _ports(made)


def _ports(found: Iterable[Ref]) -> tuple[Port, ...]:
    return tuple(Port("", ref) for ref in found)


def _chain(scope: Scope, known: dict[int, tuple[Scope, ...]]) -> tuple[Scope, ...]:
    """The functions that are kept around a scope, itself included."""
    if id(scope) not in known:
        around = _chain(scope.parent, known) if scope.parent is not None else ()
        is_kept = scope.is_function and not scope.merged
        known[id(scope)] = (*around, scope) if is_kept else around
    return known[id(scope)]
