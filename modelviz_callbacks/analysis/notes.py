"""What is worth knowing about a model and can be read off its graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from modelviz_callbacks.analysis.buffer_weights import weights_in_buffers
from modelviz_callbacks.graph.model import ModelGraph, Node, Note
from modelviz_callbacks.graph.op_facts import UNSEEN_VIEW
from modelviz_callbacks.graph.values import (
    Ref,
)


@dataclass(frozen=True)
class ModelFacts:
    """What notes say of a model beyond its graph.

    Attributes:
        modules: Its modules that a user can do without: the qualified name of each, and whether
            it has a forward to be called (a ``ModuleList`` has none).
        unregistered: The names of module calls of layers that the model does not know as its
            own, though they have weights to train.
        own_leaves: The names of tensors in the graph that require a gradient of their own and are
            no parameters of the model.
        of_libraries: The names of ops that stand in the code of an installed library.
        lazy: Where in what the forward returned something computes only later.
        losses: The names of ops whose result ``backward`` was called on.
    """

    modules: Collection[tuple[str, bool]] = ()
    unregistered: Sequence[str] = ()
    own_leaves: Sequence[str] = ()
    of_libraries: Collection[str] = frozenset()
    lazy: Sequence[str] = ()
    losses: Collection[str] = frozenset()


# How many subjects one note names before it only counts them.
_SHOWN = 5


_EMPTY = (
    "No op ran during the forward. If it yields or hands back a function, what it computes runs "
    "after the call: trace(model, *inputs) follows a generator to its end."
)
_NO_INPUTS = (
    "No tensor was found among what the forward was given: the graph has no inputs, and what it "
    "works on are parameters and constants."
)

# How many notes a graph has at most; they are read one by one.
_MOST = 10

# What a user can act on comes first.
_ORDER = (
    "partial",
    "empty",
    "no-inputs",
    "lazy-result",
    "unregistered",
    "unregistered-tensor",
    "parameter-without-effect",
    "unused-parameter",
    "module-never-called",
    "remark",
    "value-read",
    "opaque",
    "unused-result",
    "weights-in-buffers",
    "frozen",
)


def notes(graph: ModelGraph, facts: ModelFacts) -> tuple[Note, ...]:
    """All notes on a graph: those it has, and what can be read off it.

    Args:
        graph: Any graph.
        facts: What is known of the model beside.

    Returns:
        At most ten: one of each kind with the places in one line, but for remarks. What a user
        can act on comes first; the last one says how many were left out.
    """
    found = [*graph.notes, *_lazy(facts), *_unregistered(facts), *_opaque(graph)]
    found += _in_buffers(graph)
    if facts.lazy:  # what runs later may use the rest
        found += [*_value_reads(graph, facts), *_frozen(graph)]
    elif not graph.partial and not graph.ops and graph.parameters:
        found.append(Note("empty", "", _EMPTY))  # of what ran later it is not known what it used
    elif not graph.partial:  # what did not run might have used the rest
        if graph.nodes and not graph.of_kind("input"):
            found.append(Note("no-inputs", "", _NO_INPUTS))
        found += [
            *_without_effect(graph),
            *_unused_parameters(graph),
            *_never_called(graph, facts),
            *_value_reads(graph, facts),
            *_unused_results(graph, facts),
            *_frozen(graph),
        ]
    # Kinds that are not in the order keep theirs at the end.
    found.sort(key=lambda note: _ORDER.index(note.kind) if note.kind in _ORDER else len(_ORDER))
    if len(found) > _MOST:
        more = len(found) - _MOST + 1
        found[_MOST - 1 :] = [Note("remark", "", f"{more} more remarks were left out.")]
    return tuple(found)


def _places(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
    return ", ".join(unique[:_SHOWN]) + more


def _told(kind: str, names: Sequence[str], one: str, many: str, count: int = 0) -> Iterator[Note]:
    """One note about all the places of a kind.

    Args:
        kind: The note's.
        names: The places; nothing is said of none.
        one: What is said of one, with ``{}`` for its name.
        many: What is said of several, with ``{n}`` for their number and ``{places}``.
        count: What else is counted, ``{count}`` in both.
    """
    if len(names) == 1:
        yield Note(kind, names[0], one.format(names[0], count=count))
    elif names:
        yield Note(kind, names[0], many.format(n=len(names), places=_places(names), count=count))


def _lazy(facts: ModelFacts) -> Iterator[Note]:
    yield from _told(
        "lazy-result",
        facts.lazy,
        "What the forward returned holds something that computes only when values are taken out "
        "of it, {}: what runs then is not recorded.",
        "What the forward returned holds {n} things that compute only when values are taken out "
        "of them, {places}: what runs then is not recorded.",
    )


def _unregistered(facts: ModelFacts) -> Iterator[Note]:
    yield from _told(
        "unregistered",
        facts.unregistered,
        "The layer {} is not one of the model's modules (kept in a plain list or dictionary?): an "
        "optimizer of model.parameters() does not train it.",
        "{n} layers are not among the model's modules (kept in a plain list or dictionary?), so "
        "an optimizer of model.parameters() does not train them: {places}.",
    )
    yield from _told(
        "unregistered-tensor",
        facts.own_leaves,
        "The tensor {} requires a gradient and is not one of the model's parameters (an attribute "
        "that is no nn.Parameter, or of a plain object?): an optimizer of model.parameters() does "
        "not train it.",
        "{n} tensors require a gradient and are not among the model's parameters (attributes that "
        "are no nn.Parameter, or of plain objects?), so an optimizer of model.parameters() does "
        "not train them: {places}.",
    )


def _opaque(graph: ModelGraph) -> Iterator[Note]:
    found: dict[str, list[Node]] = {}
    for node in graph.of_kind("opaque"):
        if node.target != UNSEEN_VIEW:  # another view of memory that the graph shows
            # A scripted module is called again as a whole in a replay.
            where = "in ONNX" if node.target.startswith("torch.jit.") else "in a replay or in ONNX"
            found.setdefault(where, []).append(node)
    for where, nodes in found.items():
        targets = _places([node.target for node in nodes])
        inside = f"what lies between is not shown and is not run again {where}."
        yield from _told(
            "opaque",
            [node.name for node in nodes],
            "{} was computed out of sight ("
            + _escaped(targets)
            + f"): its inputs and outputs are joined, {inside}",
            "{n} calls were computed out of sight ("
            + _escaped(targets)
            + "), {places}: their inputs and outputs are joined, "
            + inside,
        )


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _unused_parameters(graph: ModelGraph) -> Iterator[Note]:
    used = {name for node in graph.of_kind("parameter") for name in (node.path, *node.aliases)}
    on_meta = all(spec.device == "meta" for node in graph.ops for spec in node.outputs)
    # A parameter without data was not what a forward with data ran on: another tensor stood in
    # its place for the time of a call, as where weights are offloaded.
    unused = [
        parameter.name
        for parameter in graph.parameters
        if parameter.name not in used and (on_meta or parameter.spec.device != "meta")
    ]
    yield from _told(
        "unused-parameter", unused, "No op used {}.", "No op used {n} parameters: {places}."
    )


def _never_called(graph: ModelGraph, facts: ModelFacts) -> Iterator[Note]:
    called = {call.path for call in graph.modules if call.called and call.path} | {""}
    around = {outer for path in called for outer in _prefixes(path)}
    used = {node.path.rpartition(".")[0] for node in graph.of_kind("parameter", "buffer")}
    known = called | around | used
    skipped: list[str] = []
    for path, callable_ in facts.modules:
        # Parents come first, so what is inside of one that was skipped follows it.
        inside = bool(skipped) and path.startswith(f"{skipped[-1]}.")
        # Where the parts were called one by one, the module around them had its use.
        if callable_ and not inside and path not in known:
            skipped.append(path)
    yield from _told(
        "module-never-called",
        skipped,
        "The module {} was never called.",
        "{n} modules were never called: {places}.",
    )


def _prefixes(path: str) -> Iterator[str]:
    """The paths of the modules around one."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _without_effect(graph: ModelGraph) -> Iterator[Note]:
    outputs = graph.of_kind("output")
    if not outputs:
        return
    reached = _reaching({ref.node for node in outputs for ref in node.inputs}, graph)
    idle = [
        node.path
        for node in graph.of_kind("parameter")
        if node.outputs[0].requires_grad and node.name not in reached
    ]
    yield from _told(
        "parameter-without-effect",
        idle,
        "{} is used, but nothing that the model returns depends on it.",
        "{n} parameters are used, but nothing that the model returns depends on them: {places}.",
    )


def _unused_results(graph: ModelGraph, facts: ModelFacts) -> Iterator[Note]:
    idle = [
        node.name
        for node in graph.ops
        if _is_idle(node, graph)
        and node.name not in facts.losses
        and not _is_a_librarys(node, graph, facts)
    ]
    yield from _told(
        "unused-result",
        idle,
        "Nobody uses the result of {}.",
        "Nobody uses the results of {n} ops: {places}.",
    )


def _is_a_librarys(node: Node, graph: ModelGraph, facts: ModelFacts) -> bool:
    """Whether an op is the inside of a library, which a user cannot change."""
    call = graph.module_by_name.get(node.scope)
    is_torchs = call is not None and call.class_name.startswith("torch.nn.")
    return is_torchs or node.name in facts.of_libraries


def _is_idle(node: Node, graph: ModelGraph) -> bool:
    if not node.outputs or node.writes or node.reads_value:
        return False
    return not any(Ref(node.name, index) in graph.consumers for index in range(len(node.outputs)))


def _value_reads(graph: ModelGraph, facts: ModelFacts) -> Iterator[Note]:
    reads = [
        node for node in graph.ops if node.reads_value and not _is_a_librarys(node, graph, facts)
    ]
    if not reads:
        return
    places = _places([str(node.source) if node.source else node.name for node in reads])
    yield Note(
        "value-read",
        reads[0].name,
        f"Python looked at values in {len(reads)} place(s) ({places}): on another batch the "
        "graph may be a different one.",
    )


def _frozen(graph: ModelGraph) -> Iterator[Note]:
    frozen = [parameter for parameter in graph.parameters if not parameter.trainable]
    if not frozen:
        return
    count = sum(parameter.elements for parameter in frozen)
    yield Note(
        "frozen",
        "",
        f"{len(frozen)} of {len(graph.parameters)} parameters are frozen "
        f"({count:,} of {graph.parameter_count:,} elements).",
    )


def _in_buffers(graph: ModelGraph) -> Iterator[Note]:
    counts = weights_in_buffers(graph)
    yield from _told(
        "weights-in-buffers",
        list(counts),
        "The buffer {} holds {count:,} weights as whole numbers, which are no parameters: no count "
        "of parameters has them.",
        "{n} buffers hold {count:,} weights as whole numbers, which are no parameters: no count of "
        "parameters has them: {places}.",
        count=sum(counts.values()),
    )


def _reaching(targets: set[str], graph: ModelGraph) -> set[str]:
    """The nodes from which a path leads to one of the targets, with these."""
    reached = set(targets)
    for node in reversed(graph.nodes):
        if node.name in reached:
            reached.update(ref.node for ref in node.inputs)
    return reached
