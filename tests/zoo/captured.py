"""First property: the graph is sound, whole and has every dependency that autograd knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.artifacts.products import graph_of
from modelviz_callbacks.graph import check
from modelviz_callbacks.graph.json_format import dumps, loads
from modelviz_callbacks.tracing import Recording, pack, record_backward, unpack
from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.capture.tape import OpEntry
from tests.folded import fold, unfold
from tests.simplified import assert_honest
from tests.zoo.cases import Case, seed_everything
from tests.zoo.drawn import assert_drawn
from tests.zoo.leaves import tensors

# Of an output: the names of the parameters, and the positions of the inputs, that it needs.
Needs = tuple[frozenset[str], frozenset[int]]


def assert_captured(case: Case) -> None:
    """Records the case, draws its graph, and holds it against a plain run of the case."""
    model, args, kwargs = case.make()
    given = input_tensors(model, args, kwargs)
    seed_everything(1)
    traced = trace(model, *args, **kwargs)
    graph = traced.graph
    assert_can_be_sent(traced._recording, graph)
    assert_sound(graph)
    assert_drawn(graph)
    described = [(node.path, _described(node.outputs[0])) for node in graph.of_kind("input")]
    assert [spec for _, spec in described] == [_described_tensor(tensor) for tensor in given], (
        f"the inputs are {described}"
    )
    assert_connected(graph, needs_of_outputs(case))


def assert_can_be_sent(recording: Recording, graph: ModelGraph) -> None:
    """What another process gets of the recording lowers to the same graph."""
    # As a run sends it: with what autograd knew while the outputs were alive.
    sent = unpack(pack(replace(recording, backward=record_backward(recording))))
    for entry, original in zip(sent.tape, recording.tape, strict=True):
        if isinstance(original, OpEntry) and qualified_name(original.func).startswith("torch."):
            assert isinstance(entry, OpEntry)
            assert entry.func == original.func, f"{original.func} is lost"
    assert dumps(graph_of(sent)) == dumps(graph)


def assert_sound(graph: ModelGraph) -> None:
    """The graph keeps its rules, is whole, and comes back from JSON as it was."""
    check(graph)
    assert not graph.partial, f"the graph is partial: {graph.notes}"
    assert loads(ModelGraph, dumps(graph)) == graph, "JSON gives another graph back"
    for sizes in (False, True):
        assert unfold(fold(graph, sizes=sizes)) == graph, "unfolding gives another graph back"
    assert_honest(graph)


def assert_connected(graph: ModelGraph, needs: list[Needs]) -> None:
    """Every output has a path from what it needs.

    Args:
        graph: The graph.
        needs: One entry an output of the model.
    """
    outputs = graph.of_kind("output")
    assert len(outputs) == len(needs), (
        f"{len(needs)} tensors were returned, the graph has "
        f"{[node.path for node in outputs]} as outputs"
    )
    inputs = [node.name for node in graph.of_kind("input")]
    parameters = {
        name: node.name
        for node in graph.of_kind("parameter")
        for name in (node.path, *node.aliases)
    }
    missing = []
    for output, (names, positions) in zip(outputs, needs, strict=True):
        behind = ancestors(graph, output.name)
        missing += [
            f"{output.path} needs parameter {name}"
            for name in sorted(names)
            # The step that torch.compile's wrapper puts into a name is not the author's.
            if parameters.get(name.replace("_orig_mod.", "")) not in behind
        ]
        missing += [
            f"{output.path} needs input {inputs[position]}"
            for position in sorted(positions)
            if inputs[position] not in behind
        ]
    assert not missing, f"{len(missing)} paths are missing: {'; '.join(missing[:8])}"


def ancestors(graph: ModelGraph, name: str) -> set[str]:
    """The nodes that have a path to a node."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for ref in graph.by_name[waiting.pop()].inputs:
            if ref.node not in found:
                found.add(ref.node)
                waiting.append(ref.node)
    return found


def needs_of_outputs(case: Case) -> list[Needs]:
    """What each output of a plain run depends on, as autograd has it."""
    try:
        return _needs_of_run(case, _as_leaves)
    except RuntimeError as error:
        if "leaf Variable" in str(error):
            # A forward that writes to its input cannot do so to one that gathers gradients.
            return _needs_of_run(case, _tied_to_leaves)
        if "change requires_grad flags of leaf" in str(error):
            # A forward that makes its input differentiable itself wants one that is not yet.
            return _needs_of_run(case, lambda inputs: {})
        raise


def _needs_of_run(
    case: Case, differentiable: Callable[[list[torch.Tensor]], dict[int, torch.Tensor]]
) -> list[Needs]:
    model, args, kwargs = case.make()
    leaves = differentiable(input_tensors(model, args, kwargs))
    seed_everything(1)
    outputs = [tensor for _, tensor in tensors(model(*args, **kwargs))]
    # A parameter that is handed in as an argument, too, is drawn as an input.
    handed_in = {id(leaf) for leaf in leaves.values()}
    # A wrapper that is handed in is not part of the author's names.
    author = model.module if isinstance(model, torch.nn.DataParallel) else model
    names = {
        id(parameter): name
        for name, parameter in author.named_parameters()
        if id(parameter) not in handed_in
    }
    found: dict[int, Needs] = {}
    needs: list[Needs] = []
    for output in outputs:
        if id(output) not in found:
            found[id(output)] = _needs(output, model, names, leaves)
        needs.append(found[id(output)])
    return needs


def _needs(
    output: torch.Tensor,
    model: torch.nn.Module,
    names: dict[int, str],
    leaves: dict[int, torch.Tensor],
) -> Needs:
    if not output.requires_grad:
        return frozenset(), frozenset()
    targets = [*model.parameters(), *leaves.values()]
    for target in targets:
        target.grad = None
    # Not autograd.grad: reentrant checkpoints refuse it.
    seed_of(output).backward(retain_graph=True)
    return (
        frozenset(
            names[id(p)] for p in model.parameters() if p.grad is not None and id(p) in names
        ),
        frozenset(position for position, leaf in leaves.items() if leaf.grad is not None),
    )


def seed_of(output: torch.Tensor) -> torch.Tensor:
    """A scalar that every element of a differentiable tensor flows into."""
    if output.is_nested:
        output = (
            output.values()
            if output.layout == torch.jagged
            else torch.cat([part.flatten() for part in output.unbind()])
        )
    if output.layout != torch.strided:
        output = output.to_dense()
    if output.is_complex():
        output = torch.view_as_real(output)
    return output.sum()


def input_tensors(
    model: torch.nn.Module, args: Iterable[Any], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """The tensors among the arguments, in the order of the forward's signature, each once."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        bound = {"args": args, **kwargs}
    return list({id(tensor): tensor for _, tensor in tensors(bound)}.values())


def _as_leaves(inputs: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Makes the inputs gather gradients, by the input's position."""
    return {
        position: tensor.requires_grad_()
        for position, tensor in enumerate(inputs)
        if (tensor.is_leaf and tensor.requires_grad) or _is_plain(tensor)
    }


def _tied_to_leaves(inputs: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Makes the inputs depend on scalars that gather their gradients, by the input's position."""
    leaves: dict[int, torch.Tensor] = {}
    for position, tensor in enumerate(inputs):
        if _is_plain(tensor):
            leaves[position] = torch.zeros((), dtype=tensor.dtype, requires_grad=True)
            tensor.add_(leaves[position])
    return leaves


def _is_plain(tensor: torch.Tensor) -> bool:
    differentiable = tensor.is_floating_point() or tensor.is_complex()
    strided = tensor.layout == torch.strided and not tensor.is_nested
    shared = tensor._is_view() or tensor.is_inference() or tensor.grad_fn is not None
    return differentiable and strided and not shared


def _described(spec: Any) -> tuple[Any, ...]:
    return spec.shape, spec.dtype


def _described_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    shape = None if tensor.is_nested else tuple(tensor.shape)
    return shape, str(tensor.dtype).removeprefix("torch.")
