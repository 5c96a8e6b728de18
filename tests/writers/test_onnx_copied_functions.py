"""``model.onnx`` is made of a copy of the model; functions that a model keeps lead to the copy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from tests.writers.test_onnx import run
from tests.writers.test_onnx_trained import trained


class Keeps(nn.Module):
    """Runs its norm through a function that it keeps."""

    def __init__(self, keep: Callable[[Keeps], Callable[..., Any]]) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.kept: Any = keep(self)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.norm(x))

    def forward(self, x: torch.Tensor) -> Any:
        return self.kept(self.layer(x))


def _default(model: Keeps) -> Callable[..., Any]:
    return lambda x, norm=model.norm: norm(x)


def _by_name(model: Keeps) -> Callable[..., Any]:
    def function(x: torch.Tensor, *, norms: Any = (model.norm,)) -> Any:
        return norms[0](x)

    return function


def _in_two(model: Keeps) -> Callable[..., Any]:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return model.normed(x)

    return lambda x: inner(x) * 2


def _of_itself(model: Keeps) -> Callable[..., Any]:
    def function(x: torch.Tensor, times: int = 2) -> torch.Tensor:
        return function(model.norm(x), times - 1) if times else x

    return function


def _partial(model: Keeps) -> Callable[..., Any]:
    return functools.partial(lambda x, by: model.norm(x) * by, by=2)


WAYS: dict[str, Callable[[Keeps], Callable[..., Any]]] = {
    "a lambda": lambda model: lambda x: model.norm(x),
    "a default": _default,
    "a default by name": _by_name,
    "a function in a function": _in_two,
    "a function that calls itself": _of_itself,
    "a bound method": lambda model: model.norm.forward,
    "a partial of a lambda": lambda model: functools.partial(
        lambda x, by: model.norm(x) * by, by=2
    ),
    "compiled": lambda model: torch.compile(model.normed, backend="eager"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_function_that_a_model_keeps_leaves_the_model_alone_and_has_a_file(
    way: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, twin = Keeps(WAYS[way]), Keeps(WAYS[way])
    twin.load_state_dict(model.state_dict())
    x = torch.randn(6, 4)
    hook = trained(model, tmp_path, x)
    twin(x)

    assert hook.report.refused == []
    assert model.training
    for (name, buffer), other in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(buffer, other), name
    (found,) = run(tmp_path / "model.onnx", x)
    torch.testing.assert_close(torch.from_numpy(found), model.eval()(x), atol=1e-5, rtol=1e-5)


def test_a_hook_that_a_layer_has_is_one_of_the_copy(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    norm = model[1]
    model[0].register_forward_hook(lambda layer, args, result: norm(result))
    hook = trained(model, tmp_path, torch.randn(6, 4))
    assert hook.report.refused == []
    assert norm.num_batches_tracked == 2  # by the hook, and by the model itself


_OUTSIDE: list[nn.Module] = []


def test_what_code_writes_to_a_model_that_it_reaches_by_a_global_name_is_taken_back(
    tmp_path: Path,
) -> None:
    class Reaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> Any:
            return _OUTSIDE[0](x)

    model = Reaches()
    _OUTSIDE[:] = [model.norm]
    trained(model, tmp_path, torch.randn(6, 4))
    assert model.norm.num_batches_tracked == 1
