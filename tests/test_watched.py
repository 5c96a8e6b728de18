"""Modes and profilers of the user's see what they would see alone, and keep working."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from modelviz_callbacks import GraphHook
from tests.test_hook import IN_PLACE, graph_in
from tests.zoo.leaves import difference
from tests.zoo.untouched import switches


class Functions(TorchFunctionMode):
    """Notes every function call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Checking(Functions):
    """Asks torch for something of its own after each call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, torch.Tensor):
            self.calls.append(str(torch.isnan(result).any().item()))
        return result


class Ops(TorchDispatchMode):
    """Notes every op."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


KINDS: list[Callable[[], Any]] = [Functions, Checking, Ops]


class Net(nn.Module):
    """Enters a mode around a part of its forward; leaves it on the stack where asked to."""

    def __init__(self, mode: Any = None, leaves: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
        self.mode, self.leaves = mode, leaves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        with contextlib.ExitStack() as inside:
            if self.mode is not None:
                inside.enter_context(self.mode)
            x = torch.relu(x) + torch.zeros(4)
            if self.leaves:
                inside.pop_all()
        return self.second(x).sum()


def around_the_training(mode: Any, hooked: Callable[[nn.Module], Any]) -> None:
    model = Net()
    with hooked(model), mode:
        for _ in range(2):
            model(torch.ones(3, 4)).backward()


def around_the_hook(mode: Any, hooked: Callable[[nn.Module], Any]) -> None:
    model = Net()
    with mode, hooked(model):
        model(torch.ones(3, 4)).backward()


def inside_the_forward(mode: Any, hooked: Callable[[nn.Module], Any]) -> None:
    model = Net(mode)
    with hooked(model):
        model(torch.ones(3, 4)).backward()


def left_by_the_forward(mode: Any, hooked: Callable[[nn.Module], Any]) -> None:
    model = Net(mode, leaves=True)
    with hooked(model):
        loss = model(torch.ones(3, 4))
        mode.__exit__(None, None, None)
        loss.backward()


WAYS = [around_the_training, around_the_hook, inside_the_forward, left_by_the_forward]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run", WAYS)
def test_a_mode_sees_what_it_would_see_alone(
    kind: Callable[[], Any], run: Callable[..., None], tmp_path: Path
) -> None:
    alone, beside, before = kind(), kind(), switches()
    torch.manual_seed(0)
    run(alone, lambda _: contextlib.nullcontext())
    torch.manual_seed(0)
    run(beside, lambda model: GraphHook(model, dirpath=tmp_path, **IN_PLACE))
    assert alone.calls
    assert beside.calls == alone.calls
    assert difference(before, switches()) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run", [around_the_training, around_the_hook])
def test_the_graph_beside_a_mode_is_the_same(
    kind: Callable[[], Any], run: Callable[..., None], tmp_path: Path
) -> None:
    found = []
    for name, mode in (("alone", contextlib.nullcontext()), ("beside", kind())):
        folder = tmp_path / name
        run(mode, lambda model, folder=folder: GraphHook(model, dirpath=folder, **IN_PLACE))
        found.append(graph_in(folder))
    assert found[0] == found[1]
    assert {node.source.function for node in found[1].ops if node.source} == {"forward"}


def test_a_profile_with_stacks_of_a_recorded_step_can_be_read(tmp_path: Path) -> None:
    model = Net()
    with profile(with_stack=True) as found:
        options = IN_PLACE | {"onnx": True, "tensorboard": True, "formats": ["svg", "text"]}
        with GraphHook(model, dirpath=tmp_path, **options):
            model(torch.ones(3, 4)).backward()
    assert any("forward" in event.name for event in found.events())
    assert (tmp_path / "graph.onnx").exists()
    assert (tmp_path / "graph.svg").exists()
