"""Hard cases of code that is no plain Python: scripted, custom and higher-order ops."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from tests.zoo.cases import Shelf

shelf = Shelf("code")
CASES = shelf.cases
_HERE = "written for the zoo"


class _WithLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)


# --- scripted and traced code


def _quiet_script(thing: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(thing)


def _scripted_body(x: torch.Tensor, scale: float) -> torch.Tensor:
    if bool(x.sum() > 0):
        return x * scale
    return x + scale


@shelf.builder("torch.jit: a scripted submodule")
def scripted_submodule() -> Any:
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(4, 4), _quiet_script(body), nn.Tanh()), (torch.randn(3, 4),), {}


@shelf.builder("torch.jit: the whole model is scripted")
def scripted_model() -> Any:
    model = _quiet_script(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    return model, (torch.randn(3, 4),), {}


@shelf.builder("torch.jit: a traced submodule with a buffer it writes to")
def traced_submodule() -> Any:
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(body, torch.randn(3, 4), check_trace=False)
    return nn.Sequential(nn.Linear(4, 4), traced), (torch.randn(3, 4),), {}


@shelf.builder(
    "torch.jit: a scripted function in the forward",
    replay="compiled TorchScript calls nothing that a mode can see",
)
def scripted_function() -> Any:
    function = _quiet_script(_scripted_body)

    class Model(_WithLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(self.fc(x), 2.0) + 1

    return Model(), (torch.randn(3, 4),), {}


@shelf.builder("torch.fx: a symbolically traced submodule")
def fx_submodule() -> Any:
    body = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.ReLU()))
    return nn.Sequential(nn.Linear(4, 4), body), (torch.randn(3, 4),), {}


@shelf.builder("torch.compile: a compiled submodule")
def compiled_submodule() -> Any:
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(4, 4), torch.compile(body, backend="eager"), nn.Tanh())
    return model, (torch.randn(3, 4),), {}


@shelf.builder("torch.compile: a compiled function in the forward")
def compiled_function() -> Any:
    function = torch.compile(lambda x: (x.sin() + 1) * x.cos(), backend="eager")

    class Model(_WithLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(self.fc(x)) + 1

    return Model(), (torch.randn(3, 4),), {}


@shelf.builder("torch.compile: the model compiled in place")
def compiled_model() -> Any:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))
    model.compile(backend="eager")
    return model, (torch.randn(3, 4),), {}


# --- custom ops


def _add_one(x: torch.Tensor) -> None:
    x.add_(1)


_LIBRARY = torch.library.Library("modelviz_zoo", "DEF")
_LIBRARY.define("scaled(Tensor x, float scale) -> Tensor")
_LIBRARY.define("add_one_(Tensor(a!) x) -> ()")
_LIBRARY.define("split(Tensor x) -> (Tensor, Tensor[])")
_LIBRARY.impl("scaled", lambda x, scale: x * scale, "CompositeImplicitAutograd")
_LIBRARY.impl("add_one_", _add_one, "CPU")
_LIBRARY.impl("split", lambda x: (x.sum(), list(x.unbind())), "CompositeImplicitAutograd")


@torch.library.custom_op("modelviz_zoo::softplus", mutates_args=())
def _softplus(x: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    return torch.log1p(torch.exp(beta * x)) / beta


def _softplus_backward(ctx: Any, grad: torch.Tensor) -> Any:
    return grad * torch.sigmoid(ctx.saved_tensors[0] * ctx.beta), None


def _softplus_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.beta = inputs[1]


_softplus.register_autograd(_softplus_backward, setup_context=_softplus_setup)


@torch.library.custom_op("modelviz_zoo::count", mutates_args={"seen"})
def _count(x: torch.Tensor, seen: torch.Tensor) -> None:
    seen += (x > 0).sum()


@shelf.model("torch.library: ops defined by schema, with several results")
class LibraryOps(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total, rows = torch.ops.modelviz_zoo.split(self.fc(x))
        return torch.ops.modelviz_zoo.scaled.default(rows[1], 2.0) + total


@shelf.model("torch.library: custom_op with autograd")
class CustomOp(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _softplus(self.fc(x), 2.0) + torch.ops.modelviz_zoo.softplus(x)


@shelf.model("torch.library: custom ops that write to a buffer and to a temporary")
class MutatingCustomOp(_WithLayer):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _count(x, self.seen)
        h = x.detach().clone()
        torch.ops.modelviz_zoo.add_one_(h)
        return self.fc(x) * self.seen + h


@shelf.model("torch.ops.aten: overloads called directly, out variants too")
class AtenOps(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.ops.aten.addmm.default(self.fc.bias, x, self.fc.weight.t())
        h = torch.ops.aten.mul(h, 2)
        y = torch.zeros(3, 4)
        torch.ops.aten.add.out(x.detach(), x.detach(), out=y)
        torch.ops.aten.relu_.default(y)
        normed, _, _ = torch.ops.aten.native_layer_norm.default(h, [4], None, None, 1e-5)
        return normed + y


# --- higher-order ops


@shelf.model("torch.cond: a branch as an op", replay="torch compiles the branches out of sight")
class UsesCond(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda t: self.fc(t).sin(), lambda t: self.fc(t).cos(), (x,))


@shelf.model(
    "torch._higher_order_ops: while_loop, map and associative_scan",
    replay="torch compiles the bodies of map and scan out of sight",
)
class UsesHigherOrderOps(_WithLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch._higher_order_ops.map import map as torch_map

        return torch_map(lambda row, w: torch.mv(w, row).sin(), x, self.fc.weight) + self.fc(x)


@shelf.model(
    "torch.nn.attention.flex_attention: eager, with score and mask functions",
    args=lambda: (torch.randn(4, 8),),
    replay="torch compiles the attention out of sight",
)
class FlexAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.register_buffer("slope", torch.tensor([0.5, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        h = self.qkv(x)
        q, k, v = (part.view(1, 4, 2, 4).transpose(1, 2) for part in h.detach().chunk(3, -1))
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 4, 4, device="cpu")
        with warnings.catch_warnings(), torch.no_grad():  # it has no backward on a CPU
            warnings.simplefilter("ignore")
            mixed = flex_attention(
                q, k, v, score_mod=lambda s, b, h, i, j: s * self.slope[h], block_mask=mask
            )
        return mixed.mean() * h
