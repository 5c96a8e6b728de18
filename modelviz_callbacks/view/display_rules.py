"""What a reader does not want to see: classes folded into one box, left out, or renamed.

Rules change what is drawn and told, never what was recorded: `apply` makes another graph of a
graph, sound like the first, whose edges say nothing that the first does not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.outline import HELD_KINDS
from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.graph.model import ModelGraph, ModuleCall, Node, Port
from modelviz_callbacks.graph.names import clean_part
from modelviz_callbacks.graph.values import Argument, Items, Ref, SliceValue, Value
from modelviz_callbacks.view.label_facts import with_own_facts


@dataclass(frozen=True)
class Rules:
    """What to fold, to hide and to rename.

    A pattern means the module calls whose class it matches, with or without the module the
    class is in (``Dropout``, ``torch.nn.*.Dropout``), and the ops it matches (``dropout``);
    ``*`` and ``?`` stand for any characters and for one.

    Attributes:
        fold: Classes of modules to show as one box that is never opened.
        hide: Classes and ops to leave out: what reads their result reads their input instead.
        rename: Patterns and what to call the classes and ops they match.
        facts: Attributes of modules and how labels tell them, with ``{}`` for the value.
    """

    fold: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(
        fold: Iterable[str] = (),
        hide: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> Rules:
        """Rules from what a user writes.

        Args:
            fold: Patterns, or one.
            hide: Likewise.
            rename: New names by pattern; the first that matches counts.
            facts: Words by the name of an attribute: ``{"dim_head": "head width {}"}``; ``""``
                leaves a fact out.

        Returns:
            The rules.

        Raises:
            OptionError: A pattern or a name is empty, a name has a dot in it, or the words for
                an attribute have no place for its value.
        """
        folded, hidden = _patterns("fold", fold), _patterns("hide", hide)
        pairs = tuple((rename or {}).items())
        _patterns("rename", [pattern for pattern, _ in pairs])
        for pattern, name in pairs:
            if not isinstance(name, str) or not name.strip() or "." in name:
                raise OptionError(
                    f"{pattern!r} cannot be renamed to {name!r}: give a name that is not empty "
                    "and has no dot."
                )
        return Rules(folded, hidden, pairs, _told_facts(facts or {}))


def apply(analysis: Analysis, rules: Rules) -> Analysis:
    """The graph as the rules want it seen, made once.

    Hidden are calls and ops that read at least one tensor. A hidden one that reads several is
    joined to all of them: its readers then have them all in the place of the one. It stays
    where it stands right before an output of the graph, which can only be one tensor.

    Folded is a call whose ops ran without a break. In its place is one op, called and
    costed as the whole, that reads what the call read and makes what was read of it.

    Args:
        analysis: The analysis of a sound graph.
        rules: What to change.

    Returns:
        The analysis of a sound graph with the same parameters and notes; the same analysis if
        nothing matches.
    """
    return analysis.once(_applied, rules)


def _applied(analysis: Analysis, rules: Rules) -> Analysis:
    shown = analysis
    if rules.hide:
        shown = _analysis_of(_Hiding(shown, rules.hide).result(), shown)
    if rules.fold:
        shown = _analysis_of(_Folding(shown, rules.fold).result(), shown)
    if rules.rename:
        shown = _analysis_of(_renamed(shown.graph, rules.rename), shown)
    if rules.facts:
        words = dict(rules.facts)
        calls = [with_own_facts(call, words) or call for call in shown.graph.modules]
        shown = _analysis_of(replace(shown.graph, modules=tuple(calls)), shown)
    return shown


def _told_facts(facts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    _patterns("tell", facts)
    for name, words in facts.items():
        if not isinstance(words, str) or (words and not _has_one_place(words)):
            raise OptionError(
                f"{name!r} cannot be told as {words!r}: give words with one {{}} for the value, "
                "such as 'head width {}', or '' for none."
            )
    return tuple(facts.items())


def _has_one_place(words: str) -> bool:
    return words.count("{}") == 1 and words.count("{") == words.count("}") == 1


def _analysis_of(graph: ModelGraph, before: Analysis) -> Analysis:
    return before if graph == before.graph else Analysis(graph)


def _patterns(what: str, given: Iterable[str]) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else tuple(given)
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.strip():
            raise OptionError(
                f"{pattern!r} is nothing to {what}: give the name of a class or an op, such as "
                "'Dropout'."
            )
    return patterns


def _matches(thing: ModuleCall | Node, pattern: str) -> bool:
    if isinstance(thing, Node):
        return thing.is_call and fnmatchcase(thing.op, pattern)
    names = (thing.class_name, thing.type_name)
    return any(fnmatchcase(name, pattern) for name in names)


def _matches_any(thing: ModuleCall | Node, patterns: Iterable[str]) -> bool:
    return any(_matches(thing, pattern) for pattern in patterns)


def _renamed(graph: ModelGraph, rename: tuple[tuple[str, str], ...]) -> ModelGraph:
    def name_of(thing: ModuleCall | Node) -> str | None:
        return next((name for pattern, name in rename if _matches(thing, pattern)), None)

    nodes = []
    for node in graph.nodes:
        name = name_of(node)
        nodes.append(node if name is None else replace(node, op=name))
    modules = []
    for call in graph.modules:
        name = name_of(call)
        home, dot, _ = call.class_name.rpartition(".")
        # The rest of the class's name stays: it tells torch's own modules from others.
        modules.append(call if name is None else replace(call, class_name=f"{home}{dot}{name}"))
    return replace(graph, nodes=tuple(nodes), modules=tuple(modules))


class _Rewriting:
    """What hiding and folding share: a graph from which some things are taken."""

    def __init__(self, analysis: Analysis) -> None:
        self.graph = analysis.graph
        self.outline = analysis.outline
        self.gone_nodes: set[str] = set()
        self.gone_calls: set[str] = set()
        self._ops_of: dict[str, list[str]] = {}
        for node in self.graph.ops:
            self._ops_of.setdefault(node.scope, []).append(node.name)
        # What stands for a tensor that is gone.
        self.instead: dict[Ref, tuple[Ref, ...]] = {}

    def scopes_below(self, call: ModuleCall) -> list[str]:
        """A call and all calls in it."""
        found = [call.name]
        for name in found:
            found += [child.name for child in self.graph.children[name]]
        return found

    def ops_in(self, scopes: Iterable[str]) -> frozenset[str]:
        """Names of the ops directly in some scopes."""
        return frozenset(name for scope in scopes for name in self._ops_of.get(scope, ()))

    def matching(self, patterns: tuple[str, ...]) -> list[ModuleCall]:
        """The outermost calls that match."""
        found: list[ModuleCall] = []
        inside: set[str] = set()
        for call in self.graph.modules:
            if call.parent in inside:
                inside.add(call.name)
            elif call.called and _matches_any(call, patterns):
                inside.add(call.name)
                found.append(call)
        return found

    def sources(self, ref: Ref) -> tuple[Ref, ...]:
        """What stands for a tensor, through everything that is gone."""
        if ref not in self.instead:
            return (ref,)
        found = [source for inner in self.instead[ref] for source in self.sources(inner)]
        return tuple(dict.fromkeys(found))

    def value(self, value: Value) -> Value:
        """An argument with what stands for the tensors in it."""
        if isinstance(value, Ref):
            found = self.sources(value)
            return found[0] if len(found) == 1 else found
        if isinstance(value, tuple):
            return tuple(self.value(item) for item in value)
        if isinstance(value, SliceValue):
            return SliceValue(*(self.value(part) for part in (value.start, value.stop, value.step)))
        if isinstance(value, Items):
            return Items(tuple((key, self.value(item)) for key, item in value.items))
        return value

    def node(self, node: Node) -> Node:
        """A node that stays, reading what is there."""
        if not any(ref in self.instead for ref in node.inputs):
            return node
        arguments = tuple(Argument(a.name, self.value(a.value)) for a in node.arguments)
        return replace(node, arguments=arguments)

    def ports(self, ports: tuple[Port, ...]) -> tuple[Port, ...]:
        """Ports to what is there."""
        return tuple(Port(port.path, ref) for port in ports for ref in self.sources(port.ref))

    def rewritten(self, nodes: Iterable[Node]) -> ModelGraph:
        """The graph of some nodes, without what nothing reads any more."""
        kept = [self.node(node) for node in nodes]
        read = {ref.node for node in kept for ref in node.inputs}
        kept = [node for node in kept if node.kind not in HELD_KINDS or node.name in read]
        made = {Ref(node.name, n) for node in kept for n in range(len(node.outputs))}
        modules = []
        for call in self.graph.modules:
            if call.name not in self.gone_calls:
                inputs = tuple(port for port in self.ports(call.inputs) if port.ref in made)
                outputs = tuple(port for port in self.ports(call.outputs) if port.ref in made)
                modules.append(replace(call, inputs=inputs, outputs=outputs))
        return replace(self.graph, nodes=tuple(kept), modules=tuple(_occupied(modules)))


def _occupied(modules: list[ModuleCall]) -> list[ModuleCall]:
    """Without the containers in which no call is left."""
    used: set[str] = set()
    kept = []
    for call in reversed(modules):
        if call.called or call.name in used:
            kept.append(call)
            used.add(call.parent)
    return kept[::-1]


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A call or an op to be hidden: its scopes, its ops and the tensors it reads."""

    name: str
    scopes: tuple[str, ...]
    ops: frozenset[str]
    reads: tuple[Ref, ...]


class _Hiding(_Rewriting):
    def __init__(self, analysis: Analysis, patterns: tuple[str, ...]) -> None:
        super().__init__(analysis)
        graph = self.graph
        hidden = [*self._calls(patterns)]
        inside = {name for one in hidden for name in one.ops}
        for node in graph.ops:
            if node.name not in inside and _matches_any(node, patterns):
                ops = frozenset({node.name})
                hidden.append(_Hidden(node.name, (), ops, self.outline.externals(node)))
        self._hide([one for one in hidden if one.reads])

    def result(self) -> ModelGraph:
        return self.rewritten(n for n in self.graph.nodes if n.name not in self.gone_nodes)

    def _calls(self, patterns: tuple[str, ...]) -> Iterator[_Hidden]:
        for call in self.matching(patterns):
            scopes = tuple(self.scopes_below(call))
            yield _Hidden(call.name, scopes, self.ops_in(scopes), self.outline.externals(call))

    def _hide(self, hidden: list[_Hidden]) -> None:
        """Hides all of them but those that would leave an output with several tensors."""
        self.instead = {
            Ref(name, number): one.reads
            for one in hidden
            for name in one.ops
            for number in range(len(self.graph.by_name[name].outputs))
        }
        ends = [
            node.inputs[0].node
            for node in self.graph.of_kind("output")
            if len(self.sources(node.inputs[0])) > 1
        ]
        if ends:
            return self._hide([one for one in hidden if one.ops.isdisjoint(ends)])
        self.gone_nodes = {name for one in hidden for name in one.ops}
        self.gone_calls = {scope for one in hidden for scope in one.scopes}
        return None


class _Folding(_Rewriting):
    def __init__(self, analysis: Analysis, patterns: tuple[str, ...]) -> None:
        super().__init__(analysis)
        graph = self.graph
        self._order = {node.name: number for number, node in enumerate(graph.nodes)}
        self._ports_at: dict[Ref, set[str]] = {}  # the calls that a tensor enters or leaves
        for call in graph.modules:
            for port in (*call.inputs, *call.outputs):
                self._ports_at.setdefault(port.ref, set()).add(call.name)
        self._taken = {node.name for node in graph.nodes} | {call.name for call in graph.modules}
        self._homes: dict[str, str] = {}  # the folded call that a scope is gone into
        self._made: dict[str, Node] = {}  # in the place of the last op of each folded call
        for call in self.matching(patterns):
            self._fold(call)

    def result(self) -> ModelGraph:
        nodes = []
        for node in self.graph.nodes:
            if node.name in self._made:
                nodes.append(self._made[node.name])
            elif node.name not in self.gone_nodes:
                nodes.append(replace(node, scope=self._homes.get(node.scope, node.scope)))
        return self.rewritten(nodes)

    def _fold(self, call: ModuleCall) -> None:
        scopes = self.scopes_below(call)
        ops = self.ops_in(scopes)
        inside = sorted(ops, key=self._order.__getitem__)
        if not inside or self._is_interrupted(inside):
            return
        handed_on = list(self._handed_on(inside, ops, set(scopes[1:])))
        name = self._free_name(call)
        for number, ref in enumerate(handed_on):
            self.instead[ref] = (Ref(name, number),)
        nodes = [self.graph.by_name[op] for op in inside]
        flops = [node.flops for node in nodes if node.flops is not None]
        kept = [node.kept_bytes for node in nodes if node.kept_bytes is not None]
        live = [node.live_bytes for node in nodes if node.live_bytes is not None]
        self._made[inside[-1]] = Node(
            name,
            "op",
            call.type_name,
            call.name,
            tuple(self.graph.spec(ref) for ref in handed_on),
            tuple(self._arguments(call, nodes)),
            call.class_name,
            reads_value=any(node.reads_value for node in nodes),
            flops=sum(flops) if flops else None,
            kept_bytes=sum(kept) if kept else None,
            live_bytes=max(live, default=None),
        )
        self.gone_nodes |= ops
        self.gone_calls.update(scopes[1:])
        self._homes.update(dict.fromkeys(scopes, call.name))

    def _is_interrupted(self, inside: list[str]) -> bool:
        """Whether an op from elsewhere, amid these, already reads what they have made."""
        ops = set(inside)
        between = self.graph.nodes[self._order[inside[0]] : self._order[inside[-1]]]
        return any(
            ref.node in ops for node in between if node.name not in ops for ref in node.inputs
        )

    def _handed_on(self, inside: list[str], ops: frozenset[str], gone: set[str]) -> Iterator[Ref]:
        """The tensors that something outside reads, or that are shown as a port."""
        for name in inside:
            for number in range(len(self.graph.by_name[name].outputs)):
                ref = Ref(name, number)
                readers = self.graph.consumers.get(ref, ())
                is_port = not self._ports_at.get(ref, set()) <= gone
                if is_port or any(reader.name not in ops for reader in readers):
                    yield ref

    def _arguments(self, call: ModuleCall, nodes: list[Node]) -> Iterator[Argument]:
        words = {port.ref: port.path for port in reversed(call.inputs)}
        for number, ref in enumerate(self.outline.externals(call)):
            yield Argument(words.get(ref, f"input_{number}"), ref)
        read = dict.fromkeys(ref for node in nodes for ref in node.inputs)
        for ref in read:
            held = self.graph.by_name[ref.node]
            if held.kind in HELD_KINDS:
                # Seen from the call, so that copies of it stay alike.
                yield Argument(held.name.removeprefix(f"{call.name}/"), ref)

    def _free_name(self, call: ModuleCall) -> str:
        name = f"{call.name}/{clean_part(call.type_name)}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
