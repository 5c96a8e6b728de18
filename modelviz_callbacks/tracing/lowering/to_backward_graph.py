"""Lowers a record of autograd's graph to a model graph of the backward pass.

It is a graph like any other, so every writer takes it. It runs from the gradient of the loss
to the gradients of the parameters, in the order in which autograd runs:

- an ``input`` node is the gradient of an output that the backward begins at;
- an ``op`` node is one node of autograd, in the scope of the module call whose forward made
  it. The backward of a forward op has that op's own name (the loudest of them, where an op
  made several: `conv2d` is one, `linear` on a batch of sequences is a product and views);
- an ``op`` node ``AccumulateGrad`` is the gradient of a parameter, or of an input, at last; it
  is called like that parameter's node in the forward graph, and its ``path`` is the
  parameter's. Its output is the gradient itself;
- an ``op`` node ``AddGradients`` adds the gradients of a tensor that several ops have read;
- a ``constant`` node is a tensor that ops keep for their backward, a ``parameter`` or
  ``buffer`` node one that is the model's own; they are there only if they were recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush

from modelviz_callbacks.graph import (
    Argument,
    ModelGraph,
    ModuleCall,
    NameAllocator,
    Node,
    Note,
    Port,
    Ref,
    TensorSpec,
    check,
    home_of,
)
from modelviz_callbacks.graph.op_facts import OpFact, facts_of
from modelviz_callbacks.tracing.capture.autograd_record import MOST_NODES
from modelviz_callbacks.tracing.capture.backward_record import (
    BackwardRecord,
    GradNode,
    GradSpec,
    SavedSpec,
)
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.lowering.backward_ties import Ties

ADD = "AddGradients"

_DIGITS = "0123456789"


def to_backward_graph(
    record: BackwardRecord, recording: Recording, forward: ModelGraph
) -> ModelGraph:
    """The graph of the backward pass that a recorded forward has prepared.

    Args:
        record: What autograd knew after the forward.
        recording: That forward.
        forward: Its graph; scopes, names, parameters and source lines are taken from it.

    Returns:
        A graph that passes `modelviz_callbacks.graph.validate`.

    Raises:
        GraphError: The graph would break its own rules (a bug in this library).
    """
    graph = _Lowering(record, forward, Ties(recording, forward)).run()
    check(graph)
    return graph


class _Lowering:
    def __init__(self, record: BackwardRecord, forward: ModelGraph, ties: Ties) -> None:
        self._record = record
        self._forward = forward
        self._names = NameAllocator()
        made = [ties.op_of(node.sequence) for node in record.nodes]
        self._ops = [None if node.leaf else op for node, op in zip(record.nodes, made, strict=True)]
        self._leaf_nodes: dict[tuple[str, str], Node] = {
            (node.kind, node.path): node for node in forward.of_kind("input", "parameter", "buffer")
        }
        self._scopes = [self._scope(place, node, ties) for place, node in enumerate(record.nodes)]
        self._grads: dict[tuple[int, int], list[Ref]] = {}
        self._kept: dict[int, Ref] = {}
        self._nodes: list[Node] = []
        self._scope_of_made: dict[str, str] = {}
        self._ties = ties

    def run(self) -> ModelGraph:
        forward, record = self._forward, self._record
        modules = self._modules()
        for call in modules:
            self._name(call.parent, call.label)
        names = self._node_names()
        for path, place, number in record.roots:
            self._begin(path, place, number)
        for place in self._order():
            self._add(place, names[place])
        return ModelGraph(
            name=f"{forward.name} backward",
            class_name=forward.class_name,
            nodes=tuple(self._nodes),
            modules=tuple(_with_ports(modules, self._nodes)),
            parameters=forward.parameters,
            notes=tuple(self._notes()),
            torch_version=forward.torch_version,
        )

    # --- where nodes are, and what they are called

    def _scope(self, place: int, node: GradNode, ties: Ties) -> str:
        if node.leaf is not None:
            known = self._leaf_nodes.get(node.leaf)
            return known.scope if known else ""
        op = self._ops[place]
        return self._forward.by_name[op].scope if op else ties.scope_of(node.sequence)

    def _modules(self) -> list[ModuleCall]:
        """The module calls in which something is left to do, in the order of the backward."""
        used: dict[str, None] = {}
        for place in self._order():
            for scope in reversed(list(self._forward.scopes_of(self._scopes[place]))):
                used[scope] = None
        return [self._forward.module_by_name[scope] for scope in used]

    def _node_names(self) -> list[str]:
        """One name a node; those of the forward graph first, so that nothing else gets them."""
        names = [""] * len(self._record.nodes)
        for place in self._loudest():
            names[place] = self._name(self._scopes[place], self._forward_label(place))
        for place, node in enumerate(self._record.nodes):
            if not names[place]:
                op = self._ops[place]
                label = _op_name(node) if node.leaf is None else node.leaf[1] or node.leaf[0]
                if op is not None:
                    label = f"{self._forward.by_name[op].label}.{label}"
                names[place] = self._name(self._scopes[place], label)
        return names

    def _loudest(self) -> Iterator[int]:
        """Of the nodes of each forward op the one that stands for it, and the known leaves."""
        chosen: dict[str, int] = {}
        for place, node in enumerate(self._record.nodes):
            op = self._ops[place]
            if op is not None:
                before = chosen.get(op)
                if before is None or _loudness(node) > _loudness(self._record.nodes[before]):
                    chosen[op] = place
            elif node.leaf in self._leaf_nodes:
                yield place
        yield from chosen.values()

    def _forward_label(self, place: int) -> str:
        leaf, op = self._record.nodes[place].leaf, self._ops[place]
        node = self._leaf_nodes[leaf] if leaf is not None else self._forward.by_name[op or ""]
        return node.label

    # --- the order in which autograd runs

    def _order(self) -> list[int]:
        """Nodes after all that give them gradients; among those ready the one made last first."""
        nodes = self._record.nodes
        waiting = [0] * len(nodes)
        for node in nodes:
            for following, _ in node.edges:
                if following >= 0:
                    waiting[following] += 1
        ready = [(-nodes[place].sequence, place) for place, n in enumerate(waiting) if not n]
        heapify(ready)
        order = []
        while ready:
            _, place = heappop(ready)
            order.append(place)
            for following, _ in nodes[place].edges:
                if following >= 0:
                    waiting[following] -= 1
                    if not waiting[following]:
                        heappush(ready, (-nodes[following].sequence, following))
        return order

    # --- nodes

    def _begin(self, path: str, place: int, number: int) -> None:
        """The gradient of an output, which is where the backward begins."""
        named = {node.path: node for node in self._forward.of_kind("output")}
        known = named.get(path) or named.get("loss")
        word = known.path if known else path
        spec = _spec(self._record.nodes[place].takes[number])
        name = self._name("", known.label if known else path)
        self._append(Node(name, "input", "input", outputs=(spec,), path=f"gradient of {word}"))
        self._grads.setdefault((place, number), []).append(Ref(name))

    def _add(self, place: int, name: str) -> None:
        node = self._record.nodes[place]
        specs: list[TensorSpec] = []
        for following, number in node.edges:
            if following >= 0:
                target = self._record.nodes[following].takes[number]
                self._grads.setdefault((following, number), []).append(Ref(name, len(specs)))
                specs.append(_spec(target))
        if node.leaf is not None:
            specs = [_spec(taken) for taken in node.takes]
        arguments = [*self._gradients(place, name)]
        arguments += [Argument(saved.name, self._keep(name, place, saved)) for saved in node.saved]
        forward = self._forward.by_name.get(self._ops[place] or "")
        op = _op_name(node)
        self._append(
            Node(
                name,
                "op",
                op,
                self._scopes[place],
                outputs=tuple(specs),
                arguments=tuple(arguments),
                target=_target(node),
                path=node.leaf[1] if node.leaf else "",
                source=forward.source if forward else None,
            )
        )

    def _gradients(self, place: int, name: str) -> Iterator[Argument]:
        """What a node is given."""
        node = self._record.nodes[place]
        for number, spec in enumerate(node.takes):
            found = self._grads.get((place, number))
            if found:
                label = f"grad_output_{number}" if len(node.takes) > 1 else "grad_output"
                if len(found) == 1:
                    yield Argument(label, found[0])
                elif node.leaf is not None:
                    yield Argument(label, tuple(found))  # it adds them up, that is what it does
                else:
                    yield Argument(label, self._added(found, spec))

    def _added(self, gradients: list[Ref], spec: GradSpec) -> Ref:
        """The node that adds up the gradients of a tensor that several ops have read.

        Autograd does that before the node that takes the sum; it is shown where these ops are.
        """
        scope = self._ties.common([self._scope_of_made[ref.node] for ref in gradients])
        made = self._name(scope, "add_gradients")
        self._append(
            Node(
                made,
                "op",
                ADD,
                scope,
                outputs=(_spec(spec),),
                arguments=(Argument("gradients", tuple(gradients)),),
                target="torch::autograd::InputBuffer::add",
            )
        )
        return Ref(made)

    def _name(self, scope: str, label: str) -> str:
        """A new name below the module call that a scope is, or is in."""
        return self._names.allocate(home_of(self._forward.module_by_name, scope), label)

    def _append(self, node: Node) -> None:
        self._nodes.append(node)
        self._scope_of_made[node.name] = node.scope

    def _keep(self, name: str, place: int, saved: SavedSpec) -> Ref:
        """The node of a tensor that is kept for the backward, made at its first use."""
        ref = self._kept.get(saved.memory)
        if ref is None:
            known = self._leaf_nodes.get(("parameter", saved.path)) or self._leaf_nodes.get(
                ("buffer", saved.path)
            )
            scope = self._scopes[place]
            label = f"{name.removeprefix(f'{scope}/')}.saved_{saved.name}"
            node = Node(
                self._name(scope, label),
                known.kind if known else "constant",
                known.op if known else "constant",
                scope,
                outputs=(_spec(saved.spec),),
                path=saved.path if known else f"saved {saved.name}",
            )
            self._append(node)
            ref = self._kept[saved.memory] = Ref(node.name)
        return ref

    def _notes(self) -> Iterator[Note]:
        kept = [node.outputs[0].size_bytes for node in self._nodes if node.kind == "constant"]
        if kept:
            yield Note(
                "saved-tensors",
                "",
                f"{len(kept)} tensors of {sum(kept):,} bytes are kept for the backward, "
                "parameters and buffers not counted.",
            )
        if self._record.is_cut:
            yield Note(
                "cut-short",
                "",
                f"The backward has more than {MOST_NODES:,} steps: only as many are shown, those "
                "that run first.",
            )
        if self._record.repacked:
            yield Note(
                "repacked-tensors",
                "",
                f"{self._record.repacked} more are kept by hooks (checkpointing, offloading): "
                "they are computed or fetched again.",
            )


def _with_ports(modules: list[ModuleCall], nodes: list[Node]) -> Iterator[ModuleCall]:
    """The module calls with the gradients that enter and leave them."""
    parents = {call.name: call.parent for call in modules}
    scopes = {node.name: node.scope for node in nodes if node.kind in ("op", "input")}
    entering: dict[str, dict[Ref, None]] = {call.name: {} for call in modules}
    leaving: dict[str, dict[Ref, None]] = {call.name: {} for call in modules}
    for node in nodes:
        for ref in node.inputs:
            if scopes.get(ref.node, node.scope) == node.scope:
                continue  # from the same scope, or no gradient but a tensor that was kept
            sources, targets = _around(scopes[ref.node], parents), _around(node.scope, parents)
            for scope in targets:
                if scope not in sources:
                    entering[scope][ref] = None
            for scope in sources:
                if scope not in targets:
                    leaving[scope][ref] = None
    for call in modules:
        yield replace(
            call,
            inputs=_ports("grad_output", entering[call.name]),
            outputs=_ports("grad_input", leaving[call.name]),
        )


def _around(scope: str, parents: dict[str, str]) -> dict[str, None]:
    found: dict[str, None] = {}
    while scope:
        found[scope] = None
        scope = parents[scope]
    return found


def _ports(word: str, found: dict[Ref, None]) -> tuple[Port, ...]:
    several = len(found) > 1
    return tuple(Port(f"{word}[{n}]" if several else word, ref) for n, ref in enumerate(found))


def _op_name(node: GradNode) -> str:
    """What people call it: without the number of its version and the namespace."""
    return node.name.rpartition("::")[2].rstrip(_DIGITS) or node.name


def _target(node: GradNode) -> str:
    """Its qualified name."""
    return node.name if "::" in node.name else f"torch.autograd.{node.name}"


def _loudness(node: GradNode) -> tuple[bool, int]:
    return OpFact.LAYOUT not in facts_of(_target(node)), node.sequence


def _spec(spec: GradSpec) -> TensorSpec:
    return TensorSpec(spec.shape, spec.dtype, spec.device)
