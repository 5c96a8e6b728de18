"""One run with everything asked for computes nothing about a graph twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook
from modelviz_callbacks.analysis import analysis
from modelviz_callbacks.analysis.fingerprint import Fingerprinter
from modelviz_callbacks.analysis.outline import Outline
from modelviz_callbacks.artifacts import products
from modelviz_callbacks.options import FORMATS
from modelviz_callbacks.tracing.lowering import networks
from modelviz_callbacks.view import overview
from modelviz_callbacks.writers import graphdef, picture_shape
from modelviz_callbacks.writers.formats import FORMATS as ROWS
from modelviz_callbacks.writers.layout.dagre import Dagre
from tests.networks import Stack, mlp


class Calls:
    """Counts calls of functions, by what they are called and what they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.counts: Counter[tuple[str, Any]] = Counter()
        self.kept: list[Any] = []

    def count(self, home: Any, name: str, key: Callable[..., Any] = lambda *_, **__: None) -> None:
        """Counts the calls of ``home.name`` from now on."""
        real = getattr(home, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.kept.append(args)  # an id stands for one object only while that lives
            self.counts[name, key(*args, **kwargs)] += 1
            return real(*args, **kwargs)

        self.monkeypatch.setattr(home, name, counting)

    def of(self, name: str) -> list[int]:
        """How often a function was called with each thing."""
        return [count for (called, _), count in self.counts.items() if called == name]


def count_all(calls: Calls) -> None:
    """Counts what is to be computed once."""
    calls.count(Outline, "__init__", lambda _outline, graph: id(graph))
    calls.count(
        analysis, "find_folds", lambda exact, _any, sizes=None, _steps=None: sizes is not None
    )
    calls.count(overview, "_overview", lambda made, *rest: (id(made), *map(str, rest)))
    calls.count(
        picture_shape,
        "lay_out",
        lambda boxes, groups, edges, known, **more: (tuple(boxes), tuple(groups), str(more)),
    )
    calls.count(Dagre, "_answer", lambda dagre, asked, _nodes: (id(dagre._known), asked))
    calls.count(graphdef, "place", lambda nodes, *_: id(nodes))
    calls.count(products, "to_backward_graph")
    calls.count(networks, "to_program", lambda recording, **_: id(recording))
    real = Fingerprinter.body

    def body(self: Fingerprinter, scope: str) -> Any:
        if scope not in self._bodies:
            kinds = tuple(f.__qualname__ for f in (self.literal, self.tensor, self.held))
            kinds += (self.kind,)
            calls.kept.append(self)
            calls.counts["body", (id(self.outline.graph), kinds, scope)] += 1
        return real(self, scope)

    calls.monkeypatch.setattr(Fingerprinter, "body", body)


@pytest.mark.process
def test_a_run_with_everything_computes_each_thing_about_a_graph_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("one", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("one")
    model = nn.Sequential(Stack(mlp(), mlp(), mlp()), nn.Linear(8, 2))
    calls = Calls(monkeypatch)
    count_all(calls)
    with (
        mlflow.start_run() as run,
        GraphHook(
            model,
            dirpath=tmp_path / "graph",
            formats=FORMATS,
            background=False,
            tensorboard=str(tmp_path / "events"),
            on_error="raise",
        ),
    ):
        model(torch.zeros(2, 8)).sum().backward()
    files = {path.name for path in (tmp_path / "graph").iterdir()}
    assert files >= {ROWS[kind].file for kind in FORMATS} | {"graph.onnx", "backward.svg"}
    tags = mlflow.get_run(run.info.run_id).data.tags
    assert len(tags["modelviz.fingerprint"]) == 32
    # Three graphs: that of the first batch, the same with its FLOPs, that of the backward pass.
    assert calls.of("__init__") == [1] * 3
    # With sizes and without, each of the forward and of the backward graph.
    assert calls.of("find_folds") == [2, 2]
    for name in ("_overview", "lay_out", "_answer", "body"):
        assert set(calls.of(name)) == {1}, name
    assert calls.of("to_backward_graph") == [1]
    assert calls.of("to_program") == [1]
