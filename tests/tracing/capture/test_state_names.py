"""Parameters and buffers: their names, where their modules stand, and what is kept of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.tracing import Capture, Recording, pack, to_graph, unpack
from modelviz_callbacks.tracing.capture.module_paths import modules_of, paths_of
from modelviz_callbacks.tracing.capture.state_names import StateNames
from modelviz_callbacks.tracing.capture.tape import OpEntry, TensorRecord, flat_records
from modelviz_callbacks.tracing.lowering.networks import units
from tests.zoo.hard_modules import ListsNorm


class Counts(nn.Module):
    """Writes to a buffer and to a tensor of its own, many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.register_buffer("seen", torch.zeros(3))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        for _ in range(self.times):
            h.add_(1)
            self.seen.mul_(2)
        return h + self.seen


def _recorded(model: nn.Module, *args: Any, keeps_state: bool) -> tuple[Recording, Any]:
    capture = Capture(model, keeps_state=keeps_state)
    capture.start(args, {})
    try:
        result = model(*args)
    finally:
        capture.stop()
    return capture.finish(result), result


def _records(recording: Recording) -> set[TensorRecord]:
    ops = [entry for entry in recording.tape if isinstance(entry, OpEntry)]
    return {record for op in ops for record in flat_records((op.args, op.result, op.writes))}


def _shared() -> nn.Module:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.Sequential(nn.ReLU(), layer), nn.ModuleList([layer, layer]))
    model.extra, model.nothing = nn.ModuleDict({"a": nn.Bilinear(2, 2, 2)}), None
    return model


def test_modules_are_found_as_torch_finds_them() -> None:
    for model in (_shared(), nn.Transformer(8, 2, 1, 1, 8), nn.LSTM(2, 3), nn.Identity()):
        assert modules_of(model) == list(model.modules())
        assert paths_of(model) == list(model.named_modules(remove_duplicate=False))


def test_modules_that_hold_each_other_end() -> None:
    model = nn.ModuleList(nn.Linear(1, 1) for _ in range(60))
    for layer in model:
        layer.others = model
        layer.beside = nn.ModuleList(model)
    assert len(modules_of(model)) == 1 + 60 + 60
    assert {id(module) for _, module in paths_of(model)} == {id(m) for m in modules_of(model)}


def test_state_that_is_written_to_is_copied_only_where_its_values_are_wanted() -> None:
    x = torch.randn(4, 3)
    for keeps_state in (True, False):
        model = Counts(2)
        before = {id(tensor): tensor.clone() for tensor in model.buffers()}
        recording, _ = _recorded(model, x, keeps_state=keeps_state)
        written = {}
        for record in _records(recording):
            tensor = record.ref()
            if record.previous is None and record.origin is not None and record.origin.written:
                written[id(tensor)] = record.origin.value
        assert set(written) == set(before), "every buffer is written to"
        for number, value in written.items():
            if keeps_state:
                assert value is not None
                assert torch.equal(value, before[number])
            else:
                assert value is None


def test_state_of_modules_in_plain_lists_can_be_replayed_elsewhere() -> None:
    for keeps_state in (True, False):
        recording, _ = _recorded(ListsNorm(), torch.randn(3, 4), keeps_state=keeps_state)
        for known in (recording, unpack(pack(recording))):
            (unit,) = units(known)
            assert "unreplayable" not in str(unit.program.module.graph)


def test_a_compiled_model_names_its_own_parameters() -> None:
    names = StateNames(torch.compile(nn.Linear(2, 2), backend="eager"))
    assert [known.name for _, known in names.all()] == ["weight", "bias"]


def test_a_model_that_lists_its_parameters_itself_is_believed() -> None:
    class Model(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.hidden = [nn.Parameter(torch.ones(2))]

        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            yield from super().named_parameters(*args, **kwargs)
            yield "hidden", self.hidden[0]

    assert [known.name for _, known in StateNames(Model()).all()] == ["weight", "bias", "hidden"]


def test_a_module_in_very_many_places_is_known_in_each() -> None:
    shared = nn.Linear(1, 1)
    model = nn.Sequential(*[nn.Sequential(shared) for _ in range(1100)])
    ((_, weight), (_, bias)) = StateNames(model).all()
    assert weight.aliases[-1] == "1099.0.weight"
    assert len(bias.aliases) == 1099


def test_constants_that_are_written_to_are_always_copied() -> None:
    table = torch.ones(2, 2)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            table.add_(x)
            return table * 2

    recording, _ = _recorded(Model(), torch.ones(2, 2), keeps_state=False)
    (value,) = [s.origin.value for s in _records(recording) if s.origin and s.origin.written]
    assert value is not None
    assert torch.equal(value, torch.ones(2, 2))


def test_every_version_knows_the_first_also_in_another_process() -> None:
    recording, _ = _recorded(Counts(50), torch.randn(4, 3), keeps_state=False)
    for known in (recording, unpack(pack(recording))):
        longest = 0
        for record in _records(known):
            versions = 0
            start = record
            while start.previous is not None:
                start, versions = start.previous, versions + 1
            assert record.first is (start if versions else None)
            longest = max(longest, versions)
        assert longest == 50


def test_a_lazy_parameter_is_sent_as_one_that_had_no_value() -> None:
    recording, _ = _recorded(nn.LazyLinear(2), torch.randn(4, 3), keeps_state=False)
    graphs: list[ModelGraph] = [to_graph(unpack(pack(recording))), to_graph(recording)]
    for graph in graphs:
        assert [str(node.outputs[0].shape) for node in graph.of_kind("parameter")] == [
            "(2, 3)",
            "(2,)",
        ]
    assert any(record.began_lazy for record in _records(unpack(pack(recording))))
