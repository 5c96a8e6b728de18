"""A graph without long scopes, for viewers that draw all of a scope: loops are scopes of steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from modelviz_callbacks.analysis.analysis import Analysis
from modelviz_callbacks.analysis.outline import Item, Outline
from modelviz_callbacks.analysis.repeats.wiring import Fold
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node

# A scope with fewer items than this can be looked at as it is; a loop has at least so many steps.
_MANY_ITEMS, _FEWEST_STEPS = 40, 3
# More items beside each other than this are told in parts.
_MOST_ITEMS = 150


def with_short_scopes(analysis: Analysis, opened: ModelGraph | None = None) -> ModelGraph:
    """A graph with a function call around each loop in its long scopes, and around each step.

    Args:
        analysis: The analysis of a sound graph.
        opened: The same graph, other of its module calls marked as called; it is what scopes are
            put into then, and its repeats are those of the analysis.

    Returns:
        The same nodes under the same names, some of them in scopes of class ``step``, which are in
        one of class ``loop_of_30``, with the op that puts together what all steps made. What is
        left of a scope of hundreds of items is in scopes of class ``part``.
    """
    graph = analysis.graph if opened is None else opened
    outline = analysis.outline if graph is analysis.graph else Outline(graph)
    items = outline.items
    long = {scope for scope, inside in items.items() if len(inside) >= _MANY_ITEMS}
    folds = _within(outline, analysis.folds()) if long else ()
    around: dict[str, str] = {}
    calls: dict[str, list[ModuleCall]] = {}
    for fold in folds:
        is_loop = fold.shared and len(fold.copies[0]) > 1 and fold.times >= _FEWEST_STEPS
        if fold.scope not in long or not is_loop:
            continue
        known = calls.setdefault(fold.scope, [])
        prefix = f"{fold.scope}/" if fold.scope else ""
        loop = f"{prefix}loop_{sum(call.class_name != 'step' for call in known)}"
        known.append(ModuleCall(loop, None, f"loop_of_{fold.times}", fold.scope, kind="function"))
        for number, copy in enumerate(fold.copies):
            name = f"{loop}/step_{number}"
            known.append(ModuleCall(name, None, "step", loop, kind="function"))
            around.update(dict.fromkeys(copy, name))
        last = outline.position[fold.copies[-1][-1]]
        for item in items[fold.scope][last + 1 : last + 2]:
            if _collects(item, fold, outline):
                around[item.name] = loop
    for scope in sorted(long):
        _in_parts(scope, items[scope], calls, around)
    if not calls:
        return graph
    return replace(
        graph,
        nodes=tuple(replace(n, scope=around.get(n.name, n.scope)) for n in graph.nodes),
        modules=tuple(_modules(graph, calls, around)),
    )


def _within(outline: Outline, folds: Iterable[Fold]) -> Iterator[Fold]:
    """Repeats that were found in a graph, in the scopes that an outline of it has."""
    scopes = {item.name: scope for scope, items in outline.items.items() for item in items}
    for fold in folds:
        found = {scopes.get(name) for copy in fold.copies for name in copy}
        scope = found.pop()
        if scope is not None and not found:
            yield replace(fold, scope=scope)


def _in_parts(
    scope: str,
    items: Sequence[Item],
    calls: dict[str, list[ModuleCall]],
    around: dict[str, str],
) -> None:
    """Puts the items of a scope that is too long into calls of about as many items as calls."""
    left = [item.name for item in items if item.name not in around]
    if len(left) <= _MOST_ITEMS:
        return
    size = math.isqrt(len(left))
    for number, start in enumerate(range(0, len(left), size)):
        name = f"{scope}/part_{number}" if scope else f"part_{number}"
        calls.setdefault(scope, []).append(ModuleCall(name, None, "part", scope, kind="function"))
        around.update(dict.fromkeys(left[start : start + size], name))


def _collects(item: Item, fold: Fold, outline: Outline) -> bool:
    """Whether an op after a loop puts together what each step of it has made."""
    if not isinstance(item, Node):
        return False
    steps = {name: number for number, copy in enumerate(fold.copies) for name in copy}
    paths = (outline.path_below(ref.node, fold.scope) for ref in item.inputs)
    read = [steps.get(path[0]) for path in paths if path]
    return None not in read and len(set(read)) == fold.times


def _modules(
    graph: ModelGraph, calls: Mapping[str, list[ModuleCall]], around: Mapping[str, str]
) -> Iterator[ModuleCall]:
    """The calls, parents first."""
    yield from calls.get("", ())
    for call in graph.modules:
        yield replace(call, parent=around.get(call.name, call.parent))
        yield from calls.get(call.name, ())
