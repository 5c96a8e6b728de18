"""Models whose loss is finite and whose gradients are not, each with the op whose backward is it.

`CASES` have the fault on one batch and not on the one that is recorded. In `HARMLESS` there is what
looks like a fault and is none: the gradients are finite, and nothing is to be found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.faults.nonfinite_models import INF, WIDTH, Body, Case, Fault, Masked, batch

CASES: list[Case] = []
HARMLESS: list[Case] = []


def of_data(
    name: str,
    named: str,
    fault: Fault,
    first: float = 0.0,
    body: type[Body] = Body,
    cases: list[Case] = CASES,
) -> None:
    """A fault that a batch brings out whose first row is as given."""

    def make() -> tuple[nn.Module, tuple[Any, ...], Callable[[], tuple[Any, ...]]]:
        return body(fault), batch(), lambda: batch(first)

    cases.append(Case(name, "gradient", named, "middle", make))


# --- the derivative is infinite where the value is not; ``h * x`` is zero where x is

of_data("sqrt of zero", "sqrt", lambda h, x: (h * x).pow(2).sqrt())
of_data("sqrt of zero beside masks", "sqrt", lambda h, x: torch.sqrt((h * x) ** 2), body=Masked)
of_data("norm by hand", "sqrt", lambda h, x: (h * x).pow(2).sum(-1, keepdim=True).sqrt())
of_data("deviation by hand", "sqrt", lambda h, x: (h * x).var(-1, keepdim=True).sqrt())
of_data("distance by hand", "sqrt", lambda h, x: _distances(h * x))
of_data("power of a half", "pow", lambda h, x: (h * x).abs().pow(0.5))
of_data("power as an operator", "pow", lambda h, x: (h * x).abs() ** 0.25, body=Masked)
of_data("p-norm by hand", "pow", lambda h, x: (h * x).abs().pow(3).sum(-1, keepdim=True) ** 0.3)
of_data("acos of one", "acos", lambda h, x: torch.acos(1 - (h * x).square()))
of_data("angle between equals", "acos", lambda h, x: torch.acos((1 - (h * x) ** 2).clamp(-1, 1)))
of_data("asin of one", "asin", lambda h, x: torch.asin(1 - (h * x).square()))
of_data("acosh of one", "acosh", lambda h, x: torch.acosh(1 + (h * x).square()))
of_data("division by a tiny number", "div", lambda h, x: 1e-12 * (h / (h * x + 1e-30)) * x * 1e-12)
of_data("reciprocal of tiny", "reciprocal", lambda h, x: (h * x + 1e-25).reciprocal() * 1e-30)
of_data("equal eigenvalues", "eigh", lambda h, x: _eigenvectors(h, x))

# --- the branch that a `where` throws away

of_data("log of zero there", "log", lambda h, x: torch.where(x > 0, (h * x).abs().log(), h))
of_data("zero by zero there", "div", lambda h, x: torch.where(x > 0, h / (h * x), h))
of_data("root of less there", "sqrt", lambda h, x: torch.where(x > 0, (h**2 + x).sqrt(), h), -9.0)
of_data("exp of much there", "exp", lambda h, x: torch.where(x < 50, (h * h * x).exp(), h), 1e6)
of_data(
    "rows without a key there",
    "log_softmax",
    lambda h, x: torch.where(x > 0, F.log_softmax(h + _mask(x), -1), 0.0),
    body=Masked,
)
of_data(
    "attention to nothing there",
    "softmax",
    lambda h, x: torch.where(x > 0, torch.softmax(h + _mask(x), -1), h),
)


def _distances(points: Tensor) -> Tensor:
    half = WIDTH // 2
    return (points[:, :half] - points[:, half:]).pow(2).sum(-1, keepdim=True).sqrt()


def _eigenvectors(h: Tensor, x: Tensor) -> Tensor:
    """Of a matrix that is the identity where the first row of x is zero."""
    diagonal = torch.diag(1 + torch.arange(WIDTH) * x[0])
    matrix = diagonal + (h * x[0]).T @ (h * x[0])
    return torch.linalg.eigh(matrix).eigenvectors[:1] * 0.1


def _mask(x: Tensor) -> Tensor:
    return torch.zeros_like(x).masked_fill(x <= 0, -INF)


# --- what torch, or its author, has seen to

_SEEN_TO: dict[str, Fault] = {
    "root behind a relu": lambda h, x: (h * x).abs().neg().relu().sqrt(),
    "both branches are safe": lambda h, x: _safe_log(h * x, x > 0),
    "masked where it would be": lambda h, x: torch.where(
        x > 0, F.log_softmax(h.masked_fill(x <= 0, -INF), -1), 0.0
    ),
    "torch's norm": lambda h, x: (h * x).norm(dim=-1, keepdim=True),
    "torch's deviation": lambda h, x: (h * x).std(-1, keepdim=True),
    "distances of equal points": lambda h, x: torch.cdist(h * x, h * x).mean(),
    "atan2 of zeros": lambda h, x: torch.atan2(h * x, h * x),
    "cut off": lambda h, x: (h * x).square().sqrt().detach() + h,
    "normalized": lambda h, x: F.normalize(h * x, dim=-1),
}


def _safe_log(values: Tensor, is_good: Tensor) -> Tensor:
    return torch.where(is_good, torch.where(is_good, values, 1.0).abs().log(), values)


for _name, _fault in _SEEN_TO.items():
    of_data(_name, "", _fault, cases=HARMLESS)
