"""A graph without its bookkeeping: what pictures, the text and TensorBoard's overview tell.

What is beside the main path (see ``modelviz_callbacks.analysis.main_path``) is left out. Where it
feeds the main path stands a label in its place: a constant called after what it becomes
(``attn_mask``, ``labels``). What feeds nothing is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.main_path import bookkeeping
from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.graph.model import ModuleCall, Node, Port, Source
from modelviz_callbacks.graph.names import clean_part
from modelviz_callbacks.graph.op_facts import torch_name
from modelviz_callbacks.graph.values import Argument, Items, PythonText, Ref, SliceValue, Value
from modelviz_callbacks.view.port_names import argument_words

# What ``Node.op`` says of a label, and of an input of the graph that only labels stand for.
BOOKKEEPING = "bookkeeping"

# No chain of bookkeeping is followed further than this many ops for a name.
_LONGEST_WAY = 500


@dataclass(frozen=True)
class Simplified:
    """A graph without its bookkeeping, and what it takes to get the exact one back.

    Attributes:
        analysis: Of the graph that is left, a sound one.
        left_out: The nodes that are not in it.
        changed: The nodes that read a label there, as they were.
    """

    analysis: Analysis
    left_out: tuple[Node, ...] = ()
    changed: tuple[Node, ...] = ()


def simplified(analysis: Analysis) -> Analysis:
    """The analysis of the graph without its bookkeeping; the same one where there is none.

    Args:
        analysis: The analysis of a sound graph.
    """
    return analysis.once(simplification).analysis


def simplification(analysis: Analysis) -> Simplified:
    """The graph without its bookkeeping, with what was left out.

    Args:
        analysis: The analysis of a sound graph.
    """
    beside = bookkeeping(analysis)
    if not beside:
        return Simplified(analysis)
    return _Simplifier(analysis, beside).result()


def is_label(node: Node) -> bool:
    """Whether a node of such a graph stands for bookkeeping."""
    return node.op == BOOKKEEPING and not node.is_call


def labels_read(analysis: Analysis) -> dict[str, list[Node]]:
    """The bookkeeping that enters each module call, by the call's name.

    Args:
        analysis: Of a simplified graph.
    """
    return analysis.once(_labels_read)


def _labels_read(analysis: Analysis) -> dict[str, list[Node]]:
    """The bookkeeping that enters each module call, by the call's name."""
    graph = analysis.graph
    found: dict[str, dict[str, Node]] = {}
    for node in graph.ops:
        for ref in node.inputs:
            label = graph.by_name[ref.node]
            if not is_label(label):
                continue
            for scope in graph.scopes_of(node.scope):
                if scope == label.scope:
                    break
                found.setdefault(scope, {})[label.name] = label
    return {scope: list(labels.values()) for scope, labels in found.items()}


class _Simplifier:
    def __init__(self, analysis: Analysis, beside: frozenset[str]) -> None:
        self.analysis = analysis
        self.graph = analysis.graph
        self.beside = beside
        self._taken = {node.name for node in self.graph.nodes}
        self._taken |= {call.name for call in self.graph.modules}
        self._labels: dict[tuple[str, str], Node] = {}
        self._instead: dict[Ref, Ref] = {}  # for the tensors of ops that join nothing to something
        self._new: list[Node] = []
        self._scopes: dict[str, frozenset[str]] = {}
        self._joining = self._lines_that_join()

    def result(self) -> Simplified:
        kept: list[Node] = []
        left_out: list[Node] = []
        changed: list[Node] = []
        for node in self.graph.nodes:
            if node.name in self.beside:
                if node.kind == "input":
                    kept.append(replace(node, op=BOOKKEEPING))
                left_out.append(node)
                continue
            passed = self._passed(node)
            if passed is not None:
                self._instead[Ref(node.name)] = passed
                left_out.append(node)
                continue
            told = self._told(node)
            kept += self._new
            self._new = []
            kept.append(told)
            if told is not node:
                changed.append(node)
        read = {ref.node for node in kept for ref in node.inputs}
        for node in kept:
            if node.kind in HELD_KINDS and node.name not in read:
                left_out.append(node)
        kept = [node for node in kept if node.kind not in HELD_KINDS or node.name in read]
        graph = replace(self.graph, nodes=tuple(kept), modules=tuple(self._modules(kept)))
        return Simplified(Analysis(graph), tuple(left_out), tuple(changed))

    def _passed(self, node: Node) -> Ref | None:
        """The one tensor that a concatenation is made of, all others being empty bookkeeping."""
        full = self._full(node)
        if len(full) != 1 or len(node.inputs) < 2 or full[0].node in self.beside:
            return None
        if node.source is not None and node.source in self._joining:
            return None  # the first step of a loop that joins something from the second one on
        return self._instead.get(full[0], full[0])

    def _full(self, node: Node) -> list[Ref]:
        """What a concatenation joins that is not empty bookkeeping; nothing of other ops."""
        if torch_name(node.target) != "cat" or len(node.outputs) != 1:
            return []
        return [ref for ref in node.inputs if not self._is_empty(ref)]

    def _lines_that_join(self) -> frozenset[Source]:
        """The lines of source that concatenate several tensors at least once."""
        found = ((node.source, self._full(node)) for node in self.graph.ops)
        return frozenset(source for source, full in found if source and len(full) > 1)

    def _is_empty(self, ref: Ref) -> bool:
        spec = self.graph.spec(ref)
        return ref.node in self.beside and spec.shape is not None and spec.numel == 0

    def _told(self, node: Node) -> Node:
        if not any(ref.node in self.beside or ref in self._instead for ref in node.inputs):
            return node
        arguments = tuple(
            Argument(argument.name, self._value(argument.value, node, argument.name))
            for argument in node.arguments
        )
        return replace(node, arguments=arguments)

    def _value(self, value: Value, node: Node, name: str) -> Value:
        if isinstance(value, Ref):
            return self._stand_in(value, node, name)
        if isinstance(value, tuple):
            return tuple(self._value(item, node, name) for item in value)
        if isinstance(value, SliceValue):
            parts = (value.start, value.stop, value.step)
            return SliceValue(*(self._value(part, node, name) for part in parts))
        if isinstance(value, Items):
            return Items(tuple((key, self._value(item, node, key)) for key, item in value.items))
        return value

    def _stand_in(self, ref: Ref, node: Node, name: str) -> Value:
        if ref in self._instead:
            return replace(self._instead[ref], shape_only=ref.shape_only)
        if ref.node not in self.beside:
            return ref
        if ref.shape_only or self._is_empty(ref):
            return PythonText("shape" if ref.shape_only else "empty")
        home, words = self._origin(ref, node, name)
        if (home, words) not in self._labels:
            label = Node(
                self._free_name(home, words),
                "constant",
                BOOKKEEPING,
                home,
                (self.graph.spec(ref),),
                path=words,
            )
            self._labels[home, words] = label
            self._new.append(label)
        return Ref(self._labels[home, words].name)

    def _free_name(self, home: str, words: str) -> str:
        name = f"{home}/{clean_part(words)}" if home else clean_part(words)
        stem, number = name, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    # --- what a label is called

    def _origin(self, ref: Ref, reader: Node, argument: str) -> tuple[str, str]:
        """The scope that bookkeeping is from, and the words for it.

        Args:
            ref: A tensor beside the main path.
            reader: An op on the main path that reads it.
            argument: As what.
        """
        words = ""
        ends = {ref}
        seen: list[Node] = []
        for scope in (*self.graph.scopes_of(reader.scope), ""):
            ends = set(self._entering(ends, scope, seen))
            if not ends:
                break
            if scope and not words:
                ports = self.graph.module_by_name[scope].inputs
                names = (argument_words(port.path) for port in ports if port.ref in ends)
                words = next((name for name in names if name), "")
        else:
            scope = ""
        return scope, self._own_input(seen) or words or self._fallback(ref, argument, seen)

    def _entering(self, ends: Iterable[Ref], scope: str, seen: list[Node]) -> Iterator[Ref]:
        """The bookkeeping that some tensors made in a scope are made of and that enters it."""
        stack = sorted(ends, key=lambda ref: (ref.node, ref.index))
        known = set(stack)
        while stack:
            ref = stack.pop()
            node = self.graph.by_name[ref.node]
            if scope and scope not in self._around(node.scope):
                yield ref
                continue
            seen.append(node)
            if len(seen) > _LONGEST_WAY:
                return
            for source in _values_of(node):
                if source not in known:
                    known.add(source)
                    if source.node in self.beside:
                        stack.append(source)
                    else:
                        seen.append(self.graph.by_name[source.node])

    def _around(self, scope: str) -> frozenset[str]:
        """A scope and those around it."""
        if scope not in self._scopes:
            self._scopes[scope] = frozenset(self.graph.scopes_of(scope))
        return self._scopes[scope]

    def _own_input(self, seen: list[Node]) -> str:
        """The one input that bookkeeping is made of, if it is for nothing else."""
        inputs = {node.name: node for node in seen if node.kind == "input"}
        own = [node for node in inputs.values() if node.name in self.beside]
        return (own[0].path or own[0].label) if len(own) == 1 else ""

    def _fallback(self, ref: Ref, argument: str, seen: list[Node]) -> str:
        """Words for bookkeeping that enters no module under a name of its own."""
        inputs = list(dict.fromkeys(node for node in seen if node.kind == "input"))
        if len(inputs) == 1 and inputs[0].aliases:
            return inputs[0].aliases[-1]  # it is an input of two names: not the one on the path
        word = argument_words(argument)
        if word:
            return word
        if len(inputs) == 1:
            return inputs[0].path or inputs[0].label
        buffers = dict.fromkeys(node.path for node in seen if node.kind == "buffer")
        if len(buffers) == 1:
            return next(iter(buffers)).rpartition(".")[2]
        maker = self.graph.by_name[ref.node]
        while maker.name in self.beside and (read := _values_of(maker)):
            maker = self.graph.by_name[read[0].node]
        return maker.op if maker.is_call else maker.path.rpartition(".")[2] or maker.label

    # --- module calls

    def _modules(self, kept: list[Node]) -> Iterator[ModuleCall]:
        made: Mapping[str, int] = {node.name: len(node.outputs) for node in kept}
        before = self._busy(self.graph.ops)
        after = self._busy(kept)
        for call in self.graph.modules:
            if call.name in before and call.name not in after:
                continue  # all that it did is bookkeeping
            inputs, outputs = self._ports(call.inputs, made), self._ports(call.outputs, made)
            yield replace(call, inputs=inputs, outputs=outputs)

    def _busy(self, nodes: Iterable[Node]) -> set[str]:
        found: set[str] = set()
        for scope in {node.scope for node in nodes}:
            for around in self.graph.scopes_of(scope):
                if around in found:
                    break
                found.add(around)
        return found

    def _ports(self, ports: Iterable[Port], made: Mapping[str, int]) -> tuple[Port, ...]:
        found = (Port(port.path, self._instead.get(port.ref, port.ref)) for port in ports)
        return tuple(port for port in found if port.ref.node in made)


def _values_of(node: Node) -> list[Ref]:
    """The tensors whose values a node reads."""
    return [ref for ref in node.inputs if not ref.shape_only]
