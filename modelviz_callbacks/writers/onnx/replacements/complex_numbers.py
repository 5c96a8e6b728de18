"""Complex numbers, which ONNX has not, in terms of their parts.

The exporter takes a complex tensor for one of real numbers with one dimension more, of size two;
these are functions that it does not translate so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def _parts(tensor: torch.Tensor) -> torch.Tensor:
    """Shape (..., 2)."""
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return torch.stack([tensor, torch.zeros_like(tensor)], -1)


def filled_like(value: float) -> Callable[..., torch.Tensor]:
    """What is done instead of ``zeros_like`` and its like."""
    plain = torch.ones_like if value else torch.zeros_like

    def run(input: torch.Tensor, **options: Any) -> torch.Tensor:
        if not input.is_complex() or options.get("dtype") not in (None, input.dtype):
            return plain(input, **options)
        real = torch.full_like(torch.view_as_real(input)[..., 0], value)
        return torch.view_as_complex(torch.stack([real, torch.zeros_like(real)], -1))

    return run


def filled(name: str) -> Callable[..., Any]:
    """What is done instead of ``zeros``, ``ones``, ``empty`` and ``full``.

    Args:
        name: Of the function, or of the method that makes a tensor like another one.
    """

    def run(*given: Any, **options: Any) -> Any:
        like = given[0] if name.startswith("new_") else None
        maker = getattr(torch if like is None else torch.Tensor, name)
        size, value = _size_and_value(name, given[like is not None :], options)
        dtype = options.get("dtype") or getattr(like, "dtype", None)
        if dtype is None and isinstance(value, complex):
            dtype = torch.get_default_dtype().to_complex()
        if dtype is None or not dtype.is_complex:
            return maker(*given, **options)
        parts = (value.real, value.imag)
        made = [torch.full(size, part, dtype=dtype.to_real()) for part in parts]
        return torch.view_as_complex(torch.stack(made, -1))

    return run


def _size_and_value(
    name: str, given: Sequence[Any], options: dict[str, Any]
) -> tuple[Sequence[int], Any]:
    if name.endswith("full"):
        both = [*given, *(options[key] for key in ("size", "fill_value") if key in options)]
        return both[0], both[1]
    sizes = given or (options.get("size", ()),)
    return sizes[0] if isinstance(sizes[0], Sequence) else sizes, 1.0 if name.endswith(
        "ones"
    ) else 0.0


def promoted(name: str) -> Callable[..., Any]:
    """What is done instead of ``mul`` and its like, of which a complex number makes a real one so.

    Args:
        name: Of torch's function.
    """

    def run(input: Any, other: Any, **options: Any) -> Any:
        return getattr(torch, name)(with_an_imaginary_part(input, other), other, **options)

    return run


def with_an_imaginary_part(input: Any, other: Any) -> Any:
    """What goes into such a function: a real tensor beside a complex number becomes complex."""
    is_real = isinstance(input, torch.Tensor) and input.is_floating_point()
    if is_real and isinstance(other, complex):
        return torch.complex(input, torch.zeros_like(input))
    return input


def cat(tensors: Sequence[torch.Tensor], dim: int = 0, **options: Any) -> torch.Tensor:
    """As ``torch.cat``; the exporter does not take it of nothing but empty vectors either."""
    if all(tuple(tensor.shape) == (0,) for tensor in tensors):
        return tensors[0].clone()
    dim = options.pop("axis", dim)
    if options or not any(tensor.is_complex() for tensor in tensors):
        return torch.cat(list(tensors), dim, **options)
    dim = dim % tensors[0].dim()
    return torch.view_as_complex(torch.cat([_parts(tensor) for tensor in tensors], dim))


def stack(tensors: Sequence[torch.Tensor], dim: int = 0, **options: Any) -> torch.Tensor:
    """As ``torch.stack``."""
    dim = options.pop("axis", dim)
    if options or not any(tensor.is_complex() for tensor in tensors):
        return torch.stack(list(tensors), dim, **options)
    dim = dim % (tensors[0].dim() + 1)
    return torch.view_as_complex(torch.stack([_parts(tensor) for tensor in tensors], dim))


def einsum(equation: Any, *operands: Any) -> torch.Tensor:
    """As ``torch.einsum``, two complex factors by the four products of their parts."""
    listed = len(operands) == 1 and isinstance(operands[0], (list, tuple))
    tensors = list(operands[0] if listed else operands)
    if len(tensors) != 2 or not all(
        isinstance(tensor, torch.Tensor) and tensor.is_complex() for tensor in tensors
    ):
        return torch.einsum(equation, *operands)
    (a, b), (c, d) = [torch.view_as_real(tensor).unbind(-1) for tensor in tensors]
    real = torch.einsum(equation, a, c) - torch.einsum(equation, b, d)
    imaginary = torch.einsum(equation, a, d) + torch.einsum(equation, b, c)
    return torch.view_as_complex(torch.stack([real, imaginary], -1))


def set_item(tensor: torch.Tensor, index: Any, value: Any) -> bool:
    """Writes to a part of a complex tensor; whether it did.

    ``index`` must leave the last dimension whole: an ellipsis stands for all the others.
    """
    steps = list(index) if isinstance(index, tuple) else [index]
    if not tensor.is_complex() or not isinstance(value, (torch.Tensor, int, float, complex)):
        return False
    if any(isinstance(step, torch.Tensor) and step.dtype == torch.bool for step in steps):
        return False
    places = [place for place, step in enumerate(steps) if step is ...]
    if places:
        taken = sum(step is not None for step in steps) - 1
        steps[places[0] : places[0] + 1] = [slice(None)] * (tensor.dim() - taken)
    if isinstance(value, torch.Tensor):
        pair = _parts(value)
    else:  # made by ops: a tensor of given numbers has no translation
        kind = tensor.dtype.to_real()
        numbers = (value.real, value.imag)
        pair = torch.stack([torch.full((), float(number), dtype=kind) for number in numbers])
    torch.view_as_real(tensor)[tuple(steps)] = pair
    return True
