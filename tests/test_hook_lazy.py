"""A forward that returns something that computes while values are taken out of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks, register_optimizer_step_pre_hook

from modelviz_callbacks import GraphHook, ModelGraph, trace
from tests.test_hook_methods import IN_PLACE, left, loaded, names, remarks


class Steps(nn.Module):
    """Yields after each of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.body(x)
        weight = yield x.tanh()
        yield self.head(x if weight is None else x * weight)


class Mapped(Steps):
    def forward(self, x: torch.Tensor) -> Any:
        return map(nn.Module.__call__, (self.body, self.head), (x, x))


class Own(Steps):
    def forward(self, x: torch.Tensor) -> Any:
        model = self

        class Walker:
            __slots__ = ("layers",)

            def __iter__(self) -> Any:
                return self

            def __next__(self) -> torch.Tensor:
                return model.body(x) if self.layers.pop() else model.head(x)

        walker = Walker()
        walker.layers = Ends([0, 1])  # type: ignore[attr-defined]
        return walker


class Ends(list[int]):
    def pop(self, *_: Any) -> int:  # type: ignore[override]
        if not self:
            raise StopIteration
        return super().pop()


class Awaited(Steps):
    async def forward(self, x: torch.Tensor) -> Any:
        x = self.body(x)
        await asyncio.sleep(0)
        return self.head(x)


class Streamed(Steps):
    async def forward(self, x: torch.Tensor) -> AsyncIterator[torch.Tensor]:
        x = self.body(x)
        yield x.tanh()
        await asyncio.sleep(0)
        yield self.head(x)


async def _summed(stream: AsyncIterator[torch.Tensor]) -> Any:
    return sum([value.sum() async for value in stream])


def _in_loop(model: nn.Module, x: torch.Tensor) -> Any:
    async def run() -> Any:
        return (await model(x)).sum()

    return asyncio.run(run())


KINDS: list[tuple[type[Steps], Callable[[nn.Module, torch.Tensor], Any], list[str]]] = [
    (Steps, lambda m, x: sum(value.sum() for value in m(x)), ["linear", "tanh", "linear"]),
    (Mapped, lambda m, x: sum(value.sum() for value in m(x)), ["linear", "linear"]),
    (Own, lambda m, x: sum(value.sum() for value in m(x)), ["linear", "linear"]),
    (Awaited, _in_loop, ["linear", "linear"]),
    (Streamed, lambda m, x: asyncio.run(_summed(m(x))), ["linear", "tanh", "linear"]),
]


def trained(kind: type[Steps], loss: Callable[..., Any], folder: Path | None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = kind()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    hook = GraphHook(model, dirpath=folder, **IN_PLACE) if folder else contextlib.nullcontext()
    with hook:
        for _ in range(3):
            optimizer.zero_grad()
            loss(model, torch.randn(3, 4)).backward()
            optimizer.step()
            assert left(model) == 0
    return list(model.parameters())


@pytest.mark.parametrize(("kind", "loss", "ops"), KINDS, ids=[kind[0].__name__ for kind in KINDS])
def test_what_runs_while_a_lazy_result_is_used_up_is_recorded_and_trains_to_the_same_bits(
    kind: type[Steps], loss: Callable[..., Any], ops: list[str], tmp_path: Path
) -> None:
    weights = trained(kind, loss, tmp_path)
    graph = loaded(tmp_path)
    assert [node.name.rpartition("/")[2] for node in graph.ops] == ops
    count = 1 if kind is Awaited else 2
    wanted = [f"out[{index}]" for index in range(count)] if count > 1 else ["output"]
    assert names(graph, "output") == wanted
    assert not remarks(graph)
    assert not graph.partial
    assert all(map(torch.equal, weights, trained(kind, loss, None)))
    assert [node.name.rpartition("/")[2] for node in trace(kind(), torch.ones(3, 4)).graph.ops] == (
        ops
    )


def test_what_is_done_between_two_values_is_not_of_the_recording(tmp_path: Path) -> None:
    model = Steps()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        values = model(torch.ones(3, 4))
        first = next(values)
        weight = (first * 5).exp().detach()
        assert not torch.overrides._get_current_function_mode_stack()
        values.send(weight)
        with pytest.raises(StopIteration):
            next(values)
    graph = loaded(tmp_path)
    assert [node.op for node in graph.ops] == ["linear", "tanh", "mul", "linear"]


def _next_forward(model: nn.Module, values: Iterator[Any], hook: GraphHook) -> None:
    model(torch.ones(9, 4))


def _step(model: nn.Module, values: Iterator[Any], hook: GraphHook) -> None:
    torch.optim.SGD(model.parameters(), 0.1).step()


def _closing(model: nn.Module, values: Any, hook: GraphHook) -> None:
    values.close()
    hook.close()


def _hook_closing(model: nn.Module, values: Iterator[Any], hook: GraphHook) -> None:
    hook.close()


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (_next_forward, "before the next forward"),
        (_step, "before the optimizer's step"),
        (_closing, "before it was closed"),
        (_hook_closing, "before the end of the hook"),
    ],
)
def test_a_generator_that_is_not_used_up_is_recorded_up_to_where_it_was_left(
    limit: Callable[..., None], says: str, tmp_path: Path
) -> None:
    model = Steps()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE) as hook:
        values = model(torch.ones(3, 4))
        next(values)
        limit(model, values, hook)
        assert (tmp_path / "graph.json").exists()
        rest = list(values)
        assert len(rest) == (limit is not _closing)
    graph = loaded(tmp_path)
    assert [node.op for node in graph.ops] == ["linear", "tanh"]
    assert f"1 value(s) were taken {says}" in remarks(graph)


def test_a_generator_of_which_nobody_takes_a_value_leaves_the_place_to_the_next(
    tmp_path: Path,
) -> None:
    model = Steps()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        model(torch.ones(3, 4))
        list(model(torch.ones(7, 4)))
    assert loaded(tmp_path).of_kind("input")[0].outputs[0].shape == (7, 4)


def test_what_a_generator_raises_goes_on_and_what_ran_is_kept(tmp_path: Path) -> None:
    class Raises(Steps):
        def forward(self, x: torch.Tensor) -> Any:
            yield self.body(x)
            raise KeyError("nothing")

    model = Raises()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE), pytest.raises(KeyError, match="nothing"):
        list(model(torch.ones(3, 4)))
    graph = loaded(tmp_path)
    assert graph.partial
    assert [node.op for node in graph.ops] == ["linear"]


def test_what_was_yielded_and_sent_is_not_held(tmp_path: Path) -> None:
    from weakref import ref

    model = Steps()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        values = model(torch.ones(3, 4))
        with torch.no_grad():
            first = ref(next(values))
        gc.collect()
        assert first() is None
        sent = torch.ones(4)
        known = ref(sent)
        with torch.no_grad():
            values.send(sent)
        del sent
        values.close()
        gc.collect()
        assert known() is None


def test_a_generator_that_calls_its_own_model_is_one_recording(tmp_path: Path) -> None:
    class Nested(Steps):
        def forward(self, x: torch.Tensor, depth: int = 1) -> Any:
            x = self.body(x)
            if depth:
                yield from self(x, depth - 1)
            yield self.head(x)

    model = Nested()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        list(model(torch.ones(3, 4)))
    graph = loaded(tmp_path)
    assert [node.op for node in graph.ops] == ["linear"] * 4
    assert not remarks(graph)


def test_a_method_that_yields_is_recorded_while_it_is_used_up(tmp_path: Path) -> None:
    class Model(Steps):
        def rollout(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
            yield self.body(x)
            yield self.head(x)

    model = Model()
    with GraphHook(model, method="rollout", dirpath=tmp_path, **IN_PLACE):
        for value in model.rollout(torch.ones(3, 4)):
            value.sum().backward()
    graph: ModelGraph = loaded(tmp_path)
    assert [node.op for node in graph.ops] == ["linear", "linear"]
    assert names(graph, "output") == ["out[0]", "out[1]"]


def test_a_hook_of_an_optimizer_behind_ours_runs_in_the_step_that_ends_the_recording(
    tmp_path: Path,
) -> None:
    model, called = nn.Linear(4, 2).eval(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        model(torch.ones(3, 4)).sum().backward()
        handles = [
            register_optimizer_step_pre_hook(lambda *_: called.append(0)),
            register_optimizer_step_pre_hook(lambda *_: called.append(1)),
        ]
        optimizer.step()
        assert (tmp_path / "graph.json").exists()
    for handle in handles:
        handle.remove()
    assert called == [0, 1]
    assert not _global_optimizer_pre_hooks


def test_a_generator_that_is_left_ends_when_it_would_end_without_us(tmp_path: Path) -> None:
    class Quiet(Steps):
        def forward(self, x: torch.Tensor) -> Any:
            with torch.no_grad():
                yield self.body(x)
                yield self.head(x)

    model = Quiet()
    gc.disable()
    try:
        with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
            for _ in model(torch.ones(3, 4)):
                break
            assert torch.is_grad_enabled()
    finally:
        gc.enable()
        torch.set_grad_enabled(True)
    assert "before it was closed" in remarks(loaded(tmp_path))


class Skips:
    """Leaves every other value out, by calling itself."""

    def __init__(self, model: Any, x: torch.Tensor) -> None:
        self.model, self.x, self.count = model, x, 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        self.count += 1
        if self.count > 4:
            raise StopIteration
        return next(self) if self.count % 2 else self.model.body(self.x)


class Sent(Generator[Any, Any, Any]):
    """A generator of somebody's own class."""

    def __init__(self, model: Any, x: torch.Tensor) -> None:
        self.model, self.x, self.count = model, x, 0

    def send(self, value: Any) -> Any:
        self.count += 1
        if self.count > 2:
            raise StopIteration
        return self.model.body(self.x)

    def throw(self, *error: Any) -> Any:
        raise error[0]


class Frozen(type):
    def __setattr__(cls, name: str, value: Any) -> None:
        raise AttributeError(name)


class Unchangeable(Skips, metaclass=Frozen):
    pass


@pytest.mark.parametrize(
    ("make", "ops", "outputs"),
    [
        (Skips, 2, ["out[0]", "out[1]"]),
        (Sent, 2, ["out[0]", "out[1]"]),
        (Unchangeable, 0, []),
        (lambda model, x: iter([model.body(x), model.head(x)]), 2, ["out[0]", "out[1]"]),
    ],
    ids=["calls itself", "generator", "unchangeable", "of a list"],
)
def test_an_iterator_of_another_kind_is_returned_itself_and_nothing_is_left_behind(
    make: Callable[..., Any], ops: int, outputs: list[str], tmp_path: Path
) -> None:
    class Returns(Steps):
        def forward(self, x: torch.Tensor) -> Any:
            self.made = make(self, x)
            return self.made

    model, limit = Returns(), sys.getrecursionlimit()
    own = dict(vars(type(make(model, torch.ones(3, 4)))))
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        result = model(torch.ones(3, 4))
        assert result is model.made
        assert len(list(result)) == 2
        assert left(model) == 0
    assert sys.getrecursionlimit() == limit
    assert dict(vars(type(result))) == own
    graph = loaded(tmp_path)
    assert len(graph.ops) == ops
    assert names(graph, "output") == outputs


def test_a_fault_of_ours_while_a_value_is_taken_does_not_reach_who_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelviz_callbacks.tracing import Capture

    def fails(self: Capture) -> None:
        raise RuntimeError("ours")

    def take_all() -> None:
        model = Steps()
        with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
            values = model(torch.ones(3, 4))
            monkeypatch.setattr(Capture, "go_on", fails)
            assert len(list(values)) == 2

    with pytest.warns(UserWarning, match="missing"):
        take_all()


def test_a_generator_that_may_be_awaited_may_still_be(tmp_path: Path) -> None:
    class Returns(Steps):
        @types.coroutine
        def forward(self, x: torch.Tensor) -> Any:
            yield from asyncio.sleep(0).__await__()
            return self.body(x)

    model = Returns()
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        assert _in_loop(model, torch.ones(3, 4)).requires_grad


class Unaskable(type):
    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class Proxy(metaclass=Unaskable):
    """As one of something that is not there."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("class")


def test_a_result_that_cannot_be_asked_what_it_is_is_returned(tmp_path: Path) -> None:
    class Returns(Steps):
        def forward(self, x: torch.Tensor) -> Any:
            self.body(x)
            return given

    given = Proxy()
    with GraphHook(Returns(), dirpath=tmp_path, **IN_PLACE) as hook:
        assert hook._model(torch.ones(3, 4)) is given
    assert len(loaded(tmp_path).ops) == 1


class Holds(Steps):
    """Returns what one layer gave, and in a container something over the other layer."""

    def __init__(self, make: Callable[[Holds, torch.Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(self, self.body(x))


class Bag:
    """An object without any class of its own kind."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


async def _later(model: nn.Module, x: torch.Tensor) -> Any:
    return model(x)


_LATER: list[tuple[Callable[[Holds, torch.Tensor], Any], str]] = [
    (lambda m, y: (y, (m.head(y) for _ in range(2))), "out[1] (generator)"),
    (lambda m, y: {"y": y, "more": [map(m.head, [y])]}, "out[more][0] (map)"),
    (lambda m, y: Bag(y=y, rest=zip([y], map(m.head, [y]), strict=False)), "out.rest (zip)"),
    (lambda m, y: [_later(m.head, y), y], "out[0] (coroutine)"),
    (lambda m, y: (filter(m.head, [y]), y, itertools.accumulate([y], m.head)), "out[0] (filter)"),
]


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize(("make", "place"), _LATER)
def test_what_computes_later_inside_of_a_result_is_named_and_nothing_else_is_called_unused(
    make: Callable[[Holds, torch.Tensor], Any], place: str, tmp_path: Path
) -> None:
    model = Holds(make)
    with GraphHook(model, dirpath=tmp_path, **IN_PLACE):
        model(torch.ones(3, 4))
    for graph in (loaded(tmp_path), trace(model, torch.ones(3, 4)).graph):
        (note,) = graph.notes
        assert note.kind == "lazy-result"
        assert place in note.message
        assert not graph.partial
        assert [node.op for node in graph.ops] == ["linear"]


def _used_up(y: torch.Tensor) -> Iterator[torch.Tensor]:
    yields = (value for value in [y])
    list(yields)
    return yields


@pytest.mark.parametrize(
    "make",
    [
        lambda m, y: (y, iter([y]), zip([y], (y,), strict=True), enumerate([y])),
        lambda m, y: {"y": y, "names": map(str, [1]), "pairs": itertools.chain([y], [y])},
        lambda m, y: (y, _used_up(y), nn.Module.__call__, m.head, range(3)),
    ],
)
def test_an_iterator_over_what_is_there_already_is_not_called_one_that_computes(
    make: Callable[[Holds, torch.Tensor], Any],
) -> None:
    graph = trace(Holds(make), torch.ones(3, 4)).graph
    kinds = {note.kind for note in graph.notes}
    assert kinds == {"unused-parameter", "module-never-called"}


def test_what_is_used_up_on_the_way_to_the_backward_is_recorded_and_not_in_a_note(
    tmp_path: Path,
) -> None:
    model = Holds(lambda m, y: (y, (m.head(y) for _ in range(2))))
    with GraphHook(model, dirpath=tmp_path, loss=True, **IN_PLACE):
        y, more = model(torch.ones(3, 4))
        (y.sum() + sum(value.sum() for value in more)).backward()
    graph = loaded(tmp_path)
    assert [node.op for node in graph.ops].count("linear") == 3
    assert not graph.notes
