"""Weights that are on the meta device between the calls of their modules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook, ModelGraph, trace
from modelviz_callbacks.errors import ReplayError
from tests.test_hook_methods import loaded


class Net(nn.Module):
    """A layer called twice, a norm with buffers, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.body(self.body(x)).relu()))


def _kept(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def _unload(module: nn.Module) -> None:
    for name, tensor in list(module._parameters.items()):
        module._parameters[name] = nn.Parameter(torch.empty_like(tensor, device="meta"))


def by_hooks(model: nn.Module, folder: Path) -> None:
    for module in (model.body, model.norm, model.head):
        kept = _kept(module)
        _unload(module)

        def load(module: nn.Module, args: Any, kept: dict[str, torch.Tensor] = kept) -> None:
            for name, value in kept.items():
                module._parameters[name] = nn.Parameter(value.to("cpu", torch.float32))

        module.register_forward_pre_hook(load)
        module.register_forward_hook(lambda module, *_: _unload(module))


def by_forward(model: nn.Module, folder: Path) -> None:
    for module in (model.body, model.norm, model.head):
        kept = {name: value.half() for name, value in _kept(module).items()}
        _unload(module)

        def forward(*args: Any, module: nn.Module, kept: dict[str, Any], inner: Any) -> Any:
            for name, value in kept.items():
                module._parameters[name] = nn.Parameter(value.float())  # a copy for this call
            result = inner(*args)
            _unload(module)
            return result

        module.forward = functools.partial(forward, module=module, kept=kept, inner=module.forward)


def accelerates(model: nn.Module, folder: Path, **options: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"), **options)


def accelerates_disk(model: nn.Module, folder: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.disk_offload(model, str(folder / "weights"), execution_device=torch.device("cpu"))


WAYS = [
    by_hooks,
    by_forward,
    accelerates,
    functools.partial(accelerates, offload_buffers=True),
    accelerates_disk,
]


@pytest.mark.parametrize("offload", WAYS, ids=["hooks", "forward", "cpu", "buffers", "disk"])
def test_offloaded_weights_are_the_parameters_that_they_are(
    offload: Callable[..., None], tmp_path: Path
) -> None:
    plain, model, x = Net().eval(), Net().eval(), torch.randn(3, 4)
    offload(model, tmp_path)
    wanted, traced = trace(plain, x).graph, trace(model, x)
    graph = traced.graph
    for kind in ("parameter", "buffer"):
        assert _described(graph, kind) == _described(wanted, kind)
    assert [node.op for node in graph.ops] == [node.op for node in wanted.ops]
    assert not graph.of_kind("constant")
    assert not [note.message for note in graph.notes if "No op used" in note.message]
    path = traced.save_onnx(tmp_path / "graph.onnx")
    view = onnx.load(path)
    onnx.checker.check_model(view)
    domains = {node.domain for function in view.functions for node in function.node}
    assert "pytorch" not in domains
    other = torch.randn(3, 4)
    try:
        assert torch.equal(traced.replay(other), model(other))
    except ReplayError as error:
        assert offload not in (accelerates, by_hooks)
        assert "the offloaded parameter body.weight" in str(error)  # noqa: PT017


def _described(graph: ModelGraph, kind: Any) -> list[Any]:
    return sorted((node.path, node.outputs[0].shape) for node in graph.of_kind(kind))


def test_a_hook_names_what_accelerate_moves_and_its_results_are_the_same_bits(
    way: dict[str, Any], tmp_path: Path
) -> None:
    results = []
    for watched in (True, False):
        model, x = Net(), torch.ones(3, 4)
        accelerates(model, tmp_path)
        options: dict[str, Any] = {"tensorboard": False, **way}
        hook = GraphHook(model, dirpath=tmp_path, **options) if watched else None
        results.append([model(x * step).detach() for step in range(3)])
        if hook is not None:
            hook.close()
    assert all(map(torch.equal, *results))
    names = [node.path for node in loaded(tmp_path).of_kind("parameter")]
    assert sorted(names) == sorted(name for name, _ in Net().named_parameters())
