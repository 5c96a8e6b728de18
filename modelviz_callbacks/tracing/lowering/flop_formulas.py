"""Floating point operations of products, where torch's own counter has no formula.

A multiply-add counts as two. Two tables: `FORMULAS` are of calls as they were recorded, for what
cannot be made on meta tensors (sparse, packed, quantised); `ATEN_FORMULAS` of what calls come down
to, handed to torch's ``FlopCounterMode``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.tape import OpEntry, TensorRecord, flat_records

_Shape = Sequence[int]

_COMPRESSED = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr)
_SPARSE = (*_COMPRESSED, torch.sparse_bsc)


# --- of calls as they were recorded


def _shapes(entry: OpEntry) -> list[tuple[int, ...]]:
    """The shapes of the tensors handed in, in their order."""
    given = (*flat_records(entry.args), *flat_records(entry.kwargs or {}))
    return [record.sizes or () for record in given]


def _attention(entry: OpEntry) -> int:
    """Of queries, keys and values, each batch by heads by length by width."""
    query, key, value = _shapes(entry)[:3]
    heads, length, width = prod(query[:-2]), query[-2], query[-1]
    return 2 * heads * length * key[-2] * (width + value[-1])


def _recurrent(entry: OpEntry) -> int | None:
    """Of a whole layer over a packed sequence: each step multiplies by every matrix once."""
    steps, hidden = entry.args[0], entry.args[1]
    if not isinstance(steps, TensorRecord) or not isinstance(hidden, TensorRecord):
        return None
    if hidden.dtype is not torch.int64 or len(hidden.sizes or ()) != 1:
        return None  # not packed
    matrices = [record.sizes or () for record in flat_records(entry.args[3])]
    weights = sum(prod(shape) for shape in matrices if len(shape) == 2)
    return 2 * (steps.sizes or (0,))[0] * weights


def _grouped(entry: OpEntry) -> int:
    """Of a product of groups, which are a dimension or a part of one."""
    left, right = _shapes(entry)[:2]
    groups = left[0] if len(left) == len(right) == 3 else 1
    return 2 * groups * left[-2] * left[-1] * right[-1]


def _by_output(entry: OpEntry) -> int:
    """Of a product with a weight that is packed away: all of the input by the new width."""
    given = next(flat_records(entry.args))
    made = next(flat_records(entry.result))
    return 2 * prod(given.sizes or ()) * (made.sizes or (0,))[-1]


def _matrices(entry: OpEntry) -> int:
    left, right = _shapes(entry)[:2]
    return 2 * prod(left) * right[-1]


def _trilinear(entry: OpEntry) -> int:
    """Of ``x1 @ weight @ x2``: a product with a matrix, and one with a vector, an output."""
    left, right, (outputs, *_) = _shapes(entry)[:3]
    return 2 * prod(left[:-1]) * outputs * right[-1] * (left[-1] + 1)


def _vectors(entry: OpEntry) -> int:
    left, right = _shapes(entry)[:2]
    return 2 * prod(torch.broadcast_shapes(left, right))  # type: ignore[no-untyped-call]


def _covariance(entry: OpEntry) -> int:
    """Of the product of a matrix (a row a variable) with itself."""
    *variables, samples = _shapes(entry)[0]
    return 2 * prod(variables) ** 2 * samples


def _sampled(entry: OpEntry) -> int | None:
    """Of a product of which only the places of a sparse matrix are computed."""
    places, left, *_ = (*flat_records(entry.args), *flat_records(entry.kwargs or {}))
    return None if places.stored is None else 2 * places.stored * (left.sizes or (0,))[-1]


def _power(entry: OpEntry) -> None:
    """Of a power of a matrix: its products are counted; a negative one is of the inverse."""
    exponent = (entry.kwargs or {}).get("n", entry.args[-1])
    if isinstance(exponent, int) and exponent < 0:
        raise ValueError("no formula for an inverse")


FORMULAS: dict[str, Callable[[OpEntry], int | None]] = {
    "_grouped_mm": _grouped,
    "_int_mm": _matrices,
    "_scaled_grouped_mm": _grouped,
    "_scaled_mm": _matrices,
    "_weight_int4pack_mm": _by_output,
    "_weight_int8pack_mm": _by_output,
    "bilinear": _trilinear,
    "corrcoef": _covariance,
    "cov": _covariance,
    "grouped_mm": _grouped,
    "gru": _recurrent,
    "linalg_matrix_power": _power,
    "linalg_vecdot": _vectors,
    "lstm": _recurrent,
    "matrix_power": _power,
    "rnn_relu": _recurrent,
    "rnn_tanh": _recurrent,
    "sparse_sampled_addmm": _sampled,
    "_scaled_dot_product_attention_math": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}

# Ops of torch's other libraries, whose weights are packed away: ``quantized::linear``.
_PACKED_LINEAR = ("linear", "linear_dynamic", "linear_relu", "linear_relu_dynamic")
LIBRARY_FORMULAS: dict[str, Callable[[OpEntry], int | None]] = {
    **{f"quantized::{name}": _by_output for name in (*_PACKED_LINEAR, "linear_dynamic_fp16")},
    "quantized::linear_leaky_relu": _by_output,
    "quantized::linear_tanh": _by_output,
    "quantized::linear_with_input_q_dq_qweight_dq_output_fp32": _by_output,
    "quantized::matmul": _matrices,
}

# Which two tensors a product with a sparse one multiplies, by their places among those handed in.
_LAST_TWO = {"addmm", "addmm_", "baddbmm", "baddbmm_", "addmv", "addmv_", "_sparse_addmm"}
_LAST_TWO |= {"saddmm", "sspaddmm"}
_TURNED = {"linear"}  # the weight is transposed
_SWAPPED = {"__rmatmul__"}


def has_sparse(entry: OpEntry) -> bool:
    """Whether a call was given a sparse tensor."""
    given = (*flat_records(entry.args), *flat_records(entry.kwargs or {}))
    return any(record.layout in _SPARSE for record in given)


def sparse_product(name: str, entry: OpEntry) -> int | None:
    """Of a product of a sparse matrix with a dense one.

    Each stored element is multiplied once with every row or column of the other one.

    Args:
        name: Torch's name of the function.
        entry: Its call.

    Returns:
        ``None`` where both are sparse, or how many elements are stored is not known.
    """
    given = [*flat_records(entry.args), *flat_records(entry.kwargs or {})]
    first = 1 if name in _LAST_TWO else 0
    pair = given[first : first + 2]
    if name in _SWAPPED:
        pair.reverse()
    if len(pair) < 2:
        return None
    left, right = pair
    if left.layout in _SPARSE and right.layout in _SPARSE:
        return None
    if left.layout in _SPARSE:
        sizes = right.sizes or ()
        # A vector, a matrix, or a batch of matrices of which the stored elements are a batch, too.
        columns = 1 if len(sizes) < 2 else sizes[-1]
        return None if left.stored is None else 2 * left.stored * columns
    if right.layout in _SPARSE:
        sizes = left.sizes or ()
        batched = len(right.sizes or ()) > 2
        rows = 1 if len(sizes) < 2 else sizes[-2] if batched else prod(sizes[:-1])
        return None if right.stored is None else 2 * right.stored * rows
    return None


# --- of what calls come down to


def _first_two(left: _Shape, right: _Shape, *_: Any, **__: Any) -> int:
    """Of a matrix and a vector, or of two vectors."""
    return 2 * max(prod(left), prod(right))


def _last_two(_: _Shape, left: _Shape, right: _Shape, *__: Any, **___: Any) -> int:
    """Of a matrix or a batch of them, and another one, or a vector; added to something."""
    return 2 * prod(left) * (right[-1] if len(right) > 1 else 1)


def _outer(_: _Shape, left: _Shape, right: _Shape, *__: Any, **___: Any) -> int:
    return 2 * prod(left) * prod(right)


def _conv_tbc(_: _Shape, weight: _Shape, *__: Any, out_shape: _Shape = (), **___: Any) -> int:
    return 2 * prod(out_shape) * weight[0] * weight[1]


ATEN_FORMULAS: dict[Any, Callable[..., int]] = {
    getattr(torch.ops.aten, name): formula
    for name, formula in (
        ("mv", _first_two),
        ("dot", _first_two),
        ("vdot", _first_two),
        ("addmv", _last_two),
        ("addmv_", _last_two),
        ("addr", _outer),
        ("addr_", _outer),
        ("addmm_", _last_two),
        ("baddbmm_", _last_two),
        ("addbmm", _last_two),
        ("addbmm_", _last_two),
        ("_addmm_activation", _last_two),
        ("conv_tbc", _conv_tbc),
    )
    if hasattr(torch.ops.aten, name)
}
