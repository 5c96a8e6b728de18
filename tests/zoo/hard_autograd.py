"""Hard cases of autograd in the forward: transforms, custom functions, checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.zoo.cases import Shelf

shelf = Shelf("autograd")
CASES = shelf.cases
_HERE = "written for the zoo"


class _WithLayer(nn.Module):
    """A linear layer that the cases below build on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)


# --- transforms and gradients in the forward


@shelf.model("torch.func: vmap in the forward")
class UsesVmap(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(lambda row: (self.fc(row) * row).sum())(x)


@shelf.model("torch.func: vmap with randomness and in_dims")
class UsesVmapWithDims(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        mapped = torch.func.vmap(torch.dot, in_dims=(1, 1))(h, x)
        return mapped + h.sum()


@shelf.model("torch.func: grad in the forward")
class UsesGradTransform(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy_gradient = torch.func.grad(lambda point: self.fc(point).pow(2).sum())
        return x - 0.1 * energy_gradient(x)


@shelf.model("torch.func: jacrev in the forward")
class UsesJacrev(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.func.jacrev(lambda row: self.fc(row).tanh())(x[0]) @ x[1]


@shelf.model("torch.func: jvp, forward mode")
class UsesJvp(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, slope = torch.func.jvp(lambda point: self.fc(point).sin(), (x,), (torch.ones(3, 4),))
        return value + slope


@shelf.model("torch.func: hessian of a small network")
class UsesHessian(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.func.hessian(lambda row: self.fc(row).tanh().sum())(x[0]).diagonal()


@shelf.model("torch.func: vmap of grad: gradients of each sample")
class GradientsOfSamples(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def loss(weight: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
            return F.linear(row, weight).pow(2).sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(self.fc.weight, x)
        return each.flatten(1).norm(dim=1)


@shelf.model(f"{_HERE}: autograd.grad in the forward (gradient penalty)")
class GradientPenalty(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        point = x.detach().clone().requires_grad_()
        score = self.fc(point).tanh().sum()
        (slope,) = torch.autograd.grad(score, point, create_graph=True)
        return ((slope.norm(dim=1) - 1) ** 2).mean() + self.fc(x).mean()


@shelf.model(f"{_HERE}: forces as gradient of an energy (interatomic potentials)")
class EnergyAndForces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.enable_grad():
            place = x[:, :3].detach().requires_grad_()
            distance = (place[:, None] - place + torch.eye(3)[..., None]).norm(dim=-1)
            energy = self.body(distance[..., None]).sum()
            force = -torch.autograd.grad(energy, place, create_graph=self.training)[0]
        return {"energy": energy, "force": force}


@shelf.model(f"{_HERE}: an inner optimisation loop (MAML)")
class InnerLoop(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = dict(self.fc.named_parameters())
        for _ in range(2):
            loss = torch.func.functional_call(self.fc, weights, (x,)).pow(2).mean()
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {
                name: value - 0.1 * slope
                for (name, value), slope in zip(weights.items(), slopes, strict=True)
            }
        return torch.func.functional_call(self.fc, weights, (x,))


@shelf.model(
    f"{_HERE}: backward() called inside the forward (test-time training)",
    replay="it reads gradients that backward() left in the parameters",
)
class BackwardInForward(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        prompt = torch.zeros(4, requires_grad=True)
        with torch.enable_grad():
            (self.fc(x.detach() + prompt) ** 2).sum().backward(inputs=[prompt])
        assert prompt.grad is not None
        return self.fc(x - 0.1 * prompt.grad)


@shelf.model("torch.autograd.forward_ad: dual numbers")
class DualNumbers(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            value, slope = torch.autograd.forward_ad.unpack_dual(self.fc(dual).tanh())
        return value + slope


# --- autograd functions


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.t() @ x


class _Several(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor, scale: float) -> Any:
        return x * scale, x.argmax(-1), x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.scale = inputs[1]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, first: torch.Tensor, _: Any, third: torch.Tensor) -> Any:
        return first * ctx.scale + third, None


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * 2


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return -grad


class _ThroughNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        import numpy

        result = torch.from_numpy(numpy.sin(x.detach().numpy()))
        ctx.save_for_backward(x)
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()


@shelf.model(f"{_HERE}: a custom autograd function with a parameter")
class CustomFunction(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Double.apply(x, self.fc.weight) + 1


@shelf.model(f"{_HERE}: several results, one not differentiable, with setup_context")
class CustomFunctionSeveral(_WithLayer):
    def forward(self, x: torch.Tensor) -> Any:
        first, where, third = _Several.apply(self.fc(x), 3.0)
        return first + third, where


@shelf.model(f"{_HERE}: a custom function that writes to its argument")
class CustomFunctionInPlace(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x)
        _InPlace.apply(h)
        return h + 1


@shelf.model(f"{_HERE}: gradient reversal (domain adversarial training)")
class GradientReversal(_WithLayer):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.fc(x)
        return h, _ReverseGradient.apply(h).sigmoid()


@shelf.model(
    f"{_HERE}: a custom function computed by numpy", replay="numpy computes it, outside torch"
)
class CustomFunctionNumpy(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(_ThroughNumpy.apply(self.fc(x)))


# --- checkpoints


@shelf.model("torch.utils.checkpoint: without reentry")
class CheckpointsBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = [nn.Linear(4, 4), nn.Dropout(0.3), nn.Tanh()]
        self.blocks = nn.ModuleList(nn.Sequential(*block) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


@shelf.model("torch.utils.checkpoint: with reentry")
class CheckpointsReentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.block, self.stem(x), use_reentrant=True) * 2


@shelf.builder("torch.utils.checkpoint: a sequence in segments")
def checkpoints_sequence() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint_sequential(self.body, 2, x, use_reentrant=False)

    return Model(), (torch.randn(3, 4),), {}


@shelf.model(f"{_HERE}: a checkpoint within a checkpoint, results in a tuple")
class NestedCheckpoints(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)

    def block(self, x: torch.Tensor, flag: bool) -> tuple[torch.Tensor, None]:
        h = checkpoint(self.inner, self.outer(x), use_reentrant=False)
        return h + x, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.block, x, True, use_reentrant=False)[0]
