"""What is worth knowing about a model and can be read off its graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelviz_callbacks.graph.model import ModelGraph, Node, Note
from modelviz_callbacks.graph.op_facts import UNSEEN_VIEW
from modelviz_callbacks.graph.values import (
    Ref,
)

# How many subjects one note names before it only counts them.
_SHOWN = 5


def notes(graph: ModelGraph, modules: Iterable[tuple[str, bool]]) -> tuple[Note, ...]:
    """The notes on a graph.

    Args:
        graph: Any graph.
        modules: Every module of the model: its qualified name, and whether it has a forward
            to be called (a ``ModuleList`` has none).

    Returns:
        At most one note of each kind for each subject, in a fixed order: ``opaque``,
        ``unused-parameter``, ``module-never-called``, ``parameter-without-effect``,
        ``unused-result``, ``value-read``, ``frozen``.
    """
    if graph.partial:
        return tuple(_opaque(graph))  # what did not run might have used the rest
    found = [
        *_opaque(graph),
        *_unused_parameters(graph),
        *_never_called(graph, modules),
        *_without_effect(graph),
    ]
    return (*found, *_unused_results(graph), *_value_reads(graph), *_frozen(graph))


def _opaque(graph: ModelGraph) -> Iterator[Note]:
    for node in graph.of_kind("opaque"):
        if node.target == UNSEEN_VIEW:
            continue  # another view of memory that the graph shows
        # A scripted module is called again as a whole in a replay.
        where = "in ONNX" if node.target.startswith("torch.jit.") else "in a replay or in ONNX"
        yield Note(
            "opaque",
            node.name,
            f"{node.name} was computed out of sight ({node.target}): its inputs and outputs are "
            f"joined, what lies between is not shown and is not run again {where}.",
        )


def _unused_parameters(graph: ModelGraph) -> Iterator[Note]:
    used = {name for node in graph.of_kind("parameter") for name in (node.path, *node.aliases)}
    for parameter in graph.parameters:
        if parameter.name not in used:
            yield Note("unused-parameter", parameter.name, f"No op used {parameter.name}.")


def _never_called(graph: ModelGraph, modules: Iterable[tuple[str, bool]]) -> Iterator[Note]:
    called = {call.path for call in graph.modules if call.called} | {""}
    used = {node.path.rpartition(".")[0] for node in graph.of_kind("parameter", "buffer")}
    skipped: list[str] = []
    for path, callable_ in modules:
        inside = any(path.startswith(f"{outer}.") for outer in skipped)
        if callable_ and path not in called and path not in used and not inside:
            if any(name and name.startswith(f"{path}.") for name in called):
                continue  # its parts were called one by one
            skipped.append(path)
            yield Note("module-never-called", path, f"The module {path} was never called.")


def _without_effect(graph: ModelGraph) -> Iterator[Note]:
    outputs = graph.of_kind("output")
    if not outputs:
        return
    reached = _reaching({ref.node for node in outputs for ref in node.inputs}, graph)
    for node in graph.of_kind("parameter"):
        if node.outputs[0].requires_grad and node.name not in reached:
            message = f"{node.path} is used, but nothing that the model returns depends on it."
            yield Note("parameter-without-effect", node.path, message)


def _unused_results(graph: ModelGraph) -> Iterator[Note]:
    for node in graph.ops:
        if _is_idle(node, graph):
            yield Note("unused-result", node.name, f"Nobody uses the result of {node.name}.")


def _is_idle(node: Node, graph: ModelGraph) -> bool:
    if not node.outputs or node.writes or node.reads_value:
        return False
    return not any(Ref(node.name, index) in graph.consumers for index in range(len(node.outputs)))


def _value_reads(graph: ModelGraph) -> Iterator[Note]:
    reads = [node for node in graph.ops if node.reads_value]
    if not reads:
        return
    places = [str(node.source) if node.source else node.name for node in reads]
    shown = ", ".join(dict.fromkeys(places[:_SHOWN]))
    more = f" and {len(reads) - _SHOWN} more" if len(reads) > _SHOWN else ""
    yield Note(
        "value-read",
        reads[0].name,
        f"Python looked at values in {len(reads)} place(s) ({shown}{more}): on another batch the "
        "graph may be a different one.",
    )


def _frozen(graph: ModelGraph) -> Iterator[Note]:
    frozen = [parameter for parameter in graph.parameters if not parameter.trainable]
    if not frozen:
        return
    count = sum(parameter.spec.numel for parameter in frozen)
    yield Note(
        "frozen",
        "",
        f"{len(frozen)} of {len(graph.parameters)} parameters are frozen "
        f"({count:,} of {graph.parameter_count:,} elements).",
    )


def _reaching(targets: set[str], graph: ModelGraph) -> set[str]:
    """The nodes from which a path leads to one of the targets, with these."""
    reached = set(targets)
    for node in reversed(graph.nodes):
        if node.name in reached:
            reached.update(ref.node for ref in node.inputs)
    return reached
