"""Weights of a few bits, several in one number of a tensor: counted one by one everywhere."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.graph import ParameterInfo
from modelviz_callbacks.tracer import Trace
from modelviz_callbacks.tracing import pack, to_graph, unpack
from modelviz_callbacks.tracing.capture.state_names import packed_elements
from modelviz_callbacks.writers import table, text


class Packed(nn.Parameter):
    """As bitsandbytes keeps 4-bit weights: two in a byte, and beside it what they stand for."""

    quant_state: Any

    def __new__(cls, weight: torch.Tensor, storage: torch.dtype = torch.uint8) -> Packed:
        codes = weight.clamp(-8, 7).round().add(8).to(torch.uint8).reshape(-1, 2)
        data = (codes[:, 0] * 16 + codes[:, 1]).view(storage).reshape(-1, 1)
        made = torch.Tensor._make_subclass(cls, data, False)
        made.quant_state = SimpleNamespace(shape=weight.shape, absmax=torch.ones(1))
        return made


class Linear4Bit(nn.Module):
    """A layer of such weights and a plain bias."""

    def __init__(self, inputs: int, outputs: int, storage: torch.dtype = torch.uint8) -> None:
        super().__init__()
        self.weight = Packed(torch.randn(outputs, inputs) * 4, storage)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = self.weight.detach().view(torch.uint8).reshape(-1)
        pairs = torch.stack([codes // 16, codes % 16], 1).reshape(self.weight.quant_state.shape)
        return x @ (pairs.to(x.dtype) - 8).T + self.bias


class Adapted(nn.Module):
    """Two of them with what is trained beside."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = Linear4Bit(8, 16), Linear4Bit(16, 8, torch.bfloat16)
        self.adapter = nn.Linear(8, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x)) + self.adapter(x)


@pytest.fixture(scope="module")
def traced() -> Trace:
    return trace(Adapted(), torch.randn(2, 8))


def test_packed_weights_are_counted_one_by_one_also_in_another_process_and_from_a_file(
    traced: Trace, tmp_path: Path
) -> None:
    path = tmp_path / "graph.json"
    traced.graph.save(path)
    for graph in (
        traced.graph,
        to_graph(unpack(pack(traced._recording))),
        ModelGraph.load(path),
    ):
        found = {parameter.name: parameter.elements for parameter in graph.parameters}
        assert found["up.weight"] == found["down.weight"] == 8 * 16
        assert found["up.bias"] == 16
        assert graph.parameter_count == 2 * 128 + 16 + 8 + 64
        assert graph.trainable_count == 16 + 8 + 64
        (frozen,) = [note.message for note in graph.notes if note.kind == "frozen"]
        assert "256 of 344 elements" in frozen


def test_their_bytes_are_those_that_they_take(traced: Trace) -> None:
    found = {one.name: one.spec.size_bytes for one in traced.graph.parameters}
    assert found["up.weight"] == found["down.weight"] == 64


def test_text_and_table_count_them_alike(traced: Trace) -> None:
    said = text.render(traced._analysis).decode()
    assert "344 parameters" in said
    rows = list(csv.DictReader(table.render(traced._analysis).decode().splitlines()))
    counts = {row["name"]: int(row["parameters"]) for row in rows if row["parameters"]}
    assert counts["up"] == 128 + 16
    assert counts["down"] == 128 + 8


def test_only_what_packs_more_than_it_has_elements_and_no_more_than_bits_is_packed() -> None:
    def holding(shape: Any) -> torch.Tensor:
        tensor = torch.zeros(8, dtype=torch.uint8)
        tensor.state = SimpleNamespace(shape=shape)  # type: ignore[attr-defined]
        return tensor

    assert packed_elements(holding(torch.Size([4, 16]))) == 64
    assert packed_elements(holding(torch.Size([65]))) is None
    assert packed_elements(holding(torch.Size([8]))) is None
    assert packed_elements(holding((4, 4))) is None
    assert packed_elements(holding(torch.Size([0]))) is None
    assert packed_elements(torch.zeros(8)) is None
    other = torch.zeros(8)
    other.bigger = torch.zeros(16)  # type: ignore[attr-defined]
    assert packed_elements(other) is None


def test_a_count_that_no_parameter_has_is_refused_on_load(traced: Trace, tmp_path: Path) -> None:
    assert isinstance(traced.graph.parameters[0], ParameterInfo)
    path = tmp_path / "graph.json"
    traced.graph.save(path)
    before = path.read_text()
    after = re.sub(r'("packed": ?)128', r"\1-1", before)
    assert after != before
    path.write_text(after)
    with pytest.raises(Exception, match="impossible size"):
        ModelGraph.load(path)


class HalfQuadratic(nn.Module):
    """As HQQ keeps them: a plain parameter, and its shape in a dictionary of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.W_q = nn.Parameter(torch.randint(0, 255, (8, 8), dtype=torch.uint8), False)
        self.meta = {"nbits": 4, "shape": torch.Size([16, 8]), "scale": torch.ones(16, 1)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = torch.stack([self.W_q >> 4, self.W_q & 15], 1).reshape(16, 8).to(x.dtype)
        return x @ (codes * self.meta["scale"]).T


class ByHand(nn.Module):
    """As GPTQ lays them out, in parameters: eight in a number, the zeros packed likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 16, 8
        self.register_buffer("shifts", torch.arange(0, 32, 4))
        numbers = torch.randint(-(2**31), 2**31 - 1, (2, 8), dtype=torch.int32)
        self.qweight = nn.Parameter(numbers, False)
        self.qzeros = nn.Parameter(torch.zeros(2, 1, dtype=torch.int32), False)
        self.g_idx = nn.Parameter(torch.arange(16, dtype=torch.int16) // 8, False)
        self.scales = nn.Parameter(torch.ones(2, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = (self.qweight[:, None] >> self.shifts[None, :, None]) & 15
        groups = self.g_idx.long()
        zeros = ((self.qzeros[:, :, None] >> self.shifts) & 15).reshape(2, 8)[groups]
        return x @ ((codes.reshape(16, 8) - zeros) * self.scales[groups])


class Codes(nn.Module):
    """Whole numbers that are what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.zeros(4, 4, dtype=torch.long), False)
        self.in_features, self.out_features = 4, 4
        self.shape = torch.Size([4, 4])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.codes


@pytest.mark.parametrize(
    ("model", "width", "elements"),
    [
        (HalfQuadratic(), 8, {"W_q": 128}),
        (ByHand(), 16, {"qweight": 128, "qzeros": 2, "g_idx": 16, "scales": 16}),
        (Codes(), 4, {"codes": 16}),
    ],
    ids=["hqq", "gptq", "none"],
)
def test_what_the_layer_keeps_beside_plain_tensors_tells_how_many_they_hold(
    model: nn.Module, width: int, elements: dict[str, int]
) -> None:
    traced = trace(nn.Sequential(model), torch.randn(4, width))
    wanted = {f"0.{name}": count for name, count in elements.items()}
    for graph in (traced.graph, to_graph(unpack(pack(traced._recording)))):
        assert {one.name: one.elements for one in graph.parameters} == wanted
        assert graph.parameter_count == sum(wanted.values())
