"""Models whose loss is not finite by one fault, each with the op that is to be named.

All are finite on the batch that is recorded. Many have besides what is harmless: masks of ``-inf``,
logarithms of zero that a ``where`` throws away, running minima that begin at infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH, WIDTH = 6, 8
INF = math.inf


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        name: What it is.
        kind: What is to be found; see `modelviz_callbacks.tracing.Nonfinite`.
        named: The last part of the op's name, or the whole name of what held the number.
        module: The module that calls the op.
        make: Gives the model, the batch that is recorded, and a function that does the harm and
            gives the batch of the step that fails.
    """

    name: str
    kind: str
    named: str
    module: str
    make: Callable[[], tuple[nn.Module, tuple[Any, ...], Callable[[], tuple[Any, ...]]]]


CASES: list[Case] = []

Fault = Callable[[Tensor, Tensor], Tensor]


class Body(nn.Module):
    """A layer, something that may fail, and a head that gives a loss."""

    def __init__(self, fault: Fault, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer if layer is not None else nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.middle = Middle(fault)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        hidden = self.norm(self.layer(x)).tanh()
        hidden = hidden + self.middle(hidden, x)
        return F.mse_loss(self.head(hidden).squeeze(-1), target)


class Middle(nn.Module):
    """Where the fault is."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        return self.fault(hidden, x)


class Masked(Body):
    """The same with an attention before it, whose mask and logarithms are harmless."""

    mask: Tensor

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        causal = torch.full((BATCH, BATCH), -INF).triu(1)
        self.register_buffer("mask", causal)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        scores = x @ x.T / WIDTH + self.mask
        x = x + 0 * (scores.softmax(-1) @ x)
        least = torch.full((WIDTH,), INF)
        for row in x:
            least = torch.minimum(least, row)
        logs = torch.where(x > 0, x.relu().log(), torch.zeros(()))
        return super().forward(x, target) + 0 * (logs.sum() + least.sum())


def batch(first: float | None = None, all_of: float | None = None) -> tuple[Tensor, Tensor]:
    """Numbers from a half to one and a half; the first row, or all of it, as given."""
    x = torch.rand(BATCH, WIDTH) + 0.5
    if first is not None:
        x[0] = first
    if all_of is not None:
        x[:] = all_of
    return x, torch.rand(BATCH)


def of_data(
    name: str,
    named: str,
    fault: Fault,
    first: float | None = None,
    all_of: float | None = None,
    body: type[Body] = Body,
    module: str = "middle",
) -> None:
    """A fault that some batch brings out."""

    def make() -> tuple[nn.Module, tuple[Any, ...], Callable[[], tuple[Any, ...]]]:
        return body(fault), batch(), lambda: batch(first, all_of)

    CASES.append(Case(name, "op", named, module, make))


def case(name: str, named: str, module: str = "", kind: str = "op") -> Callable[[Any], Any]:
    """A fault with a model of its own; what is decorated makes it."""

    def add(make: Any) -> Any:
        CASES.append(Case(name, kind, named, module, make))
        return make

    return add


# --- what is not defined for a number of the batch

of_data("log of zero", "log", lambda _, x: x.log(), 0.0)
of_data("log of zero beside masks", "log", lambda _, x: x.log(), 0.0, body=Masked)
of_data("log of a negative number", "log", lambda _, x: torch.log(x), -1.0)
of_data("log1p of minus one", "log1p", lambda _, x: torch.log1p(x), -1.0)
of_data("log2 of zero by relu", "log2", lambda _, x: torch.relu(x).log2(), -2.0)
of_data("entropy of zero: 0 log 0", "log", lambda _, x: -(x * x.log()), 0.0)
of_data("sqrt of a negative number", "sqrt", lambda _, x: x.sqrt(), -1.0)
of_data("sqrt of a variance by hand", "sqrt", lambda _, x: (x - 0.4).sqrt(), 0.1, body=Masked)
of_data("rsqrt of zero", "rsqrt", lambda _, x: torch.rsqrt(x), 0.0)
of_data("division by zero", "div", lambda h, x: h / x, 0.0)
of_data("division by zero beside masks", "div", lambda h, x: h / x, 0.0, body=Masked)
of_data("reciprocal of zero", "reciprocal", lambda _, x: x.reciprocal(), 0.0)
of_data("zero by zero", "div", lambda _, x: x / x.sum(-1, keepdim=True), 0.0)
of_data("power of a negative number", "pow", lambda _, x: x.pow(0.5), -1.0)
of_data("negative power of zero", "pow", lambda _, x: x**-2, 0.0)
of_data("acos beyond one", "acos", lambda _, x: torch.acos(x - 0.5), 2.0)
of_data("atanh of one", "atanh", lambda _, x: torch.atanh(x * 0.5), 2.0)
of_data("logit of one", "logit", lambda _, x: torch.logit(x * 0.5), 2.0)
of_data("erfinv of one", "erfinv", lambda _, x: torch.erfinv(x * 0.5), 2.0)
of_data("lgamma of zero", "lgamma", lambda _, x: torch.lgamma(x), 0.0)
of_data(
    "norm of zero",
    "div",
    lambda _, x: x / x.norm(dim=-1, keepdim=True),
    0.0,
    body=Masked,
)
of_data(
    "no variance and no eps",
    "div",
    lambda _, x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True),
    3.0,
)
of_data("mean of nothing", "mean", lambda h, x: h * x[x > 0.2].mean(), all_of=0.0, module="middle")
of_data(
    "masked mean by hand",
    "div",
    lambda h, x: h * ((x * (x > 0.2)).sum() / (x > 0.2).sum()),
    all_of=0.1,
)
of_data("exp overflows", "exp", lambda _, x: x.exp(), 100.0)
of_data("softmax by hand overflows", "exp", lambda _, x: x.exp() / x.exp().sum(-1, True), 100.0)
of_data("softplus by hand overflows", "exp", lambda _, x: (1 + x.exp()).log(), 90.0, body=Masked)
of_data("cosh overflows", "cosh", lambda _, x: torch.cosh(x), 95.0)
of_data("product overflows", "prod", lambda h, x: h * x.prod(), all_of=10.0)
of_data("a square overflows", "pow", lambda _, x: (x * 1e17).pow(2).sin(), 500.0)
of_data("overflow in half", "half", lambda _, x: x.half().float(), 1e5)
of_data("product in half", "mul", lambda _, x: (x.half() * 100).float(), 1e3)
of_data("product in bfloat16", "mul", lambda _, x: (x.bfloat16() * 1e38).sin().float(), 9.0)
of_data("sum in half", "sum", lambda h, x: h * x.half().sum().float(), all_of=2e3)
of_data(
    "matrix product in half",
    "matmul",
    lambda _, x: (x.half() @ x.half().T @ x.half()).float(),
    300.0,
)
of_data("inf minus inf", "sub", lambda _, x: meant(x) - meant(x), 3.0)
of_data("zero times inf", "mul", lambda h, x: meant(x) * h.relu().mul(0), 3.0)
of_data("softmax of nothing", "softmax", lambda _, x: meant(x).neg().softmax(-1), 3.0)
of_data(
    "log_softmax of nothing",
    "log_softmax",
    lambda h, x: F.log_softmax(h.masked_fill(x > 2, -INF), -1),
    3.0,
    body=Masked,
)
of_data(
    "attention to nothing by hand",
    "softmax",
    lambda h, x: (h @ h.T).masked_fill((x[:, :1] > 2), -INF).softmax(-1) @ h,
    3.0,
    body=Masked,
)


def meant(x: Tensor) -> Tensor:
    """Infinity where a number is above two, as somebody writes it on purpose."""
    return x.masked_fill(x > 2, INF)


# --- losses


class Loss(nn.Module):
    """A layer and a loss of the user's own."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], outputs: int = WIDTH) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, outputs)
        self.loss = loss

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        logits = self.layer(x)
        return {"loss": self.loss(logits, target), "logits": logits}


@case("cross entropy of ignored targets only", "cross_entropy")
def _() -> Any:
    good = torch.zeros(BATCH, dtype=torch.long)
    x = torch.rand(BATCH, WIDTH)
    return Loss(F.cross_entropy), (x, good), lambda: (x, good - 100)


@case("binary cross entropy by hand at one", "log")
def _() -> Any:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        p = logits.sigmoid()
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()

    x = torch.rand(BATCH, WIDTH)
    return Loss(loss), (x, torch.rand(BATCH, WIDTH)), lambda: (x * 1e4, torch.rand(BATCH, WIDTH))


@case("divergence of Gaussians with a variance of zero", "log")
def _() -> Any:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        mean, deviation = logits.chunk(2, -1)
        variance = (deviation * target).pow(2)
        return 0.5 * (mean.pow(2) + variance - 1 - variance.log()).mean()

    x = torch.rand(BATCH, WIDTH)
    return Loss(loss), (x, torch.ones(())), lambda: (x, torch.zeros(()))


@case("a NaN among the targets", "target", kind="data")
def _() -> Any:
    x, target = torch.rand(BATCH, WIDTH), torch.rand(BATCH, WIDTH)
    return (
        Loss(F.mse_loss),
        (x, target),
        lambda: (x, target.clone().index_fill_(0, torch.tensor([2]), math.nan)),
    )


# --- weights and state


@case("a NaN in the data", "x", kind="data")
def _() -> Any:
    return Masked(lambda h, _: h), batch(), lambda: batch(math.nan)


@case("an infinite number in the data", "x", kind="data")
def _() -> Any:
    return Body(lambda _, x: x), batch(), lambda: batch(INF)


@case("minus infinity in data that was logarithms", "x", kind="data")
def _() -> Any:
    return Body(lambda _, x: x.tanh() * x), batch(), lambda: batch(-INF)


@case("a weight that is NaN", "layer.weight", kind="parameter")
def _() -> Any:
    model = Masked(lambda h, _: h)

    def spoil() -> Any:
        with torch.no_grad():
            model.layer.weight[1, 1] = math.nan
        return batch()

    return model, batch(), spoil


class Squared(nn.Module):
    """The square of what a network gives, as a loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net(*inputs).float().square().mean()


@case("a row of an embedding that is infinite", "net.0.weight", kind="parameter")
def _() -> Any:
    table = nn.Embedding(10, WIDTH)
    model = Squared(nn.Sequential(table, nn.Linear(WIDTH, 1)))

    def spoil() -> Any:
        with torch.no_grad():
            table.weight[3] = INF
        return (torch.tensor([1, 2, 3]),)

    return model, (torch.tensor([1, 2, 4]),), spoil


class Scale(nn.Module):
    """A factor that is kept in a buffer."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@case("a buffer that is NaN", "net.1.scale", kind="buffer")
def _() -> Any:
    scale = Scale()

    def spoil() -> Any:
        scale.scale[0] = math.nan
        return (torch.rand(BATCH, WIDTH),)

    return (
        Squared(nn.Sequential(nn.Linear(WIDTH, WIDTH), scale)),
        (torch.rand(BATCH, WIDTH),),
        spoil,
    )


def scaled(model: nn.Module, layers: list[nn.Module], factor: float, x: Tensor) -> Any:
    """A model whose layers' weights explode."""

    def spoil() -> Any:
        with torch.no_grad():
            for layer in layers:
                layer.weight *= factor
        return (x,)

    return model, (x,), spoil


@case("weights explode", "linear", "net.2")
def _() -> Any:
    net = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)])
    x = torch.rand(BATCH, WIDTH).abs() + 1
    with torch.no_grad():
        for layer in net:
            layer.weight.abs_()
    return scaled(Squared(net), [*net], 1e13, x)


@case("weights of a convolution explode in bfloat16", "conv2d", "net.2")
def _() -> Any:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3)).bfloat16()
    with torch.no_grad():
        net[1].weight.fill_(100)
    return scaled(Squared(net), [net[2]], 1e38, torch.rand(2, 1, 8, 8).bfloat16())


@case("a transformer's feed-forward overflows in half", "linear", "net.linear2")
def _() -> Any:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.1, "gelu", batch_first=True).half()
    return scaled(
        Squared(layer), [layer.linear1, layer.linear2], 3e3, torch.rand(2, 4, WIDTH).half()
    )


class Recurrent(nn.Module):
    """A recurrence without a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.step.weight)

    def forward(self, x: Tensor) -> Tensor:
        state = x[:, 0]
        for t in range(x.shape[1]):
            state = self.step(state) + x[:, t]
        return state.mean()


@case("a recurrence explodes", "linear", "step")
def _() -> Any:
    model = Recurrent()
    return scaled(model, [model.step], 1e9, torch.rand(BATCH, 12, WIDTH) + 0.1)


@case("running statistics take the blame", "sqrt", "net.0")
def _() -> Any:
    net = nn.Sequential(Middle(lambda x, _: x.sqrt()), nn.Linear(WIDTH, 4), nn.BatchNorm1d(4))
    model = SquaredOfTwo(net)
    return model, (torch.rand(BATCH, WIDTH),), lambda: (torch.rand(BATCH, WIDTH) - 0.5,)


class SquaredOfTwo(Squared):
    """A network whose first module takes what came in twice."""

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *others = self.net  # type: ignore[misc]
        x = first(inputs[0], inputs[0])
        for one in others:
            x = one(x)
        return x.square().mean()


@case("a layer norm without eps", "layer_norm", "net.0")
def _() -> Any:
    net = nn.Sequential(nn.LayerNorm(WIDTH, eps=0.0), nn.Dropout(0.2), nn.Linear(WIDTH, 2))
    x = torch.rand(BATCH, WIDTH)
    return Squared(net), (x,), lambda: (torch.ones(BATCH, WIDTH),)


@case("autocast overflows in bfloat16 nowhere, the division does", "div")
def _() -> Any:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, weights: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self.layer(x)
            return (hidden.float().square().mean(-1) * weights).sum() / weights.sum()

    x = torch.rand(BATCH, WIDTH)
    return Cast(), (x, torch.ones(BATCH)), lambda: (x, torch.zeros(BATCH))


# --- where the first number that is not finite is not the one to blame


def thrown_away_before(x: Tensor) -> Tensor:
    """Logarithms of zero that go the way of a division by zero, and then are thrown away."""
    logs = x[:, 0].relu().log()
    return torch.where(x[:, 0] > 0, logs / x[:, 1], 0).unsqueeze(-1)


@case("a logarithm that is thrown away hides a division", "div", "middle")
def _() -> Any:
    x, target = batch()
    spoilt = x.clone()
    spoilt[0, 0], spoilt[1, 1] = -1.0, 0.0
    return Body(lambda _, x: thrown_away_before(x)), (x, target), lambda: (spoilt, target)


def written_in_place(x: Tensor) -> Tensor:
    """A row of a table is written to, through a view."""
    table = torch.ones_like(x)
    row = table[0]
    row.div_(x[0])
    return table * 2


of_data("division in place through a view", "div", lambda _, x: written_in_place(x), 0.0)
of_data(
    "an output that takes it",
    "log",
    lambda _, x: torch.log(x, out=torch.empty(BATCH, WIDTH)),
    0.0,
)


def two_scores(h: Tensor, x: Tensor) -> Tensor:
    """A maximum over windows that begin at minus infinity, beside an overflow."""
    best = torch.full((BATCH, 1), -INF)
    for column in h.split(1, -1):
        best = torch.maximum(best, column)
    return best * torch.sinh(x)


of_data("a maximum that begins at minus infinity", "sinh", two_scores, 95.0, body=Masked)


@case("two losses, one of them not finite", "div")
def _() -> Any:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
            scores = self.layer(x).masked_fill(x > 1, -INF)
            return {"scores": scores, "loss": x.mean() / weight, "length": weight.log()}

    x = torch.rand(BATCH, WIDTH)
    return Two(), (x, torch.ones(())), lambda: (x * 2, torch.zeros(()))


def in_a_loop(h: Tensor, x: Tensor) -> Tensor:
    """Sixteen turns, of which some overflow."""
    for _ in range(16):
        h = torch.addmm(x, h, x.T @ x * 0.01)
    return h.sin()


class Own(torch.autograd.Function):
    """A function of the author's own."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.rsqrt()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


of_data("a loop of products overflows", "addmm", in_a_loop, 500.0)
of_data("a NaN that nanmean leaves out", "div", lambda h, x: (x * 0 / x).nanmean() + h / x, 0.0)
of_data("products along a row overflow", "cumprod", lambda _, x: (x * 1e3).cumprod(-1).sin(), 100.0)
of_data("an einsum in half", "einsum", lambda _, x: half_einsum(x).float(), 200.0)
of_data("inside a function of the author's own", "rsqrt", lambda _, x: Own.apply(x), 0.0)
of_data("behind a Fourier transform", "rtruediv", lambda _, x: torch.fft.fft(1 / x).abs(), 0.0)


def half_einsum(x: Tensor) -> Tensor:
    """Each row times each other, in half precision."""
    x = x.half()
    return torch.einsum("ij,kj,kl->il", x, x, x)
