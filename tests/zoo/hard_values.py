"""Hard cases of arguments and results: containers, objects, aliases, outside tensors."""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.cases import Shelf

shelf = Shelf("values")
CASES = shelf.cases
_HERE = "written for the zoo"

_GLOBAL_SCALE = torch.linspace(0.5, 1.5, 4)


@dataclasses.dataclass
class Batch:
    image: torch.Tensor
    label: torch.Tensor | None
    name: str = "train"


@dataclasses.dataclass(frozen=True)
class Prediction:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    labels: tuple[str, ...] = ()


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Mode(enum.Enum):
    FAST = "fast"
    EXACT = "exact"


class PlainRecord:
    """A user's own class that no pytree knows."""

    def __init__(self, points: torch.Tensor, tag: str) -> None:
        self.points = points
        self.tag = tag
        self.extra = {"count": 3, "inner": [points * 2]}


@shelf.model(
    f"{_HERE}: nested dictionaries, lists, None and strings go in and come out",
    args=lambda: (
        {"image": torch.randn(3, 4), "meta": {"ids": ["a", "b"], "none": None}},
        [torch.ones(4), (torch.zeros(4), 2.5)],
    ),
)
class NestedStructures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, batch: dict[str, Any], extra: list[Any]) -> dict[str, Any]:
        h = self.fc(batch["image"]) + extra[0]
        return {
            "logits": h,
            "parts": [h[0], (h[1], {"deep": h[2] * extra[1][1]})],
            "names": batch["meta"]["ids"],
            "nothing": None,
            3: extra[1][0] + 1,
        }


@shelf.model(
    f"{_HERE}: dataclasses in and out",
    args=lambda: (Batch(torch.randn(3, 4), torch.tensor([0, 1, 3])),),
)
class Dataclasses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, batch: Batch) -> Prediction:
        logits = self.fc(batch.image)
        loss = None if batch.label is None else F.cross_entropy(logits, batch.label)
        return Prediction(logits, loss, labels=(batch.name,))


@shelf.model(
    f"{_HERE}: named tuples, ordered dictionaries, deques and default dictionaries",
    args=lambda: (
        Pair(torch.randn(3, 4), torch.randn(3, 4)),
        collections.OrderedDict(b=torch.ones(4), a=torch.zeros(4)),
        collections.deque([torch.ones(1), torch.zeros(1)]),
        collections.defaultdict(list, {"k": torch.full((4,), 2.0)}),
    ),
)
class StandardContainers(nn.Module):
    def forward(self, pair: Pair, ordered: Any, queue: Any, default: Any) -> Any:
        total = pair.first + ordered["b"] - ordered["a"] + queue[0] + default["k"]
        return Pair(total, pair.second * queue[1]), collections.OrderedDict(x=total.sum())


@shelf.model(
    f"{_HERE}: a user's own class in and out",
    args=lambda: (PlainRecord(torch.randn(3, 4), "one"),),
)
class CustomObjects(nn.Module):
    def forward(self, record: PlainRecord) -> PlainRecord:
        return PlainRecord(record.points.relu() + record.extra["inner"][0], record.tag + "!")


@shelf.model(
    f"{_HERE}: keyword arguments only, given in another order, with defaults",
    args=tuple,
    kwargs=lambda: {"scale": 2.0, "y": torch.randn(3, 4), "x": torch.randn(3, 4)},
)
class KeywordsOnly(nn.Module):
    def forward(
        self, *, x: torch.Tensor, y: torch.Tensor, scale: float = 1.0, mask: Any = None
    ) -> torch.Tensor:
        return x * scale - y if mask is None else x


@shelf.model(
    f"{_HERE}: *args and **kwargs",
    args=lambda: (torch.randn(3, 4), torch.randn(4), "text", None),
    kwargs=lambda: {"bias": torch.randn(4), "mode": Mode.EXACT, "flag": True},
)
class VariableArguments(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        x, w = (item for item in args if isinstance(item, torch.Tensor))
        y = x * w
        return y + kwargs["bias"] if kwargs["mode"] is Mode.EXACT else y


@shelf.model(f"{_HERE}: a generator of tensors is taken", args=lambda: (_pieces(),))
class TakesGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, pieces: Iterator[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(4)
        for piece in pieces:
            total = total + self.fc(piece)
        return total


def _pieces() -> Iterator[torch.Tensor]:
    for index in range(3):
        yield torch.full((4,), float(index))


@shelf.model(f"{_HERE}: generators inside the forward")
class YieldsInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def steps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        for layer in self.layers:
            x = layer(x).tanh()
            yield x

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.steps(x))


@shelf.model(f"{_HERE}: no tensor comes out")
class ReturnsNoTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> None:
        self.fc(x).sum()


@shelf.model(f"{_HERE}: no tensor goes in", args=lambda: (3, "a"))
class TakesNoTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4))

    def forward(self, index: int, name: str) -> torch.Tensor:
        return self.table[index] * len(name)


@shelf.model(f"{_HERE}: plain numbers and strings beside tensors come out")
class ReturnsMixed(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[Any, ...]:
        return x.relu(), 3, "name", None, Mode.FAST, x.shape, x.dtype, [1.5, True]


@shelf.model(f"{_HERE}: the input itself, a parameter and a buffer come out")
class ReturnsWhatItHas(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x, self.weight, self.table, x + self.weight


@shelf.model(f"{_HERE}: the identity")
class ReturnsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@shelf.model(f"{_HERE}: one tensor comes out several times, and as a view")
class ReturnsTheSameTwice(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = x.exp()
        return {"a": y, "b": y, "list": [y, y.t()]}


@shelf.builder(f"{_HERE}: the same tensor is given twice")
def same_tensor_twice() -> Any:
    class Model(nn.Module):
        def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return query @ key.t()

    x = torch.randn(3, 4)
    return Model(), (x, x), {}


@shelf.builder(f"{_HERE}: the model's own parameter is given as argument")
def own_parameter_as_argument() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = nn.Parameter(torch.randn(3, 4))
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    model = Model()
    return model, (model.prompt,), {}


@shelf.builder(f"{_HERE}: inputs that require gradients, one with a history of its own")
def inputs_with_gradients() -> Any:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x * y).sum()

    leaf = torch.randn(3, 4, requires_grad=True)
    return Model(), (leaf, torch.randn(3, 4, requires_grad=True) * 2), {}


@shelf.builder(f"{_HERE}: tensors from a closure, a global, a default argument and numpy")
def tensors_from_outside() -> Any:
    closed_over = torch.randn(4)

    class Model(nn.Module):
        plain = torch.arange(4.0)

        def forward(
            self,
            x: torch.Tensor,
            shift: torch.Tensor = torch.ones(4),  # noqa: B008 - people do this
        ) -> torch.Tensor:
            array = torch.from_numpy(numpy.arange(4, dtype=numpy.float32))
            return x * closed_over + _GLOBAL_SCALE * self.plain - shift + array

    return Model(), (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: tensors from factory functions")
class MakesTensors(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        grid = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij"))
        total = torch.eye(n) + torch.full((n, n), 0.5) + torch.tril(torch.ones(n, n))
        total = total + torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.linspace(0, 1, n)
        total = total + x.new_full((n,), 2.0) + torch.zeros_like(x).sum() + torch.hann_window(n)
        return x @ total + grid.sum(0) + torch.as_tensor([1, 2, 3, 4]) + torch.scalar_tensor(2.0)
