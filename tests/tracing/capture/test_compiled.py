"""Compiled models train to the bit as without the hook, and their graph is there all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, ModelGraph, trace
from tests.samples import one_and_the_rest_slow
from tests.tracing.capture.test_setups import IN_PLACE, Network
from tests.zoo.leaves import difference, frozen

Make = Callable[[], tuple[nn.Module, nn.Module]]


class Remembers(Network):
    """Writes to itself in its forward, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = super().forward(x)
        self.seen.append(self.last.shape)
        return self.last


def whole(**options: Any) -> Make:
    def make() -> tuple[nn.Module, nn.Module]:
        model = Network()
        return model, torch.compile(model, **options)  # type: ignore[return-value]

    return make


def in_place(kind: Callable[[], nn.Module] = Network, **options: Any) -> Make:
    def make() -> tuple[nn.Module, nn.Module]:
        model = kind()
        model.compile(**options)
        return model, model

    return make


def part(kind: Callable[[], nn.Module] | None = None, **options: Any) -> Make:
    def make() -> tuple[nn.Module, nn.Module]:
        model = Network()
        model.block = torch.compile(model.block, **options)  # type: ignore[assignment]
        return model, model

    return make


def trained(make: Make, folder: Path | None) -> tuple[Any, GraphHook | None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model, called = make()
    hook = GraphHook(called, dirpath=folder, **IN_PLACE) if folder else None
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    seen = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = called(torch.randn(6, 4)).square().mean()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    if hook is not None:
        hook.close()
    counters = torch._dynamo.utils.counters
    # Not "frames", which now and then counts one more that has no graph.
    counted = [dict(counters["stats"]), dict(counters["graph_break"])]
    state = dict(model.state_dict())
    return frozen([seen, state, counted, torch.get_rng_state()]), hook


def compared(make: Make, folder: Path) -> tuple[ModelGraph, list[str]]:
    """The graph and remarks of a watched training, which is compared with a plain one."""
    with_it, hook = trained(make, folder)
    assert difference(trained(make, None)[0], with_it) == ""
    assert hook is not None
    assert hook.report.refused == []
    return ModelGraph.load(folder / "graph.json"), hook.report.remarks


def shapes(graph: ModelGraph) -> list[tuple[str, str, Any]]:
    return [(node.op, node.scope, node.outputs[0].shape) for node in graph.ops if node.outputs]


OF_NETWORK = [
    ("linear", "first", (6, 8)),
    ("add_", "norm", ()),
    ("batch_norm", "norm", (6, 8)),
    ("linear", "block/layer", (6, 8)),
    ("relu", "block", (6, 8)),
    ("dropout", "block/drop", (6, 8)),
    ("add", "", (6, 8)),
    ("linear", "head", (6, 2)),
]

WAYS = {
    "whole": whole(backend="aot_eager"),
    "fullgraph": whole(backend="aot_eager", fullgraph=True),
    "in place": in_place(backend="aot_eager"),
    "part": part(backend="aot_eager"),
    "inductor": whole(),
    "reduce-overhead": in_place(mode="reduce-overhead"),
    "inductor part": part(),
}


@pytest.mark.process
@pytest.mark.parametrize("way", one_and_the_rest_slow(WAYS))
def test_five_steps_are_the_same_to_the_bit_and_compiled_as_often(way: str, tmp_path: Path) -> None:
    graph, remarks = compared(WAYS[way], tmp_path)
    assert shapes(graph) == OF_NETWORK
    assert any("compiled code was left alone; its ops are those" in text for text in remarks)


@pytest.mark.slow
def test_what_a_forward_writes_to_its_module_is_written_once(tmp_path: Path) -> None:
    made: list[Remembers] = []

    def kind() -> nn.Module:
        made.append(Remembers())
        return made[-1]

    graph, _ = compared(in_place(kind, backend="eager"), tmp_path)
    # Not equal yet: a returned tensor that the module also keeps adds one opaque node at times.
    assert shapes(graph)[: len(OF_NETWORK)] == OF_NETWORK
    watched, plain = made
    assert (watched.calls, watched.seen) == (plain.calls, plain.seen)
    assert type(watched.last) is torch.Tensor


def test_the_backward_is_that_of_the_original_code(tmp_path: Path) -> None:
    torch._dynamo.reset()
    model = torch.compile(Network(), backend="aot_eager")
    from modelviz_callbacks.tracing import Capture, unwrapped

    capture = Capture(unwrapped(model), model)  # type: ignore[arg-type]
    capture.start((batch := torch.randn(6, 4),), {})
    result = model(batch)
    recording = capture.finish(result)
    assert recording.backward is not None
    names = {node.name for node in recording.backward.nodes}
    assert not any("Compiled" in name for name in names)
    leaves = {node.leaf for node in recording.backward.nodes if node.leaf}
    assert ("parameter", "head.weight") in leaves


def test_a_trace_of_a_compiled_model_is_that_of_the_model() -> None:
    torch._dynamo.reset()
    model, batch = Network(), torch.randn(6, 4)
    compiled: Any = torch.compile(model, backend="eager")
    found = trace(compiled, batch).graph
    assert [note.kind for note in found.notes] == ["remark"]  # that it was left alone
    assert replace(found, notes=()) == replace(trace(model, batch).graph, notes=())
