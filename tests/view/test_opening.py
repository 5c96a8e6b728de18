"""What pictures open at first, and what they call a loop."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import torch
from torch import nn

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.view.overview import overview
from tests.networks import Collecting


class Act(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh()


def gated(x: torch.Tensor, act: nn.Module) -> torch.Tensor:
    """A function that calls a module without parameters."""
    return (x * 2).exp() + act(x) - x.sin()


def integrate(x: torch.Tensor, field: nn.Module) -> torch.Tensor:
    """A function that runs a module that is trained."""
    for _ in range(3):
        x = x + 0.1 * field(x)
    return x.relu()


class UsesFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.field, self.head = Act(), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.head(integrate(gated(x, self.act), self.field))
        return made


def test_a_function_is_open_only_if_something_that_is_trained_runs_in_it() -> None:
    seen = overview(trace(UsesFunctions(), torch.ones(3, 4)).graph)
    assert [group.title for group in seen.groups if group.title in ("gated", "integrate")] == [
        "integrate"
    ]
    assert "gated" in [box.title for box in seen.boxes]


def test_a_body_that_runs_again_and_again_is_a_loop_that_says_what_varies() -> None:
    seen = overview(trace(Collecting(), torch.ones(3, 6, 4)).graph)
    (loop,) = [group for group in seen.groups if group.title == "loop"]
    assert loop.times == 6
    assert loop.label == ""
    assert "[:, t], t = 0..5" in loop.details


class Wide(nn.Module):
    """Reads the weight of a layer beside it, as DETR its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Embedding(3, 4)
        self.token = nn.Parameter(torch.ones(4))
        blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(3)]
        self.first = nn.Sequential(Pair(), *(Residual(block) for block in blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.first(
            x @ self.queries.weight.t() @ self.queries.weight + self.token
        )
        return made


class Pair(nn.Module):
    """Does all of its work in a function that has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.act = nn.Parameter(torch.ones(2, 4)), Act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return mixed(self, x)


def mixed(pair: Pair, x: torch.Tensor) -> torch.Tensor:
    both = pair.both
    return (pair.act(x * both[0]) + (x * both[1]).sin()).exp().log1p().sqrt()


class Residual(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = x + self.block(x) * self.block(x.tanh())
        return made


def test_a_closed_module_says_of_how_many_of_what_it_is_made() -> None:
    graph = trace(Wide(), torch.ones(2, 4)).graph
    (box,) = [box for box in overview(graph, depth=1).boxes if box.label == "first"]
    assert box.details == "3 × Residual"


def test_a_weight_that_is_read_from_elsewhere_has_its_modules_name() -> None:
    graph = trace(Wide(), torch.ones(2, 4)).graph
    held = [box.title for box in overview(graph, depth=1).boxes if box.kind == "held"]
    assert held == ["queries.weight", "token"]


def test_a_module_that_only_calls_a_function_is_one_box_with_its_weights() -> None:
    graph = trace(nn.Sequential(Pair(), nn.Linear(4, 2)), torch.ones(2, 4)).graph
    (box,) = [box for box in overview(graph, depth=2).boxes if box.title.startswith("Pair")]
    assert (box.title, box.details, box.weights.count) == ("Pair", "mixed", 8)


def test_an_index_of_a_loop_is_that_of_any_step() -> None:
    titles = [box.title for box in overview(trace(Collecting(), torch.ones(2, 5, 4)).graph).boxes]
    assert "[:, t]" in titles
    assert "[:, 0]" not in titles


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Holder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.inner(x)
        return made.relu()


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return integrate(x.tanh(), self.field).exp()


def test_what_a_function_calls_has_its_name_within_the_module_around_the_function() -> None:
    seen = overview(trace(Called(), torch.ones(3, 4)).graph)
    assert "field" in [box.label.partition(" ")[0] for box in seen.boxes]


class Clamps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        least = torch.finfo(x.dtype).min
        return x.clamp(min=least).exp().clamp(least, 2.0).sin().clamp(0.5, 1.5)


def test_a_bound_that_every_number_keeps_is_not_told() -> None:
    titles = [box.title for box in overview(trace(Clamps(), torch.ones(2, 4)).graph).boxes]
    assert titles == ["x", "clamp", "exp", "clamp ≤ 2", "sin", "clamp 0.5–1.5", "output"]


OPS = [torch.sin, torch.cos, torch.exp, torch.tanh, torch.sigmoid, torch.abs, torch.neg, torch.erf]


class Detector(nn.Module):
    """Its forward gives the loss of a batch, by a method that runs all the model in between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width + 1, 3, padding=1) for width in range(4, 16)
        )

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.loss(batch).sum()

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = batch["image"]
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.compared(x, self.prepared(batch["boxes"]))

    def prepared(self, boxes: torch.Tensor) -> torch.Tensor:
        for op in Random(0).choices(OPS, k=30):
            boxes = op(boxes)
        return boxes

    def compared(self, x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        for op in Random(1).choices(OPS, k=30):
            x = op(x)
        return (x - boxes).mean((1, 2))


def test_a_method_that_runs_all_the_model_is_opened_and_its_many_ops_are_told_in_parts() -> None:
    batch = {"image": torch.randn(2, 4, 16), "boxes": torch.randn(2, 1, 16)}
    graph = trace(Detector(), batch).graph
    # As where the steps of a loss are of one class of a library, and no functions of the author's.
    inside = {call.name for call in graph.modules if call.label in ("prepared", "compared")}
    drawn = overview(Analysis(_without(graph, inside)))
    assert {"loss"} <= {group.title for group in drawn.groups}
    assert "Conv1d" in {box.title for box in drawn.boxes}
    parts = [box.title.partition(",")[0] for box in drawn.boxes if box.kind == "part"]
    assert parts == ["prepared", "compared"]
    assert {box.group for box in drawn.boxes if box.kind == "part"} == {"loss"}


def _without(graph: ModelGraph, functions: set[str]) -> ModelGraph:
    """The graph with the ops of some functions where these were called."""
    around = {call.name: call.parent for call in graph.modules}
    nodes = tuple(
        replace(node, scope=around[node.scope]) if node.scope in functions else node
        for node in graph.nodes
    )
    modules = tuple(call for call in graph.modules if call.name not in functions)
    return replace(graph, nodes=nodes, modules=modules)


def test_with_a_depth_asked_for_every_op_of_an_opened_scope_is_drawn() -> None:
    batch = {"image": torch.randn(2, 4, 16), "boxes": torch.randn(2, 1, 16)}
    graph = trace(Detector(), batch).graph
    inside = {call.name for call in graph.modules if call.label in ("prepared", "compared")}
    drawn = overview(Analysis(_without(graph, inside)), depth=2)
    assert not [box for box in drawn.boxes if box.kind == "part"]
    assert sum(box.kind == "op" for box in drawn.boxes) > 60


def test_a_long_module_of_ops_alone_stays_closed() -> None:
    class Long(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for op in Random(0).choices(OPS, k=90):
                x = op(x)
            return x

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.long = nn.Linear(4, 4), Long()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.long(self.first(x)).sum()

    drawn = overview(trace(Around(), torch.ones(2, 4)).graph)
    assert [box.title for box in drawn.boxes if box.kind in ("module", "part")] == [
        "Linear",
        "Long",
    ]
