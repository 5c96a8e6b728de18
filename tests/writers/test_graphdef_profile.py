"""Costs and times on TensorBoard's numeric scales, and what is stored of a graph."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.writers import graphdef
from modelviz_callbacks.writers.graphdef import graph_def, named_graphs, timed_graph
from tests.writers.graphdef_reading import profile_metadata, run_metadata, stats_of
from tests.writers.graphdef_rules import model_name
from tests.writers.graphs_by_hand import GraphByHand, chain, layers, two_branches


def test_costs_are_laid_end_to_end_so_that_spans_of_boxes_are_sums() -> None:
    stats = stats_of(run_metadata(Analysis(two_branches())))
    cnn = [row for name, row in stats.items() if name.startswith("cnn/")]

    assert min(start for start, _, _ in stats.values()) >= 1
    assert min(length for _, length, _ in stats.values()) >= 1
    ends = [start + length for start, length, _ in stats.values()]
    starts = [start for start, _, _ in stats.values()]
    assert starts[1:] == ends[:-1]
    span = max(start + length for start, length, _ in cnn) - min(start for start, _, _ in cnn)
    assert span == sum(length for _, length, _ in cnn)


def test_a_box_stands_together_even_if_it_is_left_and_entered_again() -> None:
    build = GraphByHand()
    x = build.leaf("input", "x")
    inner = build.module("", "inner", "inner", "model.Inner")
    x = build.op(inner, "relu", x, flops=10)
    x = build.op("", "sin", x, flops=1000)
    build.output(build.op(inner, "tanh", x, flops=10))
    stats = stats_of(run_metadata(Analysis(build.graph())))

    assert stats["inner/relu"][0] + stats["inner/relu"][1] == stats["inner/tanh"][0]


def test_one_second_of_the_scale_is_what_the_tag_says() -> None:
    graph = two_branches()
    stats = stats_of(run_metadata(Analysis(graph)))

    assert [named.tag for named in named_graphs(Analysis(graph))] == [
        "forward, cost: 1 s = 1 MFLOP",
        "modules, cost: 1 s = 1 MFLOP",
    ]
    assert stats["cnn/2_Conv2d/conv2d"][1] == 14_450_688  # microseconds: 14.45 s


@pytest.mark.parametrize(
    ("flops", "unit"),
    [
        (10**6, "1 s = 1 MFLOP"),
        (59 * 10**6, "1 s = 1 MFLOP"),
        (61 * 10**6, "1 s = 1 GFLOP"),
        (61 * 10**9, "1 s = 1 TFLOP"),
        (61 * 10**12, "1 s = 1 PFLOP"),
        (61 * 10**15, "1 s = 1 EFLOP"),
    ],
)
def test_the_unit_of_costs_stays_below_a_minute(flops: int, unit: str) -> None:
    build = GraphByHand()
    build.output(build.op("", "matmul", build.leaf("input", "x"), flops=flops))
    graph = build.graph()

    assert named_graphs(Analysis(graph))[0].tag.endswith(unit)
    assert stats_of(run_metadata(Analysis(graph)))["matmul"][1] < 62 * 10**6


def test_a_shared_parameter_counts_once_at_its_first_reader() -> None:
    build = GraphByHand()
    weight = build.parameter("", "weight", shape=(10, 10))
    x = build.op("", "linear", build.leaf("input", "x"), weight)
    build.output(build.op("", "linear", x, weight))
    stats = stats_of(run_metadata(Analysis(build.graph())))

    assert stats["linear"][2] == 400
    assert stats["linear_1"][2] == 0


def as_tensorboard_reads_it(graph: ModelGraph) -> GraphDef:
    return GraphDef.FromString(graph_def(Analysis(graph)).SerializeToString())


def test_circles_have_no_row_and_everything_else_has_one() -> None:
    graph = two_branches()
    drawn = [node.name for node in graph_def(Analysis(graph)).node if "Const" not in node.op]

    assert list(stats_of(run_metadata(Analysis(graph)))) == drawn


def test_measured_times_keep_their_sum_though_the_format_has_whole_microseconds() -> None:
    graph = chain(100)
    times = {node.name: 10.4 for node in graph.ops}
    stats = stats_of(profile_metadata(Analysis(graph), times))
    ops = [row for name, row in stats.items() if model_name(name) in times]

    assert sum(length for _, length, _ in ops) == pytest.approx(1040, abs=2)


def test_measured_times_come_with_the_bytes_that_ops_made_anew() -> None:
    build = GraphByHand()
    x = build.op("", "add", build.leaf("input", "x"), shape=(5, 5))
    build.output(build.op("", "relu_", x, shape=(5, 5), writes=(0,)))
    graph = build.graph()
    stats = stats_of(profile_metadata(Analysis(graph), {"add": 7.0, "relu_": 3.0}))

    assert stats["add"][1:] == (7, 100)
    assert stats["relu_"][1:] == (3, 0)
    named = timed_graph(Analysis(graph), {"add": 7.0}, "time of step 10")
    assert (named.tag, named.has_graph) == ("time of step 10", True)
    assert stats_of(RunMetadata.FromString(named.metadata))["add"][1] == 7


@pytest.mark.parametrize(
    ("times", "complaint"),
    [
        ({"nobody": 1.0}, "'nobody', which is no op"),
        ({"x": 1.0}, "'x', which is no op"),
        ({"cat": -1.0}, "-1.0 microseconds"),
        ({"cat": float("nan")}, "nan microseconds"),
    ],
)
def test_impossible_times_are_refused(times: dict[str, float], complaint: str) -> None:
    with pytest.raises(WriterError, match=complaint):
        profile_metadata(Analysis(two_branches()), times)


def test_named_graphs_hold_the_graph_and_its_profile() -> None:
    graph = two_branches()
    analysis = Analysis(graph)
    named = named_graphs(analysis)

    (function_graph,) = RunMetadata.FromString(named[0].metadata).function_graphs
    assert function_graph.pre_optimization_graph == as_tensorboard_reads_it(graph)
    assert [one.has_graph for one in named] == [True, True]


def test_a_huge_graph_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphdef, "MOST_NODES_TWICE", 10)
    (named,) = named_graphs(Analysis(chain(20)))
    metadata = RunMetadata.FromString(named.metadata)

    assert not named.has_graph
    assert not metadata.function_graphs
    assert len(stats_of(metadata)) == 22


def test_a_backward_pass_is_a_named_graph_without_a_scale() -> None:
    graph, backward = two_branches(), chain(7)
    *others, last = named_graphs(Analysis(graph), Analysis(backward))
    metadata = RunMetadata.FromString(last.metadata)

    assert others == list(named_graphs(Analysis(graph)))
    assert (last.tag, last.has_graph) == ("backward", True)
    assert metadata.function_graphs[0].pre_optimization_graph == as_tensorboard_reads_it(backward)
    assert not metadata.HasField("step_stats")


def test_a_huge_backward_pass_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphdef, "MOST_NODES_TWICE", 20)

    assert "backward" not in [n.tag for n in named_graphs(Analysis(chain(5)), Analysis(chain(20)))]
    assert "backward" in [n.tag for n in named_graphs(Analysis(chain(5)), Analysis(chain(10)))]


_DIGEST = """
import hashlib
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.writers.graphdef import graph_def, named_graphs
from tests.writers.graphs_by_hand import layers, two_branches
for graph in (layers(130), two_branches()):
    analysis = Analysis(graph)
    named = named_graphs(analysis)
    for data in (
        graph_def(analysis).SerializeToString(deterministic=True),
        *(one.metadata for one in named),
    ):
        print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.process
def test_the_bytes_are_the_same_in_any_process() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert digests[0] == digests[1]
    assert len(digests[0].split()) == 6


@pytest.mark.process
def test_writing_needs_no_torch() -> None:
    script = (
        "import sys; from modelviz_callbacks.writers.graphdef import named_graphs;"
        "from modelviz_callbacks.analysis import Analysis;"
        "from tests.writers.graphs_by_hand import two_branches;"
        "named_graphs(Analysis(two_branches()));"
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert answer.stdout == "False\n"


def test_every_executed_op_is_there_once_in_a_graph_of_many_boxes() -> None:
    graph = layers(130)
    shown = Counter(model_name(node.name) for node in graph_def(Analysis(graph)).node)

    assert all(shown[node.name] == 1 for node in graph.ops)
