"""Small models that between them use what people use, each with arguments for its forward.

Random weights, drawn from torch's generator: seed it before building.
"""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
BUILDERS: dict[str, Callable[[], Built]] = {}


def build(name: str) -> Built:
    """A model in training mode with its arguments; the same to the bit each time."""
    torch.manual_seed(0)
    return BUILDERS[name]()


def model(
    *args: Callable[[], Any], **kwargs: Callable[[], Any]
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Adds a class to `BUILDERS`, with makers of the arguments for its forward."""

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        def make() -> Built:
            made = cls()
            given = tuple(maker() for maker in args)
            return made, given, {key: maker() for key, maker in kwargs.items()}

        BUILDERS[cls.__name__] = make
        return cls

    return add


def matrix() -> torch.Tensor:
    return torch.randn(3, 4)


def images() -> torch.Tensor:
    return torch.rand(2, 1, 8, 8)


def tokens() -> torch.Tensor:
    return torch.randint(0, 11, (2, 5))


@model(images)
class TwoBranches(nn.Module):
    """Two convolution blocks, two branches on the same features, a concatenation, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.mlp1 = nn.Linear(24, 5)
        self.mlp2 = nn.Linear(24, 5)
        self.fc = nn.Linear(10, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.cnn(image).flatten(1)
        both = torch.cat([F.relu(self.mlp1(features)), F.relu(self.mlp2(features))], dim=1)
        return self.fc(both)


@model(lambda: {"left": matrix(), "nested": [matrix(), ("text", None)]})
class DictInDictOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        left, (right, rest) = batch["left"], batch["nested"]
        return {"sum": self.layer(left) + right, "rest": rest, "parts": {"left": left * 2}}


@model(matrix)
class NestedOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.layer(x)
        return [y, (y + 1, {"deep": [y * 2, None, "name"]})], OrderedDict(a=y.mean(), n=3)


@dataclass
class Pair:
    """Used as an argument and as a result."""

    first: torch.Tensor
    second: torch.Tensor | None = None
    label: str = "pair"


@model(lambda: Pair(matrix(), matrix(), "given"))
class DataclassInDataclassOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, pair: Pair) -> Pair:
        assert pair.second is not None
        return Pair(self.layer(pair.first), self.layer(pair.second), pair.label + "!")


Both = namedtuple("Both", ["low", "high"])


@model(matrix)
class NamedTupleOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Both:
        return Both(*self.layer(x).chunk(2, dim=1))


@model(matrix, lambda: "tanh", lambda: None, scale=lambda: 3, mask=lambda: torch.ones(3, 1))
class StringsAndNones(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(
        self,
        x: torch.Tensor,
        activation: str,
        bias: torch.Tensor | None = None,
        *,
        scale: float = 1.0,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, str, None]:
        y = getattr(torch, activation)(self.layer(x)) * scale
        y = y if bias is None else y + bias
        return (y if mask is None else y * mask), activation, None


@model(matrix, matrix, extra=matrix, more=matrix)
class VariableArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, *given: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return self.layer(sum(given, torch.zeros(()))) - named["extra"] * named["more"]


@model(matrix)
class ReusedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = x + self.layer(x)
        return x


@model(tokens)
class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids))


@model(matrix)
class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.layer(x))
        y = y + 1
        y.mul_(2).clamp_(max=3)
        y += x
        y[0] = 0
        y[:, 1].add_(5)
        y.view(-1)[3:5] = 7
        return y


@model(matrix)
class WritesToItsInput(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        before = x * 1
        x.add_(1)
        torch.mul(x, 2, out=x)
        return before, x


@model(matrix)
class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 3, num_layers=2, bidirectional=True, dropout=0.5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, (h, c) = self.rnn(x[:, None])
        values, indices = y.squeeze(1).max(dim=1)
        first, second, third = y.split(2, dim=2)
        return values, indices, first * third, second, *h.unbind(), c.topk(2).values


@model(matrix)
class PlainListOfModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Tanh()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@model(matrix)
class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 1)})
        self.scales = nn.ParameterList([torch.ones(4), torch.full((4,), 2.0)])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for block in self.blocks:
            x = F.gelu(block(x)) * self.scales[0] + self.scales[1]
        return {name: head(x) for name, head in self.heads.items()}


@model(matrix)
class OnlyFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.layer_norm(F.dropout(x @ self.weight.T, 0.3), (4,))
        return torch.einsum("ij,kj->ik", F.softmax(y, -1), x)


@model(matrix)
class NoParameters(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.ifft(torch.fft.fft(x) * 1j).real.flip(0).cumsum(1)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None


@model(matrix)
class CustomFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Doubled.apply(self.layer(x), 2.0).relu()


@model(matrix)
class BranchesOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(4, 4)
        self.negative = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.positive(x) if x.sum() > 0 else self.negative(x)
        while y.norm().item() > 0.5:
            y = y / 2
        return y * float(x.max())


@model(lambda: torch.randn(6, 4))
class Experts(nn.Module):
    """Routing by nonzero: the sizes depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        choice = self.router(x).argmax(dim=-1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (choice == number).nonzero().squeeze(1)
            if rows.numel():
                y = y.index_add(0, rows, expert(x[rows]))
        return y


@model(matrix)
class OwnRandomness(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noisy = x + torch.randn_like(x) * 0.1
        return noisy[torch.randperm(3)] * torch.bernoulli(torch.full((4,), 0.5))


@model(tokens)
class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.encoder(self.embedding(ids), mask=mask, is_causal=True)


@model(matrix)
class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.block, x, use_reentrant=False) + x


@model(matrix)
class UnderAutocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = self.layer(x)
        with torch.no_grad():
            shift = low.float().mean()
        return low.float() - shift


@model(matrix)
class Parametrized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spectral(self.normed(x))


@model(matrix)
class CallsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, depth: int = 3) -> torch.Tensor:
        return x if depth == 0 else self(torch.tanh(self.layer(x)), depth - 1)


@model(matrix)
class ReturnsWhatItWasGiven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.layer(x)
        return x, self.layer.weight, y, y


@model(matrix)
class KeepsRunningState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.average = 0.9 * self.average + 0.1 * x.mean(0)
        return self.norm(x) - self.average / self.steps


_TABLE = torch.linspace(0, 1, 4)


@model(matrix)
class TensorsFromElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = [torch.arange(4.0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.arange(4)
        return torch.where(x > 0, x * _TABLE, self.hidden[0] - made)


@model(matrix)
class IndexesAndMasks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x[:, [0, 2]].repeat(1, 2)
        y[y > 0] = -1
        y[torch.tensor([0, 1]), 1:3] *= 2
        return torch.cat([y, x.masked_fill(x < 0, 9)[..., None, -1]], dim=1).scatter(
            1, torch.tensor([[0], [1], [2]]), 5.0
        )


@model(matrix)
class LazyLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@model(matrix)
class OneTensorInTwoPlaces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(4, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bilinear(x, x)


@model(lambda: torch.zeros(0, 4))
class EmptyBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).sum(0)
