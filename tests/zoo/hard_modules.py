"""Hard cases of modules: sharing, parametrisations, hooks, lazy and created ones."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.zoo.cases import Shelf

shelf = Shelf("modules")
CASES = shelf.cases
_HERE = "written for the zoo"


@shelf.model(f"{_HERE}: one module called three times")
class ReusesModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = self.norm(self.cell(x)).tanh()
        return x


@shelf.model(f"{_HERE}: tied embedding and output layer", args=lambda: (torch.arange(6) % 5,))
class TiesParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.head(self.embedding(ids)), ids)


@shelf.model(f"{_HERE}: one module under two names, one of them in a list")
class SharesModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList([self.first, nn.Linear(4, 4), self.first])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.first(x)


class _KnowsItsOwner(nn.Module):
    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.fc, self.owner = nn.Linear(4, 4), owner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.fc(x) * self.owner.scale
        return scaled


@shelf.model(f"{_HERE}: modules that have the model itself among their parts")
class HoldsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.layers = nn.ModuleList(_KnowsItsOwner(self) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@shelf.builder("torch.nn.utils.parametrizations: weight_norm")
def weight_norm_parametrization() -> Any:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Tanh())
    return model, (torch.randn(3, 4),), {}


@shelf.builder("torch.nn.utils: weight_norm by hook, the deprecated one")
def weight_norm_by_hook() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Conv1d(2, 3, 3))
    return nn.Sequential(layer, nn.ReLU()), (torch.randn(2, 2, 8),), {}


@shelf.builder("torch.nn.utils.parametrizations: spectral_norm, which updates its vectors")
def spectral_norm_parametrization() -> Any:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Tanh())
    return model, (torch.randn(3, 4),), {}


@shelf.builder("torch.nn.utils: spectral_norm by hook")
def spectral_norm_by_hook() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.spectral_norm(nn.Conv2d(2, 3, 3))
    return nn.Sequential(layer, nn.ReLU()), (torch.randn(2, 2, 6, 6),), {}


@shelf.builder("torch.nn.utils.parametrizations: orthogonal")
def orthogonal_parametrization() -> Any:
    return parametrizations.orthogonal(nn.Linear(4, 4)), (torch.randn(3, 4),), {}


class _Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).mT


@shelf.builder("torch tutorials: a parametrisation under parametrize.cached()")
def cached_parametrization() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            parametrize.register_parametrization(self.fc, "weight", _Symmetric())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with parametrize.cached():
                return self.fc(self.fc(x))

    return Model(), (torch.randn(3, 4),), {}


class _LowRank(nn.Module):
    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


@shelf.builder(f"{_HERE}: LoRA as a parametrisation of a frozen layer")
def lora_parametrization() -> Any:
    layer = nn.Linear(4, 6).requires_grad_(False)
    parametrize.register_parametrization(layer, "weight", _LowRank(6, 4, 2))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 2)), (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: LoRA as an adapter beside a frozen layer")
class LoraAdapter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 6).requires_grad_(False)
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 6, bias=False)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(self.dropout(x))) * 0.5


@shelf.builder("torch.nn.utils.prune: magnitude pruning recomputes the weight in a hook")
def pruned_layer() -> Any:
    from torch.nn.utils import prune

    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", amount=0.3)
    return nn.Sequential(layer, nn.ReLU()), (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: a module held by reference, outside of the module tree")
class HoldsByReference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.owner = nn.Linear(4, 4)
        self.user = _Borrower(self.owner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.user(x)


class _Borrower(nn.Module):
    def __init__(self, lender: nn.Linear) -> None:
        super().__init__()
        self.borrowed = [lender]  # a list hides it from the tree

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.borrowed[0](x).relu() + F.linear(x, self.borrowed[0].weight)


@shelf.model(f"{_HERE}: a batch norm in a plain list: its buffers are written to, and no state")
class ListsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norms = nn.Linear(4, 4), [nn.BatchNorm1d(4)]

    def forward(self, x: torch.Tensor) -> Any:
        return self.norms[0](self.fc(x))


@shelf.model(f"{_HERE}: modules in plain lists and dictionaries, unknown to the model")
class PlainLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
        self.by_name = {"norm": nn.LayerNorm(4)}
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.by_name["norm"](layer(x))
        return self.head(x)


@shelf.model(f"{_HERE}: functions only, parameters in ParameterList and ParameterDict")
class FunctionsOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4, 4), torch.randn(2, 4)])
        self.biases = nn.ParameterDict({"a": torch.randn(4), "b": torch.randn(2)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(F.linear(x, self.weights[0], self.biases["a"]))
        h = F.dropout(F.layer_norm(h, (4,)), 0.2, self.training)
        return F.log_softmax(F.linear(h, self.weights[1], self.biases["b"]), dim=-1)


@shelf.builder(f"{_HERE}: forward hooks that change arguments and results with ops")
def ops_in_hooks() -> Any:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda module, args, result: result + args[0])
    model[2].register_forward_hook(
        lambda module, args, kwargs, result: result.tanh(), with_kwargs=True
    )
    return model, (torch.randn(3, 4),), {}


@shelf.builder(f"{_HERE}: a feature extractor: hooks that keep intermediate results")
def hooks_that_collect() -> Any:
    class Extractor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
            self.features: dict[str, torch.Tensor] = {}
            self.body[1].register_forward_hook(self._keep)

        def _keep(self, module: nn.Module, args: Any, result: torch.Tensor) -> None:
            self.features["relu"] = result

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result = self.body(x) + self.features["relu"]
            self.features.clear()
            return result

    return Extractor(), (torch.randn(3, 4),), {}


@shelf.builder(f"{_HERE}: full backward hooks on modules and hooks on tensors")
def backward_hooks() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)
            self.fc.register_full_backward_hook(lambda m, given, got: (given[0] * 0.5,))
            self.out.register_full_backward_pre_hook(lambda m, got: (got[0] * 2,))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.fc(x + self.fc.bias)
            h.register_hook(lambda grad: grad.clamp(-1, 1))
            return self.out(h.relu())

    return Model(), (torch.randn(3, 4),), {}


@shelf.builder("torch.nn: the lazy layers, uninitialised until this forward")
def lazy_layers() -> Any:
    model = nn.Sequential(
        nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )
    return model, (torch.randn(2, 2, 6, 6),), {}


@shelf.model(f"{_HERE}: a module created in the forward")
class CreatesModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fresh = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        return fresh(self.fc(x))


@shelf.model(f"{_HERE}: a module that registers itself on first use")
class GrowsInForward(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(x.shape[1], 2)
            self.register_buffer("seen", torch.zeros(()))
        self.seen += 1
        return self.late(x)


@shelf.model(f"{_HERE}: parts in eval mode and frozen", args=lambda: (torch.randn(2, 1, 5, 5),))
class FrozenBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.backbone.requires_grad_(False).eval()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x).mean((2, 3)))


@shelf.model(f"{_HERE}: parameters and modules that nothing uses")
class UnusedParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.orphan = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.orphan.sum()
        return self.used(x)
