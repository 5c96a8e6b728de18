"""Function transforms and forward-mode differentiation inside a forward."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from modelviz_callbacks import ModelGraph, trace
from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing import Capture, to_graph
from modelviz_callbacks.tracing.capture import functorch_watcher
from modelviz_callbacks.tracing.capture.functorch_levels import functorch
from modelviz_callbacks.tracing.capture.functorch_watcher import TransformWatcher
from tests.tracing.transform_cases import CASES, Net
from tests.zoo.captured import ancestors, assert_captured
from tests.zoo.cases import Case, seed_everything
from tests.zoo.leaves import difference, frozen, tensors
from tests.zoo.replayed import assert_replays
from tests.zoo.untouched import assert_untouched

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _levels() -> tuple[int, int, bool]:
    """The functorch levels, dual levels and permissions of this thread."""
    return (
        functorch.get_dynamic_layer_stack_depth(),
        forward_ad._current_level,
        functorch.get_inplace_requires_grad_allowed(),
    )


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    before = _levels()
    yield
    assert _levels() == before == (0, -1, False)


@pytest.fixture
def watchers(monkeypatch: pytest.MonkeyPatch) -> list[TransformWatcher]:
    """Every watcher made in the test."""
    made: list[TransformWatcher] = []
    initialise = TransformWatcher.__init__

    def remember(self: TransformWatcher, recorder: Any) -> None:
        initialise(self, recorder)
        made.append(self)

    monkeypatch.setattr(TransformWatcher, "__init__", remember)
    return made


# --- the three properties of the zoo


@pytest.mark.alike
@every_case
def test_the_graph_has_every_path_through_a_transform(
    case: Case, watchers: list[TransformWatcher]
) -> None:
    assert_captured(case)
    assert [watcher.fault for watcher in watchers] == [None]


@pytest.mark.alike
@every_case
def test_the_replay_gives_the_same_bits(case: Case) -> None:
    assert_replays(case)


@pytest.mark.alike
@every_case
def test_the_training_step_stays_as_it_was(case: Case) -> None:
    assert_untouched(case)


@pytest.mark.alike
@every_case
def test_gradients_flow_through_the_replay_as_through_the_model(case: Case) -> None:
    def gradients(run: Callable[[Net, tuple[Any, ...]], Any]) -> dict[str, Any]:
        model, args, _ = case.make()
        given = tuple(value.clone().requires_grad_() for value in args)
        seed_everything(1)
        outputs = [one for _, one in tensors(run(model, given)) if one.requires_grad]
        sum((one * one.sin()).sum() for one in outputs).backward()  # type: ignore[union-attr]
        named = [*model.named_parameters(), *((f"input {n}", v) for n, v in enumerate(given))]
        return {name: tensor.grad for name, tensor in named}

    def replayed(model: Net, given: tuple[Any, ...]) -> Any:
        seed_everything(1)
        recorded = trace(model, *given)
        seed_everything(1)
        return recorded.replay(*given)

    # Not to the bit: where gradients add up, the order may be another one.
    torch.testing.assert_close(
        gradients(replayed), gradients(lambda model, given: model(*given)), rtol=1e-5, atol=1e-5
    )


# --- what the graph says


def _graph(run: Callable[[Any, torch.Tensor], Any]) -> ModelGraph:
    torch.manual_seed(0)
    return trace(Net(run), torch.randn(3, 4)).graph


def _ops(graph: ModelGraph) -> list[tuple[str, dict[str, Any]]]:
    return [
        (node.name, {argument.name: argument.value for argument in node.arguments})
        for node in graph.of_kind("op")
    ]


def test_vmap_shows_which_dimension_it_hides_and_where_it_comes_back() -> None:
    graph = _graph(lambda net, x: vmap(lambda c: c.sin(), in_dims=1, out_dims=0)(x))
    names = [name for name, _ in _ops(graph)]
    assert names == ["add_batch_dim", "sin", "remove_batch_dim", "permute"]
    arguments = dict(_ops(graph))
    assert (arguments["add_batch_dim"]["in_dim"], arguments["add_batch_dim"]["level"]) == (1, 1)
    shapes = [node.outputs[0].shape for node in graph.of_kind("op")]
    assert shapes == [(3,), (3,), (3, 4), (4, 3)]


def test_nested_transforms_show_their_levels() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        return vmap(grad(lambda row: net.fc(row).sum()))(x)

    wrapping = [(name, found["level"]) for name, found in _ops(_graph(run)) if "level" in found]
    assert wrapping == [
        ("add_batch_dim", 1),
        ("wrap_for_grad", 2),
        ("unwrap_for_grad", 2),
        ("remove_batch_dim", 1),
    ]


def test_a_tensor_is_wrapped_and_unwrapped_outside_of_the_module_that_takes_it() -> None:
    graph = _graph(lambda net, x: net.out(vmap(net.fc)(x)))
    scopes = {name: graph.by_name[name].scope for name, _ in _ops(graph)}
    assert scopes["add_batch_dim"] == scopes["remove_batch_dim"] == ""
    assert {"fc/linear", "out/linear"} <= scopes.keys()


def test_a_write_inside_a_transform_is_seen_by_reads_outside() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        h = x.clone()
        vmap(lambda row, b: row.add_(b), (0, None))(h, net.fc.bias)
        return h * 2

    graph = _graph(run)
    assert "fc.bias" in ancestors(graph, "output")


def test_a_forward_that_raises_in_a_transform_leaves_its_partial_graph() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        def fail(row: torch.Tensor) -> torch.Tensor:
            net.fc(row)
            raise KeyError("in the middle")

        return vmap(grad(fail))(x)

    model, x = Net(run), torch.randn(3, 4)
    capture = Capture(model)
    capture.start((x,), {})
    try:
        with pytest.raises(KeyError, match="in the middle") as caught:
            model(x)
    finally:
        capture.stop()
    graph = to_graph(capture.abandon(caught.value))
    assert graph.partial
    assert {"x", "fc/weight"} <= ancestors(graph, "fc/linear")


def test_the_recording_keeps_no_activation_of_a_transform_alive() -> None:
    alive: list[Any] = []

    def run(net: Any, x: torch.Tensor) -> Any:
        def inside(row: torch.Tensor) -> torch.Tensor:
            h = net.fc(row).exp()
            alive.append(weakref.ref(functorch.get_unwrapped(functorch.get_unwrapped(h))))
            return h.detach().sin().sum() + row.sum()

        return vmap(grad(inside))(x).detach()

    recorded = trace(Net(run), torch.randn(3, 4))
    gc.collect()
    assert recorded.graph.of_kind("op")
    assert [one() for one in alive] == [None]


# --- a replay that raises


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: vmap(grad(lambda row: (net.fc(row) @ net.shift).sum()))(x),
        lambda net, x: jvp(lambda a: net.fc(a) @ net.shift, (x,), (x,))[1],
    ],
    ids=["vmap of grad", "jvp"],
)
def test_a_replay_that_raises_leaves_its_transforms(run: Callable[[Any, Any], Any]) -> None:
    model, x = Net(run), torch.randn(3, 4)
    recorded = trace(model, x)
    wanted = frozen(recorded.replay(x))
    model.shift.resize_(3)
    with pytest.raises(ReplayError, match=r"size|shape"):
        recorded.replay(x)
    assert _levels() == (0, -1, False)
    with pytest.raises(RuntimeError, match=r"size|shape"):
        recorded.program(x)
    assert _levels() == (0, -1, False)
    model.shift.resize_(4)
    assert not difference(wanted, frozen(recorded.replay(x)))


def test_a_replay_works_inside_another_transform() -> None:
    model = Net(lambda net, x: vmap(lambda row: net.fc(row).tanh())(x))
    recorded = trace(model, torch.randn(3, 4))
    many = torch.randn(2, 3, 4)
    torch.testing.assert_close(vmap(recorded.program)(many)[0], model.fc(many).tanh())


def test_a_forward_inside_a_transform_is_recorded() -> None:
    model = Net(lambda net, x: net.fc(x).tanh())
    x, graphs = torch.randn(3, 4), []

    def run(row: torch.Tensor) -> Any:
        recorded = trace(model, row)
        graphs.append(recorded.graph)
        return recorded.outputs

    torch.testing.assert_close(vmap(run)(x), model.fc(x).tanh())
    assert [node.name for node in graphs[0].of_kind("op")] == ["fc/linear", "tanh"]


# --- faults


def _failing(*_: Any, **__: Any) -> Any:
    raise RuntimeError("injected")


@pytest.mark.parametrize(
    "name", ["_opened", "_shown", "_way_out", "_levels", "_address", "make_dual", "TensorRecord"]
)
@pytest.mark.parametrize("case", ["hessians_of_samples", "vmap_twice_with_other_dims", "ensemble"])
def test_a_fault_costs_the_connection_only(
    name: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functorch_watcher, name, _failing)
    found = next(one for one in CASES if one.name == case)
    assert_untouched(found)
    model, args, _ = found.make()
    graph = trace(model, *args).graph
    assert any(node.name.endswith("linear") for node in graph.of_kind("op"))


def test_a_torch_without_these_functions_records_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functorch_watcher, "functorch", None)
    found = next(one for one in CASES if one.name == "ensemble")
    assert_untouched(found)
    model, args, _ = found.make()
    assert [n.op for n in trace(model, *args).graph.of_kind("op") if n.op == "linear"]
