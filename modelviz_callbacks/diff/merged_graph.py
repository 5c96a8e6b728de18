"""Two graphs in one: the second, with what was removed from the first in the place it had.

The union is a sound graph of its own, to be drawn like any other. A tensor that was read from
something removed is still joined to its reader, by an argument called ``removed``. What was
added, removed or changed carries an argument that says so, so that repeats fold only where
all of them fared alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.diff.diff import GraphDiff
from modelviz_callbacks.diff.end_differences import ChangeKind
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node
from modelviz_callbacks.graph.names import clean_part
from modelviz_callbacks.graph.values import Argument, Ref

# The arguments that are added; no torch function has them.
_WAS_READ = "removed"
STATUS = "difference"


@dataclass(frozen=True)
class MergedGraph:
    """Two graphs in one.

    Attributes:
        graph: The union.
        status: What happened to module calls, ops, inputs and outputs, by their names in
            ``graph``; what is inside of them is left out.
        old_names: The names in the first graph of what was removed, by their names in ``graph``.
    """

    graph: ModelGraph
    status: dict[str, ChangeKind]
    old_names: dict[str, str]


def merge(found: GraphDiff) -> MergedGraph:
    """Joins two graphs.

    Args:
        found: Their difference.

    Returns:
        The union.
    """
    return _Joiner(found).merged()


class _Joiner:
    def __init__(self, found: GraphDiff) -> None:
        self.found = found
        self.before, self.after = found.before, found.after
        self.matching = found.matching
        self.taken = {"", *self.after.by_name, *self.after.module_by_name}
        self.numbers = {node.name: place for place, node in enumerate(self.after.nodes)}
        self.calls = {"": "", **found.matching.calls}  # names in the first graph -> names here
        self.nodes = dict(found.matching.nodes)
        self.gone: dict[str, str] = {}
        self.modules = list(self.after.modules)
        # What was removed, by the number of the node here that it comes after.
        self.moved: dict[int, list[Node]] = {}
        self.place: dict[str, int] = {}

    def merged(self) -> MergedGraph:
        """The union."""
        status = {change.item: change.kind for change in self.found.changes if change.item}
        self._follow_replaced()
        self._move()
        for change in self.found.changes:
            if change.kind == "removed" and change.old_item in self.gone:
                status[self.gone[change.old_item]] = "removed"
        joined = list(self._joined())
        graph = replace(self.after, nodes=tuple(joined), modules=tuple(self.modules), notes=())
        marked = tuple(_marked(node, graph, status) for node in graph.nodes)
        old_names = {new: old for old, new in self.gone.items()}
        return MergedGraph(replace(graph, nodes=marked), status, old_names)

    def _follow_replaced(self) -> None:
        """What a replaced module made, its replacement makes now."""
        calls = self.before.module_by_name, self.after.module_by_name
        for name in sorted(self.matching.replaced):
            ports = calls[0][name].outputs, calls[1][self.matching.calls[name]].outputs
            for old, new in zip(*ports, strict=False):
                self.nodes.setdefault(old.ref.node, new.ref.node)

    # --- what was removed

    def _move(self) -> None:
        """Gives what was removed a name and a place here."""
        tops = {item.name for item in self.matching.removed}
        ends = {change.old_item for change in self.found.changes if change.kind == "removed"}
        last = -1
        for node in self.before.nodes:
            if node.name in self.matching.nodes:
                last = max(last, self.numbers[self.matching.nodes[node.name]])
            elif node.is_call:
                inside = any(scope in tops for scope in self.before.scopes_of(node.scope))
                if inside or node.name in tops:
                    self._move_node(node, last)
            elif node.name in ends:
                end = len(self.after.nodes) - 1
                self._move_node(node, -1 if node.kind == "input" else end)

    def _move_node(self, node: Node, last: int) -> None:
        for ref in node.inputs:
            source = self.before.by_name[ref.node]
            if source.kind in HELD_KINDS and source.name not in self.place:
                self._put(replace(source, scope=self._scope(source.scope)), source, last)
        refs = [self._here(ref) for ref in node.inputs]
        known = tuple(
            Argument(f"input_{number}", ref) for number, ref in enumerate(refs) if ref is not None
        )
        if node.kind == "output" and len(known) != 1:
            return
        literals = tuple(
            argument for argument in node.arguments if isinstance(argument.value, (int, float, str))
        )
        last = max([last, *(self._place_of(ref) for ref in refs if ref is not None)])
        arguments = known if node.kind == "output" else (*known, *literals)
        self._put(replace(node, scope=self._scope(node.scope), arguments=arguments), node, last)

    def _put(self, node: Node, old: Node, last: int) -> None:
        name = self._new_name(node.scope, old.label)
        self.gone[old.name] = self.nodes[old.name] = name
        self.place[old.name] = self.place[name] = last
        self.moved.setdefault(last, []).append(replace(node, name=name))

    def _scope(self, name: str) -> str:
        """The scope here that stands for one of the first graph; made where it was removed."""
        if name in self.calls:
            return self.calls[name]
        call = self.before.module_by_name[name]
        parent = self._scope(call.parent)
        if not call.called:  # a container, of which nothing is known here
            self.calls[name] = parent
            return parent
        new = self._new_name(parent, call.label)
        self.calls[name] = self.gone[name] = new
        # Its path may belong to something else now.
        moved = ModuleCall(new, None, call.class_name, parent, training=call.training)
        self.modules.append(moved)
        return new

    def _new_name(self, scope: str, label: str) -> str:
        wanted = f"{scope}/{clean_part(label)}" if scope else clean_part(label)
        name, number = wanted, 1
        while name in self.taken:
            name, number = f"{wanted}_removed{number}", number + 1
        self.taken.add(name)
        return name

    def _here(self, ref: Ref) -> Ref | None:
        """The tensor here that stands for one of the first graph; ``None``: there is none."""
        name = self.nodes.get(ref.node)
        if name is None:
            return None
        node = self.after.by_name.get(name) or self.before.by_name[ref.node]
        return Ref(name, ref.index) if ref.index < len(node.outputs) else None

    def _place_of(self, ref: Ref) -> int:
        return self.place[ref.node] if ref.node in self.place else self.numbers[ref.node]

    # --- both together

    def _joined(self) -> Iterator[Node]:
        """All nodes, and edges from what was removed to what read it."""
        old = {new: name for name, new in self.matching.nodes.items()}
        yield from self.moved.get(-1, ())
        for number, node in enumerate(self.after.nodes):
            if node.is_call and node.name in old:
                reads = self.before.by_name[old[node.name]].inputs
                lost = [self._here(ref) for ref in reads if ref.node in self.gone]
                node = replace(
                    node,
                    arguments=node.arguments
                    + tuple(
                        Argument(_WAS_READ, ref)
                        for ref in dict.fromkeys(lost)
                        if ref is not None and self._place_of(ref) < number
                    ),
                )
            yield node
            yield from self.moved.get(number, ())


def _marked(node: Node, graph: ModelGraph, status: dict[str, ChangeKind]) -> Node:
    """The node, with what happened to it or to the innermost module around it it happened to."""
    for name in (node.name, *graph.scopes_of(node.scope)):
        if name in status and node.is_call:
            return replace(node, arguments=(*node.arguments, Argument(STATUS, status[name])))
    return node
