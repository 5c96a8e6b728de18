"""Containers that hide how a model is wired if they are boxes: what is in them is shown instead.

A ``ModuleList`` runs nothing itself: its children run wherever the module around it calls them.
Where something in between reads one child and is read by another (the pools between the levels
of a U-Net), a box around the children would both come before it and after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelviz_callbacks.graph import ModelGraph


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
