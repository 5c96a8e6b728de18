"""Scopes of functions among those of modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelviz_callbacks.graph.model import ModelGraph
from modelviz_callbacks.graph.parts import ModuleCall


def home_of(modules: Mapping[str, ModuleCall], scope: str) -> str:
    """The module call that a scope is, or is in; what it holds is named after that.

    Args:
        modules: The module calls and functions of a graph by their names.
        scope: A name among them, or ``""``.
    """
    while scope and modules[scope].is_function:
        scope = modules[scope].parent
    return scope


def without_functions(graph: ModelGraph) -> ModelGraph:
    """A graph with modules as its only scopes: what functions hold is where they were called.

    Args:
        graph: Any graph.

    Returns:
        The same nodes under the same names.
    """
    modules = graph.module_by_name
    if not any(call.is_function for call in graph.modules):
        return graph
    return replace(
        graph,
        nodes=tuple(replace(node, scope=home_of(modules, node.scope)) for node in graph.nodes),
        modules=tuple(
            replace(call, parent=home_of(modules, call.parent))
            for call in graph.modules
            if not call.is_function
        ),
    )
