"""FLOPs are those that one counts by hand, a multiply-add as two, whatever form an op has."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.rnn import pack_padded_sequence

from modelviz_callbacks import trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.analysis.costs import Cost
from modelviz_callbacks.artifacts.tracking import _section, metrics_of
from modelviz_callbacks.graph.op_facts import may_multiply
from modelviz_callbacks.tracing import to_graph, with_flops
from modelviz_callbacks.tracing.transport.pack import pack
from modelviz_callbacks.tracing.transport.unpack import unpack
from modelviz_callbacks.writers import markdown, table

B, N, M, P, H = 2, 3, 4, 5, 5
PRODUCT = 2 * N * M * P
randn = torch.randn


class Called(nn.Module):
    """A model whose forward is a function of its parts and the inputs."""

    def __init__(self, func: Callable[..., Any], parts: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.func, self.parts = func, nn.ModuleList(parts)

    def forward(self, *args: Any) -> Any:
        return self.func(*self.parts, *args)


def _quietly(make: Callable[..., Any], *args: Any) -> Any:
    """What torch makes with warnings that it is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args)


def _quantised(layer: nn.Module) -> nn.Module:
    quantize = torch.ao.quantization.quantize_dynamic
    return cast("nn.Module", _quietly(quantize, nn.Sequential(layer), {type(layer)}))


class Case(NamedTuple):
    """A call and its FLOPs counted by hand; ``None``: nobody knows, so a lower bound."""

    flops: int | None
    func: Callable[..., Any]
    args: tuple[Any, ...]
    parts: tuple[nn.Module, ...] = ()


def case(flops: int | None, func: Callable[..., Any], *args: Any, parts: Any = ()) -> Case:
    return Case(flops, func, args, parts)


SCRIPTED = _quietly(torch.jit.script, nn.Linear(M, P))
A, C = randn(N, M), randn(M, P)
PRODUCTS = {
    "mm": case(PRODUCT, torch.mm, A, C),
    "matmul": case(PRODUCT, torch.matmul, A, C),
    "@": case(PRODUCT, lambda a, c: a @ c, A, C),
    "Tensor.matmul": case(PRODUCT, lambda a, c: a.matmul(c), A, C),
    "linalg.matmul": case(PRODUCT, torch.linalg.matmul, A, C),
    "aten.mm.default": case(PRODUCT, torch.ops.aten.mm.default, A, C),
    "out=": case(PRODUCT, lambda a, c: torch.mm(a, c, out=torch.empty(N, P)), A, C),
    "mv": case(2 * N * M, torch.mv, A, randn(M)),
    "matrix @ vector": case(2 * N * M, torch.matmul, A, randn(M)),
    "vector @ matrix": case(2 * N * M, torch.matmul, randn(N), A),
    "addmv": case(2 * N * M, torch.addmv, randn(N), A, randn(M)),
    "dot": case(2 * M, torch.dot, randn(M), randn(M)),
    "vdot": case(2 * M, torch.vdot, randn(M), randn(M)),
    "inner of vectors": case(2 * M, torch.inner, randn(M), randn(M)),
    "inner": case(PRODUCT, torch.inner, A, randn(P, M)),
    "vecdot": case(2 * N * M, torch.linalg.vecdot, A, randn(M)),
    "addr": case(2 * N * M, torch.addr, A, randn(N), randn(M)),
    "addmm": case(PRODUCT, torch.addmm, randn(N, P), A, C),
    "addmm_": case(PRODUCT, lambda s, a, c: s.clone().addmm_(a, c), randn(N, P), A, C),
    "bmm": case(B * PRODUCT, torch.bmm, randn(B, N, M), randn(B, M, P)),
    "baddbmm": case(B * PRODUCT, torch.baddbmm, randn(1), randn(B, N, M), randn(B, M, P)),
    "baddbmm_": case(
        B * PRODUCT,
        lambda s, a, c: s.clone().baddbmm_(a, c),
        *(randn(B, N, P), randn(B, N, M), randn(B, M, P)),
    ),
    "addbmm": case(B * PRODUCT, torch.addbmm, randn(1), randn(B, N, M), randn(B, M, P)),
    "multi_dot": case(
        2 * (2 * 3 * 4 + 2 * 4 * 5),
        lambda *parts: torch.linalg.multi_dot(parts),
        *(randn(2, 3), randn(3, 4), randn(4, 5)),
    ),
    "chain_matmul": case(
        2 * (2 * 3 * 4 + 2 * 4 * 5), torch.chain_matmul, randn(2, 3), randn(3, 4), randn(4, 5)
    ),
    "matrix_power": case(2 * 2 * 27, lambda a: torch.linalg.matrix_power(a, 3), randn(3, 3)),
    "einsum": case(
        B * PRODUCT, lambda a, c: torch.einsum("bnm,bmp->bnp", a, c), randn(B, N, M), randn(B, M, P)
    ),
    "einsum to a number": case(2 * M, lambda a: torch.einsum("m,m->", a, a), randn(M)),
    "einsum without a sum": case(0, lambda a: torch.einsum("nm,nm->nm", a, a), A),
    "tensordot": case(PRODUCT, lambda a, c: torch.tensordot(a, c, dims=1), A, C),
    "covariance": case(2 * 3 * 3 * 8, torch.cov, randn(3, 8)),
    "complex": case(4 * PRODUCT, torch.matmul, A + 0j, C + 0j),
    "linear": case(B * PRODUCT, functional.linear, randn(B, N, M), randn(P, M), randn(P)),
    "linear of a vector": case(2 * M * P, functional.linear, randn(M), randn(P, M)),
    "bilinear": case(2 * B * 5 * (3 * 4 + 4), lambda m, *x: m(*x), randn(B, 3), randn(B, 4),
                     parts=(nn.Bilinear(3, 4, 5),)),
    "whole numbers": case(
        2 * 32**3,
        torch._int_mm,
        torch.ones(32, 32, dtype=torch.int8),
        torch.ones(32, 32, dtype=torch.int8),
    ),
    "quantised linear": case(
        PRODUCT,
        lambda m, a: m(a),
        A,
        parts=(_quantised(nn.Linear(M, P)),),
    ),
    "vmap": case(B * PRODUCT, torch.vmap(torch.mm), randn(B, N, M), randn(B, M, P)),
    "vmap over one of two": case(
        B * PRODUCT, torch.vmap(torch.mm, in_dims=(0, None)), randn(B, N, M), C
    ),
    "nested vmap": case(
        3 * B * PRODUCT,
        torch.vmap(torch.vmap(torch.mm, in_dims=(0, None)), in_dims=(None, 0)),
        *(randn(B, N, M), randn(3, M, P)),
    ),
    "what vmap does not reach": case(
        PRODUCT + B * 2 * P,
        lambda a, c, v: torch.vmap(lambda row: (torch.mm(a, c)[0] @ row))(v),
        *(A, C, randn(B, P)),
    ),
    "spectral norm": case(
        2 * (3 * M * P + P) + PRODUCT,
        lambda m, a: m(a),
        A,
        parts=(spectral_norm(nn.Linear(M, P)),),
    ),
}  # fmt: skip

SPARSE, ROWS = torch.eye(4).to_sparse(), _quietly(torch.eye(4).to_sparse_csr)
DENSE = randn(4, P)
SPARSES = {
    "sparse.mm": case(2 * 4 * P, torch.sparse.mm, SPARSE, DENSE),
    "@": case(2 * 4 * P, lambda a, c: a @ c, SPARSE, DENSE),
    "compressed rows @": case(2 * 4 * P, lambda a, c: a @ c, ROWS, DENSE),
    "compressed columns @": case(
        2 * 4 * P, lambda a, c: a @ c, torch.eye(4).to_sparse_csc(), DENSE
    ),
    "mm": case(2 * 4 * P, torch.mm, SPARSE, DENSE),
    "@ vector": case(2 * 4, lambda a, v: a @ v, SPARSE, randn(4)),
    "mv": case(2 * 4, torch.mv, SPARSE, randn(4)),
    "sparse.addmm": case(2 * 4 * P, torch.sparse.addmm, torch.zeros(4, P), SPARSE, DENSE),
    "addmm": case(2 * 4 * P, torch.addmm, torch.zeros(4, P), SPARSE, DENSE),
    "smm": case(2 * 4 * P, lambda a, c: torch.smm(a, c).to_dense(), SPARSE, DENSE),
    "hspmm": case(2 * 4 * P, lambda a, c: torch.hspmm(a, c).to_dense(), SPARSE, DENSE),
    "bmm": case(2 * B * 4 * P, torch.bmm, torch.eye(4).expand(B, 4, 4).to_sparse(), randn(B, 4, P)),
    "dense @ sparse": case(2 * 3 * 4, lambda a, c: a @ c, randn(3, 4), SPARSE),
    "linear": case(2 * 3 * 4, functional.linear, randn(3, 4), ROWS),
    "sampled": case(
        2 * 4 * P,
        lambda s, a, c: torch.sparse.sampled_addmm(s, a, c).to_dense(),
        *(ROWS, DENSE, randn(P, 4)),
    ),
    "both sparse": case(None, lambda a: torch.sparse.mm(a, a).to_dense(), SPARSE),
}

CONVOLUTIONS = {
    "conv1d": case(2 * B * 6 * 8 * 4 * 3, functional.conv1d, randn(B, 4, 10), randn(6, 4, 3)),
    "groups": case(
        2 * B * 8 * 64 * 2 * 9,
        lambda x, w: functional.conv2d(x, w, padding=1, groups=2),
        *(randn(B, 4, 8, 8), randn(8, 2, 3, 3)),
    ),
    "padding by name": case(
        2 * 8 * 64 * 4 * 9,
        lambda x, w: functional.conv2d(x, w, padding="same"),
        *(randn(4, 8, 8), randn(8, 4, 3, 3)),
    ),
    "conv3d": case(
        2 * B * 8 * 8 * 4 * 27, functional.conv3d, randn(B, 4, 4, 4, 4), randn(8, 4, 3, 3, 3)
    ),
    "transposed": case(
        2 * B * 4 * 25 * 6 * 9, functional.conv_transpose2d, randn(B, 4, 5, 5), randn(4, 6, 3, 3)
    ),
    "transposed, with groups and a stride": case(
        2 * B * 4 * 7 * 3 * 3,
        lambda x, w: functional.conv_transpose1d(x, w, stride=2, groups=2),
        *(randn(B, 4, 7), randn(4, 3, 3)),
    ),
    "time first": case(
        2 * B * 6 * 8 * 4 * 3, torch.conv_tbc, randn(10, B, 4), randn(3, 4, 6), randn(6)
    ),
}

ATTENDED = 2 * 2 * B * 2 * N * N * M  # two products of N by N by M in each of 2 heads
PROJECTED = 4 * 2 * B * N * 8 * 8 + 2 * 2 * B * N * N * 8
Q = randn(B, 2, N, M)


def _three_times(module: Callable[..., Any], x: torch.Tensor) -> Any:
    return module(x, x, x)[0]


def _without_gradients(module: Callable[..., Any], x: torch.Tensor) -> Any:
    with torch.no_grad():
        return _three_times(module, x)


def _attention(*args: Any, **kwargs: Any) -> Any:
    return lambda q: functional.scaled_dot_product_attention(q, q, q, *args, **kwargs)


_LAYER = nn.MultiheadAttention(8, 2, batch_first=True)
ATTENTIONS = {
    "plain": case(ATTENDED, _attention(), Q),
    "causal": case(ATTENDED, _attention(is_causal=True), Q),
    "masked": case(ATTENDED, _attention(torch.ones(N, N)), Q),
    "with dropout": case(ATTENDED, _attention(dropout_p=0.1), Q),
    "grouped": case(
        2 * ATTENDED,
        lambda q, k: functional.scaled_dot_product_attention(q, k, k, enable_gqa=True),
        *(randn(B, 4, N, M), Q),
    ),
    "flash, by its name": case(
        ATTENDED, lambda q: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q), Q
    ),
    "math, by its name": case(
        ATTENDED, lambda q: torch.ops.aten._scaled_dot_product_attention_math(q, q, q), Q
    ),
    "layer": case(PROJECTED, _three_times, randn(B, N, 8), parts=(_LAYER,)),
    "layer on the fast path": case(
        PROJECTED, _without_gradients, randn(B, N, 8), parts=(deepcopy(_LAYER).eval(),)
    ),
    "encoder layer": case(
        PROJECTED + 2 * 2 * B * N * 8 * 16,
        lambda m, x: m(x),
        randn(B, N, 8),
        parts=(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),),
    ),
}

LENGTHS = [3, 2]  # of the packed sequences


def _padded(module: Callable[..., Any], x: torch.Tensor) -> Any:
    return module(x)[0]


def _packed(module: Callable[..., Any], x: torch.Tensor) -> Any:
    return module(pack_padded_sequence(x, LENGTHS, batch_first=True))[0].data


def _recurrent() -> Iterator[tuple[str, Case]]:
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        make = cast("Callable[..., nn.Module]", kind)
        for layers, directions in ((1, 1), (2, 2)):
            wide = directions == 2
            weights = directions * gates * H * (M + H)
            weights += (layers - 1) * directions * gates * H * (directions * H + H)
            module = make(M, H, layers, batch_first=True, bidirectional=wide)
            name = f"{kind.__name__}, {layers} layers"
            x = randn(B, N, M)
            yield name, case(2 * B * N * weights, _padded, x, parts=(module,))
            total = 2 * sum(LENGTHS) * weights
            yield f"{name}, packed", case(total, _packed, x, parts=(module,))
    for module, gates in ((nn.LSTMCell(M, H), 4), (nn.GRUCell(M, H), 3), (nn.RNNCell(M, H), 1)):
        flops = 2 * B * gates * H * (M + H)
        yield type(module).__name__, case(flops, lambda m, x: m(x), randn(B, M), parts=(module,))
    narrow = nn.LSTM(M, H, batch_first=True, proj_size=2)
    weights = 4 * H * (M + 2) + H * 2
    yield "LSTM, projected", case(2 * B * N * weights, _padded, randn(B, N, M), parts=(narrow,))
    packed = case(2 * sum(LENGTHS) * weights, _packed, randn(B, N, M), parts=(narrow,))
    yield "LSTM, projected and packed", packed


@torch.library.custom_op("flops_test::product", mutates_args=())
def custom_product(a: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return a @ c


def _gradient(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(layer(x).sum(), x, create_graph=True)[0]


JAGGED = torch.nested.nested_tensor([randn(N, M), randn(2, M)], layout=torch.jagged)

UNKNOWN = {
    "custom op": case(None, custom_product, A, C),
    "scripted part": case(None, lambda m, a: m(a), A, parts=(SCRIPTED,)),
    "Fourier transform": case(None, lambda x: torch.fft.rfft(x).abs(), randn(2, 16)),
    "solve": case(None, torch.linalg.solve, randn(3, 3), randn(3, 2)),
    "inverse": case(None, torch.inverse, randn(3, 3)),
    "singular values": case(None, torch.linalg.svdvals, randn(3, 3)),
    "distances": case(None, torch.cdist, randn(3, M), randn(4, M)),
    "nuclear norm": case(None, lambda x: torch.linalg.norm(x, "nuc"), randn(3, 3)),
    "nuclear norm as a method": case(None, lambda x: x.norm("nuc"), randn(3, 3)),
    "norm by singular values": case(
        None, lambda x: torch.linalg.matrix_norm(x, ord=-2), randn(3, 3)
    ),
    "Fourier transform in ATen": case(
        None, lambda x: torch.ops.aten._fft_r2c(x, [0], 0, True).abs(), randn(8)
    ),
    "distances in ATen": case(
        None, lambda a, c: torch.ops.aten._cdist_forward(a, c, 2.0, None), randn(3, M), randn(4, M)
    ),
    "jagged tensor": case(None, lambda x, c: x @ c, JAGGED, randn(M, P)),
    "negative power": case(None, lambda a: torch.linalg.matrix_power(a, -2), randn(3, 3)),
    "exponential of a matrix": case(None, torch.matrix_exp, randn(3, 3)),
    "quantised LSTM": case(
        None,
        lambda m, x: m(x)[0],
        randn(N, B, M),
        parts=(_quantised(nn.LSTM(M, P)),),
    ),
}  # fmt: skip

CASES = {
    f"{group}: {name}": one
    for group, cases in (
        ("product", PRODUCTS),
        ("sparse", SPARSES),
        ("convolution", CONVOLUTIONS),
        ("attention", ATTENTIONS),
        ("recurrent", dict(_recurrent())),
        ("unknown", UNKNOWN),
    )
    for name, one in cases.items()
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_counted_by_hand_or_a_lower_bound(name: str) -> None:
    flops, func, args, parts = CASES[name]
    total = Analysis(trace(Called(func, parts), *args).graph).costs.total
    assert (total.flops, total.uncounted > 0) == (flops, flops is None)


DERIVATIVES: dict[str, Callable[..., Any]] = {
    "a gradient": _gradient,
    "a gradient of a function": lambda m, x: torch.func.grad(lambda y: m(y).sum())(x),
    "a vector's product": lambda m, x: torch.func.vjp(m, x)[1](torch.ones(N, P))[0],
    "one direction": lambda m, x: torch.func.jvp(m, (x,), (x,))[1],
}


@pytest.mark.parametrize("kind", DERIVATIVES)
def test_where_a_forward_takes_derivatives_what_they_multiply_is_not_in_the_count(
    kind: str,
) -> None:
    model = Called(DERIVATIVES[kind], (nn.Linear(M, P),))
    cost = Analysis(trace(model, A).graph).costs.total
    assert cost.uncounted
    assert cost.flops == PRODUCT


def test_what_does_not_multiply_leaves_the_count_exact() -> None:
    def forward(linear: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(linear(x).relu().softmax(-1), (P,)).sum() * 2

    cost = Analysis(trace(Called(forward, (nn.Linear(M, P),)), A).graph).costs.total
    assert (cost.flops, cost.uncounted) == (PRODUCT, 0)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: torch.linalg.norm(x),
        lambda x: torch.linalg.norm(x, ord=2, dim=1),
        lambda x: torch.linalg.matrix_norm(x),
        lambda x: x.norm(2),
        torch.kron,
    ],
)
def test_norms_of_numbers_and_products_of_single_numbers_leave_the_count_exact(func: Any) -> None:
    args = (A, A) if func is torch.kron else (A,)
    assert Analysis(trace(Called(func, ()), *args).graph).costs.total.uncounted == 0


# What of an op's name says that it may multiply, and what of those does not all the same.
_PRODUCT_NAME = re.compile(
    r"mm(_|$)|matmul|conv|attention|linear|transformer|lstm|gru|rnn|fft|linalg|cdist|pdist"
    r"|euclidean|matrix_|einsum|tensordot|outer|solve|svd|cholesky|grid_sampler|affine_grid|kron"
)
_NO_PRODUCT = re.compile(
    # Backwards, plans and other forms of weights, places of frequencies; part of a layer only.
    r"backward|_plan|_cache|pack(_|$)|_pack_|prepack$|quantize_weight|reorder|flatten_weight"
    r"|_convert_|resolve_(conj|neg)|matrix_H|fftshift|fftfreq|_check|unpack|_compute_linear_combination|_thnn_fused"
    # Of single numbers, and interpolation.
    r"|upsample|linalg_(_powsum|cross|diagonal|norm|matrix_norm|vander|vector_norm)"
)


def test_each_op_of_torch_that_is_named_like_a_product_is_counted_or_uncounted() -> None:
    ops = {schema.name for schema in torch._C._jit_get_all_schemas()}
    names = {name.removeprefix("aten::") for name in ops if name.startswith("aten::")}
    told = {name for name in names if _PRODUCT_NAME.search(name) and not _NO_PRODUCT.search(name)}
    assert len(told) > 150
    assert not {name for name in told if not may_multiply(f"torch.ops.aten.{name}.default")}


def test_a_sum_with_something_uncounted_is_a_lower_bound() -> None:
    assert (Cost(1, 5) + Cost(1, None, uncounted=1)).uncounted == 1


def test_ops_of_other_libraries_may_multiply_and_those_that_calculate_nothing_do_not() -> None:
    assert may_multiply("torch.ops.mylib.mm.default")
    assert may_multiply("torch.ops.quantized.conv2d.new")
    assert not may_multiply("torch.ops.quantized.add.default")
    assert not may_multiply("torch.ops.profiler._record_function_enter_new.default")
    assert not may_multiply("torch.relu")


def test_a_sparse_tensor_is_counted_the_same_in_another_process() -> None:
    recording = trace(Called(torch.sparse.mm, ()), SPARSE, DENSE)._recording
    there = unpack(pack(recording))
    graph = with_flops(to_graph(there), there)
    assert [node.flops for node in graph.ops] == [2 * 4 * P]


@pytest.fixture(scope="module")
def bounded() -> Analysis:
    """A model with a linear layer of 120 FLOPs, and a custom op."""

    def forward(linear: nn.Module, x: torch.Tensor) -> Any:
        return custom_product(linear(x), torch.ones(P, M))

    return Analysis(trace(Called(forward, (nn.Linear(M, P),)), A).graph)


def test_a_lower_bound_says_so_in_text_and_table(bounded: Analysis) -> None:
    assert "FLOPs of one forward: at least 120\n" in markdown.render(bounded).decode()
    rows = [line.split(",") for line in table.render(bounded).decode().splitlines()]
    column = rows[0].index("flops_at_least")
    assert [row[column] for row in rows[1:]] == ["", "", "yes"]


def test_a_lower_bound_is_a_metric_of_another_name(bounded: Analysis) -> None:
    metrics = metrics_of(bounded.graph)
    assert metrics["modelviz.flops_per_sample_at_least"] == 120 / N
    assert "modelviz.flops_per_sample" not in metrics
    assert "| at least 40 |" in _section(bounded.graph, {})
