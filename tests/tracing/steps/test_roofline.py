"""How near an op came to what its machine can do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks.analysis.measured import MeasuredCosts
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing.steps import roofline
from modelviz_callbacks.tracing.steps.roofline import limits_of
from tests.networks import recorded


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that multiplies at 1 GFLOP/s and moves 1 GB/s."""
    monkeypatch.setattr(roofline, "_flops_a_second", lambda dtype: 1e9)
    monkeypatch.setattr(roofline, "_bytes_a_second", lambda size: 1e9)


def graph_of_layers() -> ModelGraph:
    layers = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Flatten(0))
    graph = recorded(layers, torch.zeros(64, 256))
    nodes = [
        dataclasses.replace(node, flops=2 * 64 * 256 * 512) if node.op == "linear" else node
        for node in graph.nodes
    ]
    return dataclasses.replace(graph, nodes=tuple(nodes))


@pytest.mark.usefixtures("machine")
def test_an_op_is_bound_by_what_takes_longer_and_never_above_the_peak() -> None:
    graph = graph_of_layers()
    linear, relu, view = (node.name for node in graph.ops)
    # The product takes 16.8 ms at the peak; the relu reads and writes 131 kB each, 262 µs.
    limits = limits_of(graph, MeasuredCosts({linear: 33_554.432, relu: 524.288, view: 1.0}), 1)

    assert {name: str(limit) for name, limit in limits.items()} == {
        linear: "compute-bound, 50% of peak",
        relu: "memory-bound, 50% of peak",
    }
    faster = limits_of(graph, MeasuredCosts({linear: 1677.7216, relu: 10.0}), 1)
    assert [limit.share for limit in faster.values()] == [1.0, 1.0]


@pytest.mark.usefixtures("machine")
def test_an_op_too_short_for_the_machine_to_matter_is_bound_by_overhead() -> None:
    graph = recorded(nn.Sequential(nn.ReLU()), torch.zeros(2))
    (node,) = graph.ops

    assert str(limits_of(graph, MeasuredCosts({node.name: 9.0}), 1)[node.name]) == (
        "bound by overhead: too short for the machine to matter"
    )


def test_what_the_machine_can_do_is_measured_with_the_threads_of_the_training() -> None:
    before, graph = torch.get_num_threads(), graph_of_layers()
    seen = []
    measured = MeasuredCosts({node.name: 500.0 for node in graph.ops})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", seen.append)
        limits = limits_of(graph, measured, before + 1)

    assert seen == [before + 1, before]
    assert all(0 < limit.share <= 1 for limit in limits.values())


def test_no_default_of_the_users_and_no_busy_moment_makes_the_machine_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[torch.Tensor] = []

    def best_s(run: Any) -> float:
        made.append(run())
        return 1e-3 * len(made)  # the copy in the caches comes last, and took the longest

    monkeypatch.setattr(roofline, "_best_s", best_s)
    graph = recorded(nn.Sequential(nn.ReLU()), torch.zeros(2))
    with torch.device("meta"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            limits_of(graph, MeasuredCosts({graph.ops[0].name: 500.0}), torch.get_num_threads())
        finally:
            torch.set_default_dtype(before)
        assert roofline._flops_a_second("float32") > 0
    assert [(one.device.type, one.dtype) for one in made] == [("cpu", torch.float32)] * 3
    assert made[0].untyped_storage().nbytes() == roofline._LARGE_BYTES
    work = roofline._Work("float32", 0, 1000, 1.0)
    assert roofline._Peaks([work]).limit(work).share <= 1000 / (2 * roofline._LARGE_BYTES / 4e-3)
