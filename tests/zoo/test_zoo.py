"""Over the whole zoo: every model is captured, replays to the bit, and trains as if unwatched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from modelviz_callbacks import trace
from modelviz_callbacks.artifacts.products import graph_of
from modelviz_callbacks.graph.json_format import dumps
from modelviz_callbacks.tracing import Capture, Recording, pack, unpack
from modelviz_callbacks.tracing.capture.tape import OpEntry, flat_records
from modelviz_callbacks.tracing.lowering.networks import units
from modelviz_callbacks.tracing.lowering.to_program import to_program
from tests.zoo import (
    hard_cases,
    hard_memory,
    library_models,
    plain_models,
    pyg_models,
    torch_layers,
    transformers_models,
    transformers_overrides,
)
from tests.zoo.captured import ancestors, assert_captured
from tests.zoo.cases import Case, seed_everything
from tests.zoo.leaves import difference, frozen
from tests.zoo.replayed import assert_replays
from tests.zoo.untouched import assert_untouched

ALL = [
    *hard_cases.CASES,
    *torch_layers.CASES,
    *pyg_models.CASES,
    *library_models.CASES,
    *plain_models.CASES,
    *transformers_models.CASES,
]

every_case = pytest.mark.parametrize(
    "case", ALL, ids=[f"{case.family}-{case.name}" for case in ALL]
)
# What other libraries warn of while they build their models is not this zoo's matter.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def one_thread_and_gradients() -> Iterator[None]:
    """A case that fails with gradients switched off must not make the next ones fail."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.enable_grad():
        yield
    torch.set_num_threads(threads)


@every_case
def test_is_captured_with_every_dependency_that_autograd_knows(case: Case) -> None:
    assert_captured(case)


@every_case
def test_the_old_values_of_the_state_are_needed_for_no_file(case: Case) -> None:
    first = _recorded(case, True)  # what a library keeps of a first forward is there for both
    if not _writes_to_its_state(first):
        return  # no value was kept: the recordings are made alike
    with_values, without = (_recorded(case, keeps_state) for keeps_state in (True, False))
    assert dumps(graph_of(without)) == dumps(graph_of(with_values))
    assert _programs(without) == _programs(with_values)
    sent, sent_without = (unpack(pack(recording)) for recording in (with_values, without))
    assert dumps(graph_of(sent_without)) == dumps(graph_of(sent))
    assert _programs(sent_without) == _programs(sent)


def _writes_to_its_state(recording: Recording) -> bool:
    """Whether some value of before the forward was kept: only what is written to is."""
    ops = [entry for entry in recording.tape if isinstance(entry, OpEntry)]
    records = flat_records([(entry.args, entry.kwargs, entry.writes) for entry in ops])
    origins = ((record.first or record).origin for record in records)
    return any(origin is not None and origin.written for origin in origins)


def _programs(recording: Recording) -> list[str]:
    """What the ONNX files are made from; a part that cannot be replayed is seen in it."""
    return [
        str(to_program(unit.recording, live_state=True).module.graph) for unit in units(recording)
    ]


def _recorded(case: Case, keeps_state: bool) -> Recording:
    model, args, kwargs = case.make()
    seed_everything(1)
    capture = Capture(model, keeps_state=keeps_state)
    capture.start(args, kwargs)
    try:
        result = model(*args, **kwargs)
    finally:
        capture.stop()
    return capture.finish(result)


@pytest.mark.parametrize(
    "case",
    [case for case in ALL if case.replay == "exact"],
    ids=[f"{case.family}-{case.name}" for case in ALL if case.replay == "exact"],
)
def test_replays_to_the_bit(case: Case) -> None:
    assert_replays(case)


@every_case
def test_trains_as_if_nobody_watched(case: Case) -> None:
    assert_untouched(case)


def test_names_are_unique() -> None:
    names = Counter((case.family, case.name) for case in ALL)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_case_says_where_it_is_from() -> None:
    assert [case.name for case in ALL if not case.origin] == []


def test_few_cases_cannot_be_replayed_by_nature() -> None:
    impossible = [case.name for case in ALL if case.replay != "exact"]
    assert len(impossible) <= 0.015 * len(ALL), impossible


def test_a_build_is_the_same_each_time() -> None:
    for case in (*hard_cases.CASES, *pyg_models.CASES):
        first, second = case.make(), case.make()
        states = [
            frozen(([*model.parameters(), *model.buffers()], args, kwargs))
            for model, args, kwargs in (first, second)
        ]
        assert not difference(*states), case.name


def test_there_are_enough_hard_cases() -> None:
    assert len(hard_cases.CASES) >= 60


def test_there_are_enough_graph_networks() -> None:
    assert len(pyg_models.CASES) >= 12


def test_there_are_enough_models_of_other_libraries_and_of_the_literature() -> None:
    families = {case.family for case in library_models.CASES}
    assert {"diffusers", "monai", "peft", "sentence_transformers", "torchdiffeq"} <= families
    assert len(library_models.CASES) + len(plain_models.CASES) >= 34


def test_every_layer_of_torch_is_a_case() -> None:
    public = {
        name
        for name in dir(torch.nn)
        if isinstance(getattr(torch.nn, name), type)
        and issubclass(getattr(torch.nn, name), torch.nn.Module)
    }
    covered = {case.origin.removeprefix("torch.nn.") for case in torch_layers.CASES}
    assert public - covered == torch_layers.NOT_LAYERS


def test_at_least_120_architectures_of_transformers_are_listed_and_each_is_a_case() -> None:
    listed = [model_type for model_type, _ in transformers_models.listed()]
    assert len(set(listed)) >= 120
    assert [case.name for case in transformers_models.CASES] == listed


def test_nothing_is_overridden_for_a_model_that_is_not_listed() -> None:
    listed = {model_type for model_type, _ in transformers_models.listed()}
    overridden = {*transformers_overrides.CONFIGS, *transformers_overrides.INPUTS}
    assert overridden - listed == set()


def test_writes_to_one_half_do_not_reach_the_other_half() -> None:
    case = next(c for c in hard_memory.CASES if c.name == "writes_to_disjoint_views")
    model, args, _ = case.make()
    graph = trace(model, *args).graph
    left, right = graph.of_kind("output")
    assert not any(name.startswith("right/") for name in ancestors(graph, left.name))
    assert not any(name.startswith("left/") for name in ancestors(graph, right.name))
