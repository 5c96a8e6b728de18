"""Loops in ``graph.onnx``: one box at the top, a box for each step within."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy
import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis, analysis
from modelviz_callbacks.analysis.short_scopes import with_short_scopes
from modelviz_callbacks.analysis.wrappers import with_open_top

onnxruntime = pytest.importorskip("onnxruntime")


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, found = x.mean(1), []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            found.append(self.out(state))
        return torch.stack(found, 1).tanh()


class Many(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.select(1, t) * (t * t + 2) ** (t % 3) for t in range(14)], 1)


def computed(path: Path, given: torch.Tensor) -> numpy.ndarray:
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    return found


def test_a_long_loop_is_one_box_with_what_collects_its_steps_and_computes_the_same(
    tmp_path: Path,
) -> None:
    model, x = Decoder(), torch.randn(2, 30, 4)
    path = trace(model, x).save_onnx(tmp_path / "graph.onnx", weights=True)
    written = onnx.load(path)
    assert [node.op_type for node in written.graph.node if node.domain] == ["loop_of_30"]
    (loop,) = [function for function in written.functions if function.name == "loop_of_30"]
    names = [node.op_type.rpartition(".")[2] for node in loop.node]
    assert names == ["step"] * 30 + ["stack"]
    numpy.testing.assert_allclose(computed(path, x), model(x).detach().numpy(), atol=1e-5)


def test_many_tensors_that_are_stacked_are_one_box(tmp_path: Path) -> None:
    model, x = Many(), torch.randn(2, 14, 3)
    path = trace(model, x).save_onnx(tmp_path / "graph.onnx", weights=True)
    written = onnx.load(path)
    assert [node.op_type for node in written.graph.node if node.domain] == ["stack"]
    assert "Unsqueeze" not in [node.op_type for node in written.graph.node]
    numpy.testing.assert_allclose(computed(path, x), model(x).numpy(), atol=1e-5)


def test_a_graph_without_long_loops_stays_the_same() -> None:
    graph = trace(Decoder(), torch.randn(2, 3, 4)).graph
    assert with_short_scopes(Analysis(graph)) is graph


class Wrapped(nn.Module):
    """A loop in one of the parts of a module that holds nearly all of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4), Decoder(), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) * 2


def test_repeats_are_not_searched_again_where_the_top_level_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = Analysis(trace(Wrapped(), torch.randn(2, 30, 4)).graph)
    opened = with_open_top(built)
    assert opened is not built.graph
    searched = []
    find_folds = analysis.find_folds
    monkeypatch.setattr(
        analysis, "find_folds", lambda *given: searched.append(given) or find_folds(*given)
    )
    built.folds()
    short = with_short_scopes(built, opened)
    assert len(searched) == 1
    loops = [call.name for call in short.modules if call.class_name == "loop_of_30"]
    assert loops == ["model/1_Decoder/loop_0"]
    assert short == with_short_scopes(Analysis(opened))


class Flat(nn.Module):
    """Hundreds of ops in an order without a pattern."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = Random(0)
        for _ in range(300):
            x = chosen.choice((torch.tanh, torch.sin, torch.cos, torch.sigmoid, torch.exp))(x) / 2
        return x


def test_hundreds_of_ops_without_a_pattern_are_a_few_boxes(tmp_path: Path) -> None:
    model, x = Flat(), torch.randn(2, 3)
    path = trace(model, x).save_onnx(tmp_path / "graph.onnx", weights=True)
    names = [node.op_type.rpartition(".")[2] for node in onnx.load(path).graph.node]
    assert set(names) == {"part"}
    assert 10 < len(names) < 40
    numpy.testing.assert_allclose(computed(path, x), model(x).numpy(), atol=1e-5)
