"""After the first step nothing of its batch is kept, whatever the batch is made of."""

from __future__ import annotations

import gc
import weakref
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import nn

from modelviz_callbacks import GraphHook

FEW: dict[str, Any] = {"formats": ["text"], "onnx": False, "tensorboard": False, "mlflow": False}


class Named(NamedTuple):
    x: torch.Tensor


@dataclass
class Data:
    x: torch.Tensor


class Own(dict[str, torch.Tensor]):
    pass


class Attributes:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Slotted:
    __slots__ = ("__weakref__", "x")

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Items(Mapping[str, torch.Tensor]):
    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def __getitem__(self, key: str) -> torch.Tensor:
        return {"x": self._x}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["x"])

    def __len__(self) -> int:
        return 1


def batch_encoding(x: torch.Tensor) -> Any:
    return pytest.importorskip("transformers").BatchEncoding({"x": x})


def generator(x: torch.Tensor) -> Any:
    return (one for one in (x,))


def array(x: torch.Tensor) -> Any:
    return x.numpy()


# Each kind of batch, and how the model gets at the tensor in it.
KINDS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "tensor": (lambda x: x, lambda batch: batch),
    "tuple": (lambda x: (x, 1), lambda batch: batch[0]),
    "dict": (lambda x: {"x": x}, lambda batch: batch["x"]),
    "named tuple": (Named, lambda batch: batch.x),
    "dataclass": (Data, lambda batch: batch.x),
    "object": (Attributes, lambda batch: batch.x),
    "own dict": (lambda x: Own(x=x), lambda batch: batch["x"]),
    "UserDict": (lambda x: UserDict(x=x), lambda batch: batch["x"]),
    "BatchEncoding": (batch_encoding, lambda batch: batch["x"]),
    "own mapping": (Items, lambda batch: batch["x"]),
    "slotted": (Slotted, lambda batch: batch.x),
    "closure": (lambda x: lambda: x, lambda batch: batch()),
    "generator": (generator, next),
    "array": (array, torch.from_numpy),
}


class Model(nn.Module):
    def __init__(self, read: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.read = read

    def forward(self, batch: Any) -> torch.Tensor:
        made: torch.Tensor = self.fc(self.read(batch))
        return made


def one_step(model: nn.Module, make: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    """Weak references to all that was in the batch, once the step is over."""
    x = torch.ones(64, 4)
    batch = make(x)
    kept = {"tensor": weakref.ref(x)}
    if not isinstance(batch, (tuple, dict, torch.Tensor)) or isinstance(batch, Own):
        kept["batch"] = weakref.ref(batch)
    if isinstance(batch, numpy.ndarray):
        del kept["tensor"]  # the array alone has the memory
    loss = model(batch).sum()
    loss.backward()
    kept["loss"] = weakref.ref(loss)
    return kept


@pytest.mark.alike
@pytest.mark.process
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_first_batch_is_kept_after_its_step(
    kind: str, background: bool, tmp_path: Path
) -> None:
    make, read = KINDS[kind]
    model = Model(read)
    with GraphHook(model, dirpath=tmp_path, background=background, **FEW) as hook:
        kept = one_step(model, make)
        gc.collect()
        assert [name for name, found in kept.items() if found() is not None] == []
    # A closure or a generator hands over no tensor, which is said.
    assert {one.what for one in hook.report.refused} <= {"the inputs"}
    assert (tmp_path / "graph.json").exists()
