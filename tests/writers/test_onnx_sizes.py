"""Calls that differ in sizes only share a translation: the file is the one without that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import fx, nn

from modelviz_callbacks import trace
from modelviz_callbacks.tracing.lowering.networks import Unit
from modelviz_callbacks.writers.onnx.translation import op_translation
from modelviz_callbacks.writers.onnx.translation.calls import Call, TensorPlace
from modelviz_callbacks.writers.onnx.translation.joined import joined_without_data
from modelviz_callbacks.writers.onnx.translation.size_templates import SizeTemplates
from tests.samples import one_and_the_rest_slow

STEPS = 9


class Growing(nn.Module):
    """Each step attends over all steps so far, and looks at places that move on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.cell = nn.Embedding(30, 6), nn.GRUCell(12, 6)

    def forward(self, ids: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        past, outs = [h], []
        for t in range(STEPS):
            seen = torch.stack(past, 1)
            weights = torch.softmax(torch.bmm(h[:, None], seen.transpose(1, 2)), -1)
            context = torch.bmm(weights, seen)[:, 0]
            mask = torch.ones(t + 3, t + 3).tril()[-1:, : t + 1].repeat(2, 1)
            h = self.cell(torch.cat([self.table(ids[:, t]), context], -1), h)
            h = (
                h
                + mask.sum(-1, keepdim=True).reshape(2, 1)
                + seen[:, -1].flatten(1).narrow(1, 0, 6)
            )
            past.append(h)
            outs.append(torch.nn.functional.pad(seen, (0, 0, 0, STEPS - t)).view(2, STEPS + 1, 6))
        return torch.cat([*outs, *(one[:, None] for one in past)], 1)


class Prefixes(nn.Module):
    """Each step makes masks and places of its own size, and takes its heads together again."""

    steps = range(2, 22)

    def forward(self, ids: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        outs: list[torch.Tensor] = []
        for t in self.steps:
            heads = h[:, None].expand(2, t, 6).reshape(2, t, 3, 2)
            mask = torch.ones(t, t).tril() + torch.zeros(t, dtype=torch.int64)
            heads = heads.transpose(1, 2).reshape(2, t, 6) * torch.arange(t)[:, None]
            last = ids[:, :1].expand(2, t)[:, -2:].clone().sum(1, keepdim=True)
            outs.append((mask @ heads).sum(1) + last)
            outs.append(torch.stack(outs, -1).sum(-1))
        return torch.stack(outs)


@pytest.mark.parametrize("model", one_and_the_rest_slow([Growing(), Prefixes()]))
def test_a_growing_loop_gives_the_same_file_with_and_without_shared_translations(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = torch.randint(0, 30, (2, STEPS)), torch.randn(2, 6)
    traced, files, counts = trace(model, *args), [], []
    made: list[Call] = []
    real = op_translation._made
    monkeypatch.setattr(op_translation, "_made", lambda call: made.append(call) or real(call))
    for shares in (True, False):
        templates = SizeTemplates()
        if not shares:
            monkeypatch.setattr(templates, "find", lambda key: None)
        monkeypatch.setattr(op_translation, "_CACHE", {})
        monkeypatch.setattr(op_translation, "_TEMPLATES", templates)
        made.clear()
        files.append(traced.save_onnx(tmp_path / "graph.onnx", weights=True).read_bytes())
        counts.append(Counter(str(call.target) for call in made))
    assert files[0] == files[1]
    assert counts[0].total() < 0.7 * counts[1].total()
    if isinstance(model, Prefixes):  # some sizes are equal to others, or one
        assert max(counts[0].values()) <= 12, counts[0]
    onnx.checker.check_model(onnx.load_from_string(files[0]))
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    feed = {one.name: value.numpy() for one, value in zip(session.get_inputs(), args, strict=True)}
    (found,) = session.run(None, feed)
    wanted = traced.outputs.detach()  # it grows over the steps
    torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-4, atol=1e-4)


def test_equal_calls_that_give_several_tensors_are_made_without_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = x.cos(), x.sin()
            for _ in range(STEPS):
                state = self.cell(x, state)
                low, high = state[0].aminmax(dim=1, keepdim=True)
                state = torch.addcmul(state[0], low, high), state[1]
            return state[0] - state[1]

    torch.manual_seed(0)
    x, made, run = torch.randn(2, 3), Counter[str](), Call.run

    def counted(call: Call, tensors: Any, device: torch.device) -> Any:
        made[getattr(call.target, "__name__", str(call.target))] += device.type == "meta"
        return run(call, tensors, device)

    recorded = trace(Unrolled(), x)
    monkeypatch.setattr(Call, "run", counted)
    data = recorded.save_onnx(tmp_path / "graph.onnx", weights=True).read_bytes()
    assert made["lstm_cell"] == made["aminmax"] == 1
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    wanted = recorded.outputs.detach()
    torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [0, -1])
def test_many_tensors_are_stacked_by_two_nodes_whatever_their_number(
    tmp_path: Path, dim: int
) -> None:
    class Stacks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = [x * number for number in range(60)]
            return torch.stack(made, dim=dim).cos() + torch.cat([*made, *made], 0).sum()

    x = torch.arange(6.0).view(2, 3) / 8  # whose sums are exact in any order
    data = trace(Stacks(), x).save_onnx(tmp_path / "graph.onnx", weights=True).read_bytes()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["SequenceConstruct"] == kinds["ConcatFromSequence"] == kinds["Concat"] == 1
    assert kinds["Unsqueeze"] == 0
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.as_tensor(found), Stacks()(x))


@pytest.mark.parametrize("joins", [torch.stack, torch.cat])
def test_a_loop_that_joins_all_it_has_made_adds_to_one_sequence(tmp_path: Path, joins: Any) -> None:
    class Grows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made, seen = [x] * 50, []
            for number in range(60):
                made.append(x * number)
                seen.append(joins(made, dim=1).sum(1))
            return torch.stack(seen[:40]).cos() + joins(made[1:], dim=-1).sum()

    x = torch.arange(6.0).view(2, 3) / 8  # whose sums are exact in any order
    data = trace(Grows(), x).save_onnx(tmp_path / "graph.onnx", weights=True).read_bytes()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    references = sum(len(node.input) for node in model.graph.node)
    assert references < 1000  # and not 60 times 80
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.as_tensor(found), Grows()(x))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_many_tensors_of_a_type_that_no_sequence_holds_are_stacked_by_a_valid_file(
    tmp_path: Path, dim: int
) -> None:
    class Stacks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = [x.bfloat16() * number for number in range(60)]
            return torch.stack(made, dim=dim).float()

    x = torch.randn(2, 3)
    data = trace(Stacks(), x).save_onnx(tmp_path / "graph.onnx", weights=True).read_bytes()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert Counter(node.op_type for node in model.graph.node)["Concat"] == 1
    if _evaluator_joins_bfloat16():
        (found,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
        torch.testing.assert_close(torch.as_tensor(found), Stacks()(x), rtol=1e-2, atol=1e-2)


def _evaluator_joins_bfloat16() -> bool:
    """That of onnx 1.18 takes the bits of what it has joined for numbers."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        twice (float[1] x) => (float[2] y) {
            half = Cast<to = 16>(x)
            joined = Concat<axis = 0>(half, half)
            y = Cast<to = 1>(joined)
        }"""
    )
    (found,) = ReferenceEvaluator(model).run(None, {"x": np.array([3.0], np.float32)})
    return bool((found == 3.0).all())


def test_a_stack_of_tensors_that_do_not_fit_is_what_torch_says_it_is() -> None:
    places = [TensorPlace(number) for number in range(60)]
    ones = [torch.empty(2 + (number == 7), device="meta") for number in range(60)]
    kinds = tuple((tuple(one.shape), one.stride(), one.dtype) for one in ones)
    call = Call(torch.stack, (places,), {}, kinds, (0,), (), (torch.float32,))
    assert joined_without_data(call, ones) is None
    fitting = [torch.empty(2, device="meta")] * 60
    call = replace(call, tensors=kinds[:1] * 60)
    made = joined_without_data(call, fitting)
    assert made is not None
    assert made.shape == (60, 2)


def test_the_program_that_a_file_is_made_of_is_written_as_code_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = trace(nn.Sequential(nn.Linear(3, 3), nn.Dropout()), torch.randn(2, 3))
    written: list[fx.GraphModule] = []
    really = fx.GraphModule.recompile
    monkeypatch.setattr(
        fx.GraphModule, "recompile", lambda self: written.append(self) or really(self)
    )
    program = Unit.whole(recorded._recording).program.module
    assert written == [program]
    assert program(torch.ones(2, 3))[0].shape == (2, 3)
