"""Forwards that use function transforms in every way that the tests could think of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.zoo.cases import Case

Forward = Callable[[Any, torch.Tensor], Any]
CASES: list[Case] = []


class Net(nn.Module):
    """A small model whose forward is a function of a case."""

    def __init__(self, run: Forward) -> None:
        super().__init__()
        self.run = run
        self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x: torch.Tensor) -> Any:
        """The case's function."""
        return self.run(self, x)


def case(run: Forward) -> Forward:
    """Makes a function of a model and a matrix of 3 by 4 a case."""

    def build() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        return Net(run), (torch.randn(3, 4),), {}

    CASES.append(Case(run.__name__, "transforms", build, "written for these tests"))
    return run


# --- vmap


@case
def vmap_out_dim(net: Any, x: torch.Tensor) -> Any:
    return net.out(vmap(lambda row: net.fc(row).outer(row), out_dims=2)(x).sum(0).t())


@case
def vmap_over_columns(net: Any, x: torch.Tensor) -> Any:
    return vmap(lambda a, b: (a * b.sin(), a.sum()), in_dims=(1, 0), out_dims=(-1, 0))(
        net.fc(x), x.t()
    )


@case
def vmap_of_a_module(net: Any, x: torch.Tensor) -> Any:
    return net.out(vmap(net.fc)(x))


@case
def vmap_twice(net: Any, x: torch.Tensor) -> Any:
    return vmap(vmap(lambda a, w: (a * w).sum(), (None, 0)), (0, None))(x, net.fc.weight)


@case
def vmap_twice_with_other_dims(net: Any, x: torch.Tensor) -> Any:
    inner = vmap(lambda a, w: net.fc(a) * w, (None, 1), out_dims=1)
    return vmap(inner, (0, None), out_dims=2)(x, net.out.weight)


@case
def vmap_returns_what_it_got(net: Any, x: torch.Tensor) -> Any:
    h = net.fc(x)
    same, turned, closed = vmap(lambda row: (row, row, h), out_dims=(0, 1, 0))(h)
    return same + 1, turned * 2, closed.sum(0)


@case
def vmap_of_dicts(net: Any, x: torch.Tensor) -> Any:
    found = vmap(lambda d: {"a": net.fc(d["x"]), "b": [d["y"].cos()]}, in_dims=({"x": 0, "y": 1},))
    return found({"x": x, "y": x.t()})


@case
def vmap_without_batched_result(net: Any, x: torch.Tensor) -> Any:
    plain, batched = vmap(lambda row: (net.shift * 2, net.fc(row)), out_dims=(None, 0))(x)
    return plain + batched


@case
def vmap_repeats_a_result(net: Any, x: torch.Tensor) -> Any:
    def outer(row: torch.Tensor) -> torch.Tensor:
        h = net.fc(row)
        return vmap(lambda w: h * 1.5, out_dims=1)(net.out.weight).sum(0)

    return vmap(outer)(x)


@case
def vmap_repeats_a_tensor_of_the_outer_one(net: Any, x: torch.Tensor) -> Any:
    def outer(row: torch.Tensor) -> torch.Tensor:
        h = net.fc(row)
        return vmap(lambda w: h, out_dims=1)(net.out.weight).sum(0)

    return vmap(outer)(x)


@case
def vmap_in_chunks(net: Any, x: torch.Tensor) -> Any:
    return vmap(lambda row: net.fc(row).tanh(), chunk_size=2)(x)


@case
def vmap_with_different_random_numbers(net: Any, x: torch.Tensor) -> Any:
    def noisy(row: torch.Tensor) -> torch.Tensor:
        return F.dropout(net.fc(row), 0.5) + torch.rand_like(row) + torch.rand(4)

    return vmap(noisy, randomness="different")(x)


@case
def vmap_with_the_same_random_numbers(net: Any, x: torch.Tensor) -> Any:
    return vmap(lambda row: net.fc(row) * torch.rand(4) + torch.randn(()), randomness="same")(x)


@case
def vmaps_one_after_the_other(net: Any, x: torch.Tensor) -> Any:
    h = vmap(net.fc)(x)
    h = vmap(lambda column: column * 2, in_dims=1, out_dims=1)(h)
    return vmap(net.out, randomness="same")(h)


@case
def vmap_writes_in_place(net: Any, x: torch.Tensor) -> Any:
    h = net.fc(x).clone()

    def write(row: torch.Tensor) -> torch.Tensor:
        row.mul_(2)
        row[1] = row[0]
        return row.relu_()

    out = vmap(write)(h)
    return out + h


@case
def vmap_writes_to_its_own(net: Any, x: torch.Tensor) -> Any:
    def write(row: torch.Tensor) -> torch.Tensor:
        h = net.fc(row)
        view = h[1:3]
        view.add_(row[0])
        return h

    return vmap(write, out_dims=1)(x)


@case
def vmap_with_plain_work_inside(net: Any, x: torch.Tensor) -> Any:
    def run(row: torch.Tensor) -> torch.Tensor:
        before = net.fc(row)
        scale = net.shift.exp().sum()
        return before * scale + net.out(torch.ones(4))

    return vmap(run)(x)


@case
def vmap_under_autocast(net: Any, x: torch.Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return vmap(lambda row: net.fc(row).float())(x)


@case
def vmap_of_boolean_masks(net: Any, x: torch.Tensor) -> Any:
    rows, columns = torch.arange(3), torch.arange(4)
    mask = vmap(vmap(lambda i, j: (j <= i) | (j == 3), (None, 0)), (0, None))(rows, columns)
    return net.fc(x).masked_fill(~mask, -1e4).softmax(-1)


@case
def ensemble(net: Any, x: torch.Tensor) -> Any:
    states, _ = stack_module_state([net.fc, net.out])  # type: ignore[list-item]
    weights = {name: value + 0 * net.fc.bias.sum() for name, value in states.items()}
    return vmap(lambda state, a: functional_call(net.fc, state, (a,)), (0, None))(weights, x)


# --- reverse mode


@case
def grad_of_a_model(net: Any, x: torch.Tensor) -> Any:
    state = dict(net.fc.named_parameters())
    slopes = grad(lambda s: functional_call(net.fc, s, (x,)).pow(2).mean())(state)
    return functional_call(net.fc, {k: v - 0.1 * slopes[k] for k, v in state.items()}, (x,))


@case
def grad_with_value_and_aux(net: Any, x: torch.Tensor) -> Any:
    def loss(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = net.fc(point)
        return h.sin().sum(), h

    slope, (value, aux) = grad_and_value(loss, has_aux=True)(x)
    return slope, value, aux


@case
def grad_of_grad(net: Any, x: torch.Tensor) -> Any:
    return grad(lambda a: grad(lambda b: net.fc(b).tanh().sum())(a).pow(3).sum())(x)


@case
def grad_steps_in_a_loop(net: Any, x: torch.Tensor) -> Any:
    for _ in range(3):
        x = x - 0.1 * grad(lambda point: net.fc(point).pow(2).sum())(x)
    return net.out(x)


@case
def grad_with_constants_inside(net: Any, x: torch.Tensor) -> Any:
    table = torch.eye(4)

    def loss(point: torch.Tensor) -> torch.Tensor:
        h = net.fc(point @ table) + net.shift + torch.ones(4)
        return (h * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum()

    return grad(loss)(x)


@case
def grad_with_a_branch_on_values(net: Any, x: torch.Tensor) -> Any:
    def loss(point: torch.Tensor) -> torch.Tensor:
        h = net.fc(point)
        return h.sum() if h.sum() > 0 else -(h**2).sum()

    return grad(loss)(x)


@case
def grad_without_gradients_inside(net: Any, x: torch.Tensor) -> Any:
    def loss(point: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weight = net.fc(point).softmax(-1)
        return (weight * net.out(point)).sum()

    return grad(loss)(x)


@case
def grad_where_gradients_are_off(net: Any, x: torch.Tensor) -> Any:
    with torch.no_grad():
        slope = grad(lambda point: net.fc(point).pow(2).sum())(x)
    return net.out(slope)


@case
def grad_of_vmap(net: Any, x: torch.Tensor) -> Any:
    def loss(point: torch.Tensor) -> torch.Tensor:
        each = vmap(lambda row: net.fc(row).sin(), out_dims=1)(point)
        return (each.t() * point).sum()

    return grad(loss)(x)


@case
def vmap_of_grad(net: Any, x: torch.Tensor) -> Any:
    def loss(state: Any, row: torch.Tensor) -> torch.Tensor:
        return functional_call(net.fc, state, (row,)).pow(2).sum()

    state = dict(net.fc.named_parameters())
    slopes = vmap(grad(loss), in_dims=(None, 0), out_dims=1)(state, x)
    return slopes["weight"].sum(1), slopes["bias"]


@case
def vmap_of_grad_of_vmap(net: Any, x: torch.Tensor) -> Any:
    def loss(row: torch.Tensor) -> torch.Tensor:
        return vmap(lambda w: (w * net.fc(row)).sum().tanh(), in_dims=1)(net.out.weight).sum()

    return vmap(grad(loss))(x)


@case
def vjp_used_twice(net: Any, x: torch.Tensor) -> Any:
    value, pull = vjp(lambda a: net.fc(a).tanh(), x)
    (first,) = pull(torch.ones_like(value))
    (second,) = pull(first)
    return value, first, second


@case
def vjp_of_vmap_pulled_later(net: Any, x: torch.Tensor) -> Any:
    value, pull = vjp(lambda a: vmap(lambda row: net.fc(row).sin(), out_dims=1)(a), x)
    h = net.out(value.t())
    return pull(h.t())[0]


@case
def grad_through_a_pullback(net: Any, x: torch.Tensor) -> Any:
    value, pull = vjp(lambda a: net.fc(a).tanh(), x)
    return grad(lambda c: pull(c)[0].pow(2).sum())(value)


@case
def jacrev_in_chunks(net: Any, x: torch.Tensor) -> Any:
    return jacrev(lambda row: net.fc(row).tanh(), chunk_size=3)(x[0]) @ x[1]


@case
def jacrev_of_two_arguments(net: Any, x: torch.Tensor) -> Any:
    both = jacrev(lambda a, b: (net.fc(a) * b.sin()).sum(0), argnums=(0, 1))(x[:2], x[1:])
    return both[0].sum(), both[1]


# --- forward mode


@case
def jvp_of_a_model(net: Any, x: torch.Tensor) -> Any:
    state = dict(net.fc.named_parameters())
    ones = {name: torch.ones_like(value) for name, value in state.items()}
    return jvp(lambda s: functional_call(net.fc, s, (x,)).sin(), (state,), (ones,))


@case
def jvp_of_jvp(net: Any, x: torch.Tensor) -> Any:
    def slope(a: torch.Tensor) -> torch.Tensor:
        return jvp(lambda b: net.fc(b).sin(), (a,), (x.cos(),))[1]

    return jvp(slope, (x,), (torch.ones_like(x),))


@case
def jvp_of_grad(net: Any, x: torch.Tensor) -> Any:
    def slope(a: torch.Tensor) -> torch.Tensor:
        return grad(lambda b: net.fc(b).tanh().sum())(a)

    return jvp(slope, (x,), (net.out(x),))


@case
def grad_of_jvp(net: Any, x: torch.Tensor) -> Any:
    def speed(a: torch.Tensor) -> torch.Tensor:
        return jvp(lambda b: net.fc(b).tanh(), (a,), (x,))[1].pow(2).sum()

    return grad(speed)(x)


@case
def jacfwd_with_constants(net: Any, x: torch.Tensor) -> Any:
    return jacfwd(lambda row: net.fc(row * net.shift + torch.arange(4.0)).sin())(x[0])


@case
def jacfwd_of_jacfwd(net: Any, x: torch.Tensor) -> Any:
    return jacfwd(jacfwd(lambda row: net.fc(row).sin().sum()))(x[0])


@case
def hessians_of_samples(net: Any, x: torch.Tensor) -> Any:
    return vmap(hessian(lambda row: net.out(net.fc(row).tanh()).sum()))(x)


@case
def dual_levels_one_after_the_other(net: Any, x: torch.Tensor) -> Any:
    with forward_ad.dual_level():
        y = net.fc(forward_ad.make_dual(x, torch.ones_like(x))).sin()
        first = forward_ad.unpack_dual(y).tangent
    h = net.out(y)
    with forward_ad.dual_level():
        again = forward_ad.make_dual(y, h)
        second = forward_ad.unpack_dual(again * again).tangent
    return first, second


@case
def dual_level_around_vmap(net: Any, x: torch.Tensor) -> Any:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, net.out(x))
        value, slope = forward_ad.unpack_dual(vmap(net.fc)(dual).tanh())
    return value + slope


@case
def jvps_one_after_the_other(net: Any, x: torch.Tensor) -> Any:
    value, slope = jvp(net.fc, (x,), (x,))
    return jvp(lambda a: net.out(a).tanh() * value, (value,), (slope,))


# --- with other parts of torch


class Cube(torch.autograd.Function):
    """A function of somebody's own that can be vmapped."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


@case
def custom_functions(net: Any, x: torch.Tensor) -> Any:
    return vmap(grad(lambda row: Cube.apply(net.fc(row)).sum()))(x) + x


@case
def transforms_under_checkpoint(net: Any, x: torch.Tensor) -> Any:
    return checkpoint(lambda a: vmap(lambda row: net.fc(row).tanh())(a), x, use_reentrant=False)


@case
def autograd_after_transforms(net: Any, x: torch.Tensor) -> Any:
    point = x.clone().requires_grad_()
    score = vmap(lambda row: net.fc(row).tanh().sum(), out_dims=0)(point).sum()
    (slope,) = torch.autograd.grad(score, point, create_graph=True)
    return slope.norm() + net.out(point).mean()


@case
def losses_in_vmap(net: Any, x: torch.Tensor) -> Any:
    target = torch.tensor([0, 3, 1])
    return vmap(lambda row, label: F.cross_entropy(net.fc(row), label))(x, target).mean()
