"""Hard cases of structure: recursion, depth, names, routing, weights from elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.cases import Shelf

shelf = Shelf("structures")
CASES = shelf.cases
_HERE = "written for the zoo"


@shelf.model(f"{_HERE}: deep recursion of one module")
class RecursesDeeply(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, depth: int = 40) -> torch.Tensor:
        return x if depth == 0 else self(self.fc(x).tanh(), depth - 1)


@shelf.builder(f"{_HERE}: a tree of modules chosen by a nested list (recursive network)")
def recursive_tree() -> Any:
    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf, self.join = nn.Embedding(5, 4), nn.Linear(8, 4)

        def forward(self, tree: Any) -> torch.Tensor:
            if isinstance(tree, int):
                return self.leaf(torch.tensor(tree))
            return self.join(torch.cat([self(child) for child in tree])).tanh()

    return Tree(), ([[1, 2], [[3, 4], 0]],), {}


@shelf.builder(f"{_HERE}: a chain of 100 nested modules")
def nested_modules() -> Any:
    class Shell(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + 1

    model: nn.Module = nn.Linear(4, 4)
    for _ in range(100):
        model = Shell(model)
    return model, (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: thousands of ops")
class ThousandsOfOps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(1500):
            # Not a number of its own for each: translating these is not what it is about.
            x = x * self.scale + index % 50 / 1e6
        return x


@shelf.builder(f"{_HERE}: modules and attributes called like torch's own methods")
def awkward_names() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pow = nn.Linear(4, 4)
            self.add_module("weird name: a/b", nn.Linear(4, 4))
            self.add_module("constructor", nn.Linear(4, 4))
            self.add_module("class", nn.LayerNorm(4))
            self.register_buffer("input", torch.ones(4))

        def forward(self, x: torch.Tensor, self_: float = 1.0) -> torch.Tensor:
            h = getattr(self, "weird name: a/b")(self.pow(x).pow(2))
            return getattr(self, "class")(self.constructor(h)) * self.input

    return Model(), (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: a method other than forward calls the parts")
class CallsMethods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder.forward(x).relu()  # without __call__: no hook sees it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(self.decoder(self.encode(x)), x)


@shelf.builder(f"{_HERE}: a copied module, a swapped forward")
def replaced_forward() -> Any:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.append(copy.deepcopy(model[0]))
    plain = model[2].forward
    model[2].forward = lambda x: plain(x) * 2  # type: ignore[method-assign]
    return model, (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: mixture of experts, routed with nonzero", args=lambda: (torch.randn(7, 4),))
class MixtureOfExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slot = torch.nonzero(chosen == number, as_tuple=True)
            if rows.numel():
                result.index_add_(0, rows, weights[rows, slot, None] * expert(x[rows]))
        return result


@shelf.builder("torch.func: functional_call with other parameters, and a stacked ensemble")
def functional_ensemble() -> Any:
    from torch.func import functional_call, stack_module_state, vmap

    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            members = [nn.Linear(4, 2) for _ in range(3)]
            stacked, _ = stack_module_state(members)
            self.weight = nn.Parameter(stacked["weight"].detach())
            self.bias = nn.Parameter(stacked["bias"].detach())
            self.skeleton = [nn.Linear(4, 2, device="meta")]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            def one(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
                state = {"weight": weight, "bias": bias}
                return functional_call(self.skeleton[0], state, (x,))

            return vmap(one)(self.weight, self.bias).mean(0)

    return Ensemble(), (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: hypernetwork: weights made by another network")
class HyperNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(3, 4 * 2 + 2)
        self.code = nn.Parameter(torch.randn(3))
        self.target = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.maker(self.code)
        state = {"weight": made[:8].view(2, 4), "bias": made[8:]}
        return torch.func.functional_call(self.target, state, (x,))


@shelf.model(f"{_HERE}: attention with a key and value cache kept between calls")
class KeepsCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)
        self.cache: list[torch.Tensor] = []

    def step(self, x: torch.Tensor) -> torch.Tensor:
        self.cache.append(self.key(x))
        keys = torch.stack(self.cache)
        return torch.softmax(keys @ self.query(x), 0) @ keys

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = [self.step(row) for row in x]
        self.cache = []
        return torch.stack(steps)
