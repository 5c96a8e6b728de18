"""The steps of a scope as a person would tell them: repeats once, shape juggling in one breath.

Ops that only change how a tensor is laid out (`OpFact.LAYOUT`) are quiet; a chain of them is
one step. Copies that fold (see ``modelviz_callbacks.analysis.repeats.search``) are one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from modelviz_callbacks.analysis.outline import HELD_KINDS, Item, Outline
from modelviz_callbacks.analysis.repeats.wiring import Fold
from modelviz_callbacks.graph.model import ModuleCall, Node
from modelviz_callbacks.graph.op_facts import OpFact, facts_of
from modelviz_callbacks.graph.values import (
    Ref,
    TensorSpec,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a scope.

    Attributes:
        items: The items it stands for, of the first copy where it is repeated: one module
            call, one op, a chain of quiet ops, or a pattern of several items.
        fold: The repeats it stands for.
        inner: The steps of the pattern, where it is one of several items.
    """

    items: tuple[Item, ...]
    fold: Fold | None = None
    inner: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        """The name of its first item; no two steps share one, but for a pattern's first."""
        return self.items[0].name

    @property
    def times(self) -> int:
        """How often it was repeated; 1 if it was not."""
        return self.fold.times if self.fold else 1

    @property
    def call(self) -> ModuleCall | None:
        """The module call that it is, if it is one."""
        item = self.items[0]
        return item if isinstance(item, ModuleCall) and len(self.items) == 1 else None

    @property
    def is_quiet(self) -> bool:
        """Whether it only changes the layout of a tensor."""
        return not self.inner and all(map(_is_quiet, self.items))


class Steps:
    """The steps of every scope of a graph, and which step made a tensor.

    Args:
        outline: The graph's items in order.
        folds: Its repeats.

    Attributes:
        graph: The graph.
        outline: The same.
    """

    def __init__(self, outline: Outline, folds: Iterable[Fold]) -> None:
        self.graph = outline.graph
        self.outline = outline
        self._folds: dict[str, dict[str, Fold]] = {}
        for fold in folds:
            self._folds.setdefault(fold.scope, {})[fold.copies[0][0]] = fold
        self._made: dict[str, tuple[Step, ...]] = {}
        self._of_item: dict[str, Step] = {}

    def of(self, scope: str) -> tuple[Step, ...]:
        """The steps of a module call that ran, or of the model's own forward (``""``)."""
        if scope not in self._made:
            self._made[scope] = tuple(self._steps(scope))
            for step in self._made[scope]:
                names = {item.name for item in step.items}
                if step.fold:
                    names.update(name for copy in step.fold.copies for name in copy)
                self._of_item.update(dict.fromkeys(names, step))
        return self._made[scope]

    def maker(self, ref: Ref, scope: str, pattern: Step | None = None) -> Step | None:
        """The step that made a tensor.

        Args:
            ref: Any tensor.
            scope: The scope whose steps are meant.
            pattern: A step of it with inner steps, which are meant then where they made it.

        Returns:
            The step; ``None`` if the tensor was made outside of the scope.
        """
        if self.graph.by_name[ref.node].kind in HELD_KINDS | {"input"}:
            return None
        path = self.outline.path_below(ref.node, scope)
        if path is None:
            return None
        self.of(scope)
        for step in pattern.inner if pattern else ():
            if any(item.name == path[0] for item in step.items):
                return step
        return self._of_item[path[0]]

    def reads(self, step: Step) -> tuple[Ref, ...]:
        """The tensors a step reads from outside itself, without parameters and buffers."""
        found: dict[Ref, None] = {}
        inside = {item.name for item in step.items}
        scope = self.outline.scope_of(step.items[0])
        for item in step.items:
            for ref in self.outline.externals(item):
                path = self.outline.path_below(ref.node, scope)
                if path is None or path[0] not in inside:
                    found[ref] = None
        return tuple(found)

    def makes(self, step: Step) -> tuple[TensorSpec, ...]:
        """The tensors that a step hands on: of a module call its outputs."""
        last = step.items[-1]
        if isinstance(last, Node):
            return last.outputs
        refs = dict.fromkeys(port.ref for port in last.outputs)
        return tuple(self.graph.spec(ref) for ref in refs)

    def is_loop(self, step: Step) -> bool:
        """Whether it is a body that runs again and again, not blocks with weights of their own."""
        if step.fold is None or step.fold.shared:
            return step.fold is not None
        nodes = [item for item in step.items if isinstance(item, Node)]
        held = (self.graph.by_name[ref.node].kind for node in nodes for ref in node.inputs)
        return len(nodes) == len(step.items) and "parameter" not in held

    def carried(self, step: Step) -> tuple[tuple[Ref, str], ...]:
        """What each step of a loop reads of the one before.

        Args:
            step: Any step.

        Returns:
            Tensors of the first copy, each with the op of the first copy that reads in the copies
            after it what is in the place of the tensor; nothing if it is no loop.
        """
        if step.fold is None or not self.is_loop(step):
            return ()
        scope, first = step.fold.scope, set(step.fold.copies[0])
        at = self.outline.position[step.fold.copies[1][0]]
        second = self.outline.items[scope][at : at + len(first)]
        found: dict[tuple[Ref, str], None] = {}
        for node in self._nodes(iter(second)):
            for ref in node.inputs:
                is_value = not ref.shape_only and self.graph.by_name[ref.node].is_call
                path = self.outline.path_below(ref.node, scope) if is_value else None
                if path is not None and path[0] in first:
                    found[ref, self.stand_in[node.name]] = None
        return tuple(found)

    @cached_property
    def stand_in(self) -> dict[str, str]:
        """For each op of a further copy the one of the first copy in its place."""
        found: dict[str, str] = {}
        by_name: dict[str, Item] = {
            item.name: item for items in self.outline.items.values() for item in items
        }
        for folds in self._folds.values():
            for fold in folds.values():
                first = [node.name for node in self._nodes(by_name[n] for n in fold.copies[0])]
                for copy in fold.copies[1:]:
                    copied = self._nodes(by_name[name] for name in copy)
                    for node, stands in zip(copied, first, strict=True):
                        found[node.name] = stands
        return found

    def _nodes(self, items: Iterator[Item]) -> Iterator[Node]:
        for item in items:
            yield from self.outline.calls_in(item)

    def _steps(self, scope: str) -> Iterator[Step]:
        items = self.outline.items[scope]
        folds = self._folds.get(scope, {})
        plain: list[Item] = []
        at = 0
        while at < len(items):
            fold = folds.get(items[at].name)
            if fold is None:
                plain.append(items[at])
                at += 1
                continue
            yield from self._plain(plain)
            plain = []
            period = len(fold.copies[0])
            pattern = items[at : at + period]
            inner = tuple(self._plain(pattern)) if period > 1 else ()
            yield Step(pattern, fold, inner)
            at += period * fold.times
        yield from self._plain(plain)

    def _plain(self, items: Sequence[Item]) -> Iterator[Step]:
        """Steps of items that do not repeat; ops that made no tensor are left out."""
        chain: list[Item] = []
        for item in items:
            if isinstance(item, Node) and not item.outputs and not item.reads_value:
                continue
            if chain and not (_is_quiet(item) and self._only_reads(item, chain[-1])):
                yield Step(tuple(chain))
                chain = []
            chain.append(item)
            if not _is_quiet(item):
                yield Step(tuple(chain))
                chain = []
        if chain:
            yield Step(tuple(chain))

    def _only_reads(self, item: Item, before: Item) -> bool:
        """Whether an op reads nothing but the item before it, and is its only reader."""
        sources = {ref.node for ref in self.outline.externals(item)}
        if sources != {before.name} or not isinstance(before, Node):
            return False
        readers = {
            node.name
            for index in range(len(before.outputs))
            for node in self.graph.consumers.get(Ref(before.name, index), ())
        }
        return readers == {item.name}


def _is_quiet(item: Item) -> bool:
    return isinstance(item, Node) and OpFact.LAYOUT in facts_of(item.target)
