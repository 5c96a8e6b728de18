"""A forward that uses all the recursion Python allows is not ended by its recording."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook

QUICK: dict[str, Any] = {"onnx": False, "formats": ["text"], "tensorboard": False, "mlflow": False}


class Nest(nn.Module):
    """Calls itself as often as it is told to, one call inside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = [self]  # not registered: a module cannot be its own child
        self.left = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.left:
            return x * self.scale
        self.left -= 1
        return self.inner[0](x) + 1


def _fits(model: Nest, levels: int) -> bool:
    model.left = levels
    try:
        model(torch.ones(2))
    except RecursionError:
        return False
    return True


def test_a_model_that_just_fits_the_recursion_limit_fits_while_it_is_recorded(
    tmp_path: Path,
) -> None:
    model = Nest()
    fewest, most = 1, 2_000
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (middle, most) if _fits(model, middle) else (fewest, middle)
    limit = sys.getrecursionlimit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a graph so deep may lack some files
        with GraphHook(model, dirpath=tmp_path, background=False, **QUICK):
            # The hook's own call takes a few frames before the recording begins.
            assert _fits(model, fewest - 2)
        assert _fits(model, fewest - 2)
    assert sys.getrecursionlimit() == limit


def test_a_forward_that_never_ends_still_raises_and_the_limit_is_as_before(tmp_path: Path) -> None:
    model = Nest()
    model.left = 10**9
    limit = sys.getrecursionlimit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            pytest.raises(RecursionError),
            GraphHook(model, dirpath=tmp_path, background=False, **QUICK),
        ):
            model(torch.ones(2))
    assert sys.getrecursionlimit() == limit


def test_a_limit_that_the_forward_sets_stays(tmp_path: Path) -> None:
    class Sets(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sys.setrecursionlimit(1_234)
            return x * 2

    before = sys.getrecursionlimit()
    model = Sets()
    try:
        with GraphHook(model, dirpath=tmp_path, background=False, **QUICK):
            model(torch.ones(2))
        assert sys.getrecursionlimit() == 1_234
    finally:
        sys.setrecursionlimit(before)
