"""Torch functions that the exporter's table lacks, in terms of functions that it has.

Used for translation only. Each gives what the original gives in exact arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.writers.onnx.exporter_internals import FOREACH, PACK_PADDED, grouped_mm
from modelviz_callbacks.writers.onnx.replacements.complex_numbers import (
    cat,
    einsum,
    filled,
    filled_like,
    promoted,
    set_item,
    stack,
    with_an_imaginary_part,
)
from modelviz_callbacks.writers.onnx.replacements.ctc import ctc_loss
from modelviz_callbacks.writers.onnx.replacements.fake_quantize import (
    fake_quantize_per_channel,
    fake_quantize_per_tensor,
    fused_fake_quantize,
)
from modelviz_callbacks.writers.onnx.replacements.layers import (
    adaptive_avg_pool3d,
    embedding_bag,
    fractional_max_pool,
    gaussian_nll_loss,
)
from modelviz_callbacks.writers.onnx.replacements.packed_rnn import (
    is_packed,
    pack_padded,
    recurrent,
)
from modelviz_callbacks.writers.onnx.replacements.scattering import (
    in_place,
    scatter,
    scatter_add,
    scatter_reduce,
)


def _grouped_mm(
    first: torch.Tensor,
    second: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Rows of ``first`` up to ``offs[0]`` times ``second[0]``, the next times ``second[1]``, ..."""
    if offs is None or first.dim() != 2 or second.dim() != 3:
        return grouped_mm(first, second, offs, bias, out_dtype)
    rows = torch.arange(first.shape[0], device=first.device)
    group = (rows[:, None] >= offs[None, :]).sum(1)
    # Rows after the last group belong to none and have no defined result.
    group = group.clamp(max=second.shape[0] - 1)
    found = torch.matmul(first[:, None, :], second[group])[:, 0, :]
    return found if out_dtype is None else found.to(out_dtype)


def _is_all_true(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.all()


def _masked_select(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    tensor, mask = torch.broadcast_tensors(tensor, mask)  # type: ignore[no-untyped-call]
    return tensor[mask]


def _view(tensor: torch.Tensor, *sizes: Any, **named: Any) -> torch.Tensor:
    """A reshape gives the same values, whatever strides a kernel without data thinks of."""
    first = sizes[0] if sizes else None
    if isinstance(first, torch.dtype) or named:
        return tensor.view(*sizes, **named)
    return tensor.reshape(*sizes)


def _cdist(first: torch.Tensor, second: torch.Tensor, p: float = 2.0, **_: Any) -> torch.Tensor:
    apart = (first.unsqueeze(-2) - second.unsqueeze(-3)).abs()
    if p == 1.0:
        return apart.sum(-1)
    if p == 2.0:
        return (apart * apart).sum(-1).sqrt()
    if p == float("inf"):
        return apart.amax(-1)
    return apart.pow(p).sum(-1).pow(1 / p)


def _rrelu(
    tensor: torch.Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> torch.Tensor:
    if training or inplace:
        return functional.rrelu(tensor, lower, upper, training, inplace)
    return functional.leaky_relu(tensor, (lower + upper) / 2)


def _argsort(
    tensor: torch.Tensor, dim: int = -1, descending: bool = False, **_: Any
) -> torch.Tensor:
    return tensor.sort(dim=dim, descending=descending)[1]


def _sort(
    tensor: torch.Tensor,
    *positional: Any,
    dim: int = -1,
    descending: bool = False,
    **_: Any,
) -> Any:
    """ONNX's TopK is stable."""
    if positional:
        return tensor.sort(*positional)
    return tensor.sort(dim=dim, descending=descending)


def _uniform(tensor: torch.Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> torch.Tensor:
    return torch.rand_like(tensor) * (high - low) + low


def _normal(tensor: torch.Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> torch.Tensor:
    return torch.randn_like(tensor) * std + mean


def _randperm(count: int, **options: Any) -> torch.Tensor:
    """The order of random numbers is a random order."""
    return torch.rand(count).sort()[1].to(options.get("dtype") or torch.int64)


def _searchsorted(
    edges: torch.Tensor,
    values: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """As many edges as are left of each value."""
    if sorter is not None:
        edges = edges.gather(-1, sorter)
    edges, values_there = edges.unsqueeze(-2), values.unsqueeze(-1)
    after = edges <= values_there if right or side == "right" else edges < values_there
    return after.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def _cumprod(tensor: torch.Tensor, dim: int, **options: Any) -> torch.Tensor:
    """Products of all rows of a triangle that has ones beyond its diagonal."""
    if tensor.dim() == 0:
        return tensor.prod(**options)
    row = tensor.movedim(dim, -1)
    size = row.shape[-1]
    behind = torch.ones(size, size, dtype=torch.bool, device=tensor.device).tril()
    triangle = torch.where(behind, row.unsqueeze(-2), torch.ones_like(row).unsqueeze(-2))
    return triangle.prod(-1, **options).movedim(-1, dim)


def _cummax(tensor: torch.Tensor, dim: int) -> Any:
    return _best_so_far(tensor, dim, largest=True)


def _cummin(tensor: torch.Tensor, dim: int) -> Any:
    return _best_so_far(tensor, dim, largest=False)


def _best_so_far(tensor: torch.Tensor, dim: int, largest: bool) -> Any:
    """Each element against all before it; of equal ones the last counts."""
    tensor = tensor.movedim(dim, -1)
    count = tensor.shape[-1]
    before = torch.arange(count)[None, :] <= torch.arange(count)[:, None]
    table = tensor.unsqueeze(-2).expand(*tensor.shape[:-1], count, count)
    ends = torch.finfo(tensor.dtype) if tensor.is_floating_point() else torch.iinfo(tensor.dtype)
    table = torch.where(before, table, ends.min if largest else ends.max)
    best = table.amax(-1) if largest else table.amin(-1)
    is_best = (table == best.unsqueeze(-1)) & before
    places = torch.where(is_best, torch.arange(count), -1).amax(-1)
    return best.movedim(-1, dim), places.movedim(-1, dim)


def _solve_triangular(
    matrix: torch.Tensor,
    right: torch.Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> torch.Tensor:
    """One row after the other."""
    if not left:
        solved = _solve_triangular(
            matrix.mT, right.mT, upper=not upper, unitriangular=unitriangular
        )
        return solved.mT
    count = matrix.shape[-1]
    rows: dict[int, torch.Tensor] = {}
    for row in range(count)[:: -1 if upper else 1]:
        found = right[..., row : row + 1, :]
        if rows:
            done = sorted(rows)
            known = torch.cat([rows[index] for index in done], dim=-2)
            found = found - matrix[..., row : row + 1, done[0] : done[-1] + 1] @ known
        if not unitriangular:
            found = found / matrix[..., row : row + 1, row : row + 1]
        rows[row] = found
    return torch.cat([rows[index] for index in range(count)], dim=-2)


def _aminmax(tensor: torch.Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        flat = tensor.flatten()
        return flat.amin(0), flat.amax(0)
    return tensor.amin(dim, keepdim), tensor.amax(dim, keepdim)


def _add(first: Any, second: Any, **options: Any) -> torch.Tensor:
    """A number before a tensor, and a complex number with a real one."""
    if not isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        alpha = options.get("alpha", 1)
        scaled = second if alpha == 1 else second * alpha
        return torch.add(with_an_imaginary_part(scaled, first), first)
    return torch.add(with_an_imaginary_part(first, second), second, **options)


def _rsub(tensor: torch.Tensor, other: Any) -> torch.Tensor:
    """Neither the exporter nor ONNX takes each kind of whole numbers from a Python number."""
    kind = torch.result_type(tensor, other)
    wide = torch.int32 if kind == torch.uint8 else kind
    return torch.add(torch.neg(tensor.to(wide)), other).to(kind)


def _kthvalue(tensor: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    values, places = tensor.sort(dim=dim)
    index = slice(k - 1, k)
    along = (slice(None),) * (dim % tensor.dim())
    values, places = values[(*along, index)], places[(*along, index)]
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _matrix_exp(matrix: torch.Tensor) -> torch.Tensor:
    """By Taylor's series of a small part of it, squared up again; in double precision."""
    squarings, terms = 16, 8
    small = matrix.to(torch.float64) / 2**squarings
    found = term = torch.eye(matrix.shape[-1], dtype=torch.float64).expand_as(small)
    for number in range(1, terms):
        term = term @ small / number
        found = found + term
    for _ in range(squarings):
        found = found @ found
    return found.to(matrix.dtype)


def _median(tensor: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower one of two in the middle."""
    if dim is None:
        flat = tensor.flatten()
        return _kthvalue(flat, (flat.shape[0] + 1) // 2)[0]
    return _kthvalue(tensor, (tensor.shape[dim] + 1) // 2, dim, keepdim)


def _fill_diagonal_(tensor: torch.Tensor, value: float, wrap: bool = False) -> torch.Tensor:
    if wrap or tensor.dim() != 2:
        return tensor.fill_diagonal_(value, wrap)
    rows, columns = torch.arange(tensor.shape[0])[:, None], torch.arange(tensor.shape[1])
    return tensor.copy_(tensor.masked_fill(rows == columns, value))


def _put_(
    tensor: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False
) -> torch.Tensor:
    flat = tensor.flatten().index_put((index.flatten(),), source.flatten(), accumulate)
    return tensor.copy_(flat.reshape(tensor.shape))


def _getitem(tensor: Any, index: Any) -> Any:
    """Complex numbers are pairs, whose dimension comes last; new dimensions come after indices."""
    steps = list(index) if isinstance(index, tuple) else [index]
    if not isinstance(tensor, torch.Tensor):
        return tensor[index]
    if tensor.is_complex() and not any(step is ... for step in steps):
        return torch.view_as_complex(torch.view_as_real(tensor)[index])
    kept = [step for step in steps if step is not None]
    by_tensors = kept and all(isinstance(s, torch.Tensor) and s.dtype != torch.bool for s in kept)
    if not by_tensors or any(step is None for step in steps[: len(kept)]):
        return tensor[index]
    found = tensor[tuple(kept)]
    place = max(step.dim() for step in kept)
    for _ in steps[len(kept) :]:
        found = found.unsqueeze(place)
    return found


def _setitem(tensor: torch.Tensor, index: Any, value: Any) -> None:
    """A mask of one dimension among other steps is the list of its places."""
    steps = index if isinstance(index, tuple) else (index,)
    masks = [isinstance(step, torch.Tensor) and step.dtype == torch.bool for step in steps]
    if len(steps) > 1 and sum(masks) == 1 and steps[masks.index(True)].dim() == 1:
        place = masks.index(True)
        listed = steps[place].nonzero()[:, 0]
        index = (*steps[:place], listed, *steps[place + 1 :])
    if not set_item(tensor, index, value):
        tensor[index] = value


def _nextafter(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The next number of 32 or 64 bits, in rounded arithmetic.

    After S. M. Rump, P. Zimmermann, S. Boldo and G. Melquiond, "Computing predecessor and successor
    in rounding to nearest" (BIT 49, 2009), algorithm 1.
    """
    kind = torch.finfo(tensor.dtype)
    unit = kind.eps / 2
    step = tensor.abs() * (unit * (1 + 2 * kind.eps)) + kind.smallest_normal * kind.eps
    found = torch.where(other > tensor, tensor + step, tensor - step)
    return torch.where(other == tensor, other, found)


def _linear(
    data: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Complex numbers by their parts."""
    if not data.is_complex():
        return functional.linear(data, weight, bias)
    one, other = torch.view_as_real(data).unbind(-1)
    first, second = torch.view_as_real(weight).unbind(-1)
    real = functional.linear(one, first) - functional.linear(other, second)
    imaginary = functional.linear(one, second) + functional.linear(other, first)
    found = torch.view_as_complex(torch.stack([real, imaginary], -1))
    return found if bias is None else found + bias


def _conv3d(
    data: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *others: Any
) -> torch.Tensor:
    """Without a bias the table's translation makes one of the wrong size for groups."""
    if bias is None:
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype)
    return functional.conv3d(data, weight, bias, *others)


def _tensor(data: Any, **options: Any) -> torch.Tensor:
    """A list of tensors put together."""
    if isinstance(data, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in data):
        return torch.stack([torch.as_tensor(item) for item in data])
    return torch.tensor(data, **options)


def _each(name: str) -> Callable[..., Any]:
    def run(tensors: Any, *others: Any, **options: Any) -> Any:
        rows = [
            [o[i] if isinstance(o, (list, tuple)) else o for o in others]
            for i in range(len(tensors))
        ]
        found = [getattr(t, name)(*row, **options) for t, row in zip(tensors, rows, strict=True)]
        return None if name.endswith("_") else found

    return run


_FOREACH = ("add", "sub", "mul", "div", "neg", "exp", "sqrt", "abs", "addcmul", "addcdiv")

# Replacement -> what it stands for: functions of torch, of tensors (`Tensor.`), of
# torch.nn.functional (`functional.`), ATen ops called as such (`aten.`).
_STANDS_FOR: tuple[tuple[Callable[..., Any], str], ...] = (
    (_add, "torch.add Tensor.add aten.add"),
    (_aminmax, "torch.aminmax Tensor.aminmax aten.aminmax aten.aminmax.default"),
    (_argsort, "torch.argsort Tensor.argsort aten.argsort aten.argsort.default"),
    (_cdist, "torch.cdist aten.cdist aten.cdist.default"),
    (_conv3d, "torch.conv3d"),
    (_cummax, "torch.cummax Tensor.cummax aten.cummax aten.cummax.default"),
    (_cummin, "torch.cummin Tensor.cummin aten.cummin aten.cummin.default"),
    (_cumprod, "torch.cumprod Tensor.cumprod aten.cumprod aten.cumprod.default"),
    (_fill_diagonal_, "Tensor.fill_diagonal_ aten.fill_diagonal_ aten.fill_diagonal_.default"),
    (_getitem, "operator.getitem Tensor.__getitem__"),
    (_grouped_mm, "torch._grouped_mm functional.grouped_mm aten._grouped_mm"),
    (_is_all_true, "torch._is_all_true Tensor._is_all_true aten._is_all_true"),
    (_kthvalue, "torch.kthvalue Tensor.kthvalue aten.kthvalue aten.kthvalue.default"),
    (_nextafter, "torch.nextafter Tensor.nextafter"),
    (cat, "torch.cat torch.concat torch.concatenate"),
    (einsum, "torch.einsum functional.einsum"),
    (filled_like(0.0), "torch.zeros_like"),
    (filled_like(1.0), "torch.ones_like"),
    (stack, "torch.stack"),
    (_linear, "functional.linear aten.linear aten.linear.default"),
    *((recurrent(name), f"torch.{name}") for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")),
    (_masked_select, "torch.masked_select Tensor.masked_select aten.masked_select"),
    (_matrix_exp, "torch.matrix_exp Tensor.matrix_exp torch.linalg.matrix_exp"),
    (_median, "torch.median Tensor.median aten.median"),
    (_put_, "Tensor.put_ aten.put_ aten.put_.default"),
    (_randperm, "torch.randperm"),
    (_rrelu, "functional.rrelu torch.rrelu"),
    (_rsub, "Tensor.__rsub__"),
    (scatter, "torch.scatter Tensor.scatter"),
    (scatter_add, "torch.scatter_add Tensor.scatter_add aten.scatter_add.default"),
    (scatter_reduce, "torch.scatter_reduce Tensor.scatter_reduce aten.scatter_reduce.two"),
    *(
        (in_place(func), f"Tensor.{func.__name__}_ aten.{func.__name__}_.{overload}")
        for func, overload in ((scatter, "src"), (scatter_add, "default"), (scatter_reduce, "two"))
    ),
    (_searchsorted, "torch.searchsorted"),
    (_setitem, "operator.setitem Tensor.__setitem__"),
    (_solve_triangular, "torch.linalg.solve_triangular"),
    (_sort, "torch.sort Tensor.sort aten.sort aten.sort.default aten.sort.stable"),
    (_tensor, "torch.tensor"),
    (_view, "Tensor.view"),
    (adaptive_avg_pool3d, "functional.adaptive_avg_pool3d"),
    (ctc_loss, "functional.ctc_loss"),
    (embedding_bag, "functional.embedding_bag"),
    (fake_quantize_per_channel, "torch.fake_quantize_per_channel_affine"),
    (fake_quantize_per_tensor, "torch.fake_quantize_per_tensor_affine"),
    (fused_fake_quantize, "torch.fused_moving_avg_obs_fake_quant"),
    (fractional_max_pool, "functional.fractional_max_pool2d functional.fractional_max_pool3d"),
    (gaussian_nll_loss, "functional.gaussian_nll_loss"),
    (pack_padded, PACK_PADDED),
    *((promoted(n), f"torch.{n} Tensor.{n}") for n in ("div", "mul", "sub")),
    *((filled(n), f"torch.{n}") for n in ("empty", "full", "ones", "zeros")),
    *((filled(f"new_{n}"), f"Tensor.new_{n}") for n in ("empty", "full", "ones", "zeros")),
    *((_each(n), f"{FOREACH}{n}") for op in _FOREACH for n in (op, f"{op}_")),
)
_HOMES = {
    "torch": torch,
    "Tensor": torch.Tensor,
    "functional": functional,
    "aten": torch.ops.aten,
    "operator": operator,
}


def functions(paths: str) -> Iterator[Any]:
    """The functions at paths like ``Tensor.view aten.sort.stable``, those that this torch has."""
    for path in paths.split():
        home, *steps = path.split(".")
        found: Any = _HOMES[home]
        for step in steps:
            found = getattr(found, step, None)
        if found is not None:
            yield found


# What is called -> what is translated in its place. An op is known by its function object: a
# function or an op of somebody else's that has the same name is none of these.
REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    function: replacement for replacement, paths in _STANDS_FOR for function in functions(paths)
}

# By the ATen op that something is taken apart into.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.uniform.default: _uniform,
    torch.ops.aten.normal_functional.default: _normal,
}


class ReplacedForExport(TorchFunctionMode):
    """While a model's own forward is exported: replaces what the exporter cannot take."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls the function or its replacement."""
        if func in _ALWAYS or (func in _RECURRENT and is_packed(args)):
            func = REPLACEMENTS[func]
        return func(*args, **(kwargs or {}))


_RECURRENT = frozenset(functions("torch.lstm torch.gru torch.rnn_tanh torch.rnn_relu"))
_ALWAYS = frozenset(
    functions(
        "torch.fake_quantize_per_channel_affine torch.fake_quantize_per_tensor_affine "
        "torch.fused_moving_avg_obs_fake_quant Tensor.__rsub__"
    )
)
