"""Which tensors are finite, and what their elements are like."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from modelviz_callbacks.tracing.capture.torch_internals import no_torch_function
from modelviz_callbacks.tracing.nonfinite.found import TensorRange
from modelviz_callbacks.tracing.steps.tensor_statistics import is_readable


@dataclass(frozen=True)
class Seen:
    """Whether a tensor is finite.

    Attributes:
        nan: Whether an element is NaN.
        inf: Whether one is infinite.
        is_known: Whether it could be looked at.
    """

    nan: bool = False
    inf: bool = False
    is_known: bool = True

    @property
    def is_bad(self) -> bool:
        """Whether an element is not finite, as far as is known."""
        return self.nan or self.inf

    def __or__(self, other: Seen) -> Seen:
        return Seen(self.nan or other.nan, self.inf or other.inf, self.is_known and other.is_known)


def look(tensor: torch.Tensor) -> Seen:
    """Whether a tensor is finite."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return Seen()
    values = _values(tensor)
    if values is None:
        return Seen(is_known=False)
    with no_torch_function():
        if bool(torch.isfinite(values).all()):
            return Seen()
        return Seen(bool(torch.isnan(values).any()), bool(torch.isinf(values).any()))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor is finite, as far as it can be looked at."""
    return not look(tensor).is_bad


def range_of(name: str, tensor: torch.Tensor) -> TensorRange:
    """What the elements of a tensor are like.

    Args:
        name: What to call it.
        tensor: Any.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = () if tensor.is_nested else tuple(map(int, tensor.shape))
    values = _values(tensor)
    if values is None or not values.numel():
        return TensorRange(name, dtype, shape)
    with no_torch_function():
        return _range(TensorRange(name, dtype, shape), values)


def _range(told: TensorRange, values: torch.Tensor) -> TensorRange:
    if values.is_complex():
        values = values.abs()
    finite = torch.isfinite(values)
    count = int(finite.sum())
    least = most = None
    if count:
        kept = values[finite].to(torch.float64)
        least, most = float(kept.min()), float(kept.max())
    return replace(
        told,
        least=least,
        most=most,
        finite_share=count / values.numel(),
        nans=int(torch.isnan(values).sum()),
        infs=int(torch.isinf(values).sum()),
    )


def _values(tensor: torch.Tensor) -> torch.Tensor | None:
    """The numbers of a tensor as a plain one; ``None``: they cannot be read here."""
    if not is_readable(tensor):
        return None
    with no_torch_function():
        values = tensor.detach()
    return values.coalesce().values() if values.layout is torch.sparse_coo else values


def is_mask(tensor: torch.Tensor, may_have_bias: bool) -> bool:
    """Whether a tensor that is handed in adds minus infinity where nothing is to be seen.

    Args:
        tensor: It holds infinite numbers and no NaN.
        may_have_bias: Whether it may hold anything else beside (a buffer, as ALiBi's).
    """
    values = _values(tensor)
    if values is None or isinstance(tensor, torch.nn.Parameter) or values.is_complex():
        return False
    finite = values[torch.isfinite(values)]
    is_negative = not bool((values == math.inf).any())
    return is_negative and (may_have_bias or not bool(finite.count_nonzero()))


def bad_elements(tensor: torch.Tensor) -> torch.Tensor | None:
    """Which elements are not finite; ``None``: none, or it is not known."""
    if not look(tensor).is_bad or tensor.layout is not torch.strided:
        return None
    with no_torch_function():
        return ~torch.isfinite(tensor.detach())
