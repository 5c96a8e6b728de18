"""Calls that hide how a model is wired if they are boxes: what is in them is shown instead.

A wrapper that holds nearly all of a model says nothing while it is closed.

A ``ModuleList`` runs nothing itself: its children run wherever the module around it calls them.
Where something in between reads one child and is read by another (the pools between the levels
of a U-Net), a box around the children would both come before it and after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.wrappers import opened_wrappers
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.writers.graphdef.layout import EMBEDDED_KINDS, place

# In a box of so many children TensorBoard puts those with so many neighbours on one side aside
# ("auxiliary nodes"), cut off from what they read.
_FEWEST_TO_PUT_ASIDE, _NEIGHBOURS_TO_PUT_ASIDE = 15, 5


def seen_through(analysis: Analysis) -> frozenset[str]:
    """The module calls that are no boxes: wrappers, and tangled containers.

    Args:
        analysis: The analysis of a sound graph.

    Returns:
        Names of module calls of it.
    """
    return analysis.once(_seen_through)


def _seen_through(analysis: Analysis) -> frozenset[str]:
    graph = analysis.graph
    tangled = tangled_containers(graph)
    wrappers = opened_wrappers(analysis)
    opened = [call.name for call in graph.modules if call.name in wrappers]
    while opened and _puts_aside(analysis, tangled.union(opened)):
        del opened[-1]
    return tangled.union(opened)


def _puts_aside(analysis: Analysis, no_boxes: frozenset[str]) -> bool:
    """Whether TensorBoard would put a part of the model aside at the top level."""
    graph = analysis.graph
    names = place(graph.nodes, graph.modules, no_boxes, analysis.folds)
    drawn = [node for node in graph.nodes if node.kind not in EMBEDDED_KINDS]
    parts = {node.name: names[node.name].partition("/")[0] for node in drawn}
    before: dict[str, set[str]] = defaultdict(set)
    after: dict[str, set[str]] = defaultdict(set)
    for node in drawn:
        here = parts[node.name]
        for there in {parts[ref.node] for ref in node.inputs if ref.node in parts} - {here}:
            before[here].add(there)
            after[there].add(here)
    most = max((len(others) for others in (*before.values(), *after.values())), default=0)
    is_large = len(set(parts.values())) >= _FEWEST_TO_PUT_ASIDE
    return is_large and most >= _NEIGHBOURS_TO_PUT_ASIDE


def tangled_containers(graph: ModelGraph) -> frozenset[str]:
    """The containers that a way leads out of and into again, before its ways come together.

    Args:
        graph: A sound graph.

    Returns:
        Names of module calls of it that did not run.
    """
    bits = {call.name: 1 << n for n, call in enumerate(c for c in graph.modules if not c.called)}
    if not bits:
        return frozenset()
    around = {"": 0}
    for call in graph.modules:
        around[call.name] = around.get(call.parent, 0) | bits.get(call.name, 0)
    # Of each node the containers that what it works on was in, and those that it has left.
    been: dict[str, int] = {}
    left: dict[str, int] = {}
    tangled = 0
    for node in graph.nodes:
        here = around.get(node.scope, 0)
        before = {ref.node for ref in node.inputs}
        was, gone = _any(been, before), _any(left, before)
        if node.is_call:
            tangled |= gone & here
            been[node.name], left[node.name] = was | here, gone | (was & ~here)
    return frozenset(name for name, bit in bits.items() if tangled & bit)


def _any(sets: dict[str, int], names: Iterable[str]) -> int:
    found = 0
    for name in names:
        found |= sets.get(name, 0)
    return found
