"""Takes arguments and results apart, independently of how the library does it."""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy
import torch
from torch.nn.parameter import UninitializedTensorMixin

_PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum, type, range)
_CODE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


def parts(value: Any) -> list[tuple[str, Any]] | None:
    """What a container holds, each with its step in a path; ``None`` for a leaf."""
    if isinstance(value, (torch.Tensor, *_PLAIN, *_CODE, torch.Size)):
        return None
    if type(value).__module__.startswith("torch._dynamo"):
        return None  # what torch.compile keeps for itself
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (tuple, list, collections.deque)):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return [(f".{name}", item) for name, item in vars(value).items()]
    return None


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a structure, in order, each with its path."""
    seen: set[int] = set()

    def below(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield path, value
        elif not isinstance(value, torch.nn.Module):
            inside = parts(value)
            if inside is None or id(value) in seen:
                return
            seen.add(id(value))
            for step, item in inside:
                yield from below(item, path + step)
            seen.discard(id(value))

    yield from below(value, path)


class Opened(NamedTuple):
    """A container made comparable: its class, and what it holds by steps of a path."""

    kind: str
    inside: dict[str, Any]


def frozen(value: Any) -> Any:
    """A copy of a structure whose tensors are detached copies."""
    if isinstance(value, Opened):
        return value
    if isinstance(value, torch.Tensor):
        return detached_copy(value)
    if isinstance(value, numpy.ndarray):
        return torch.from_numpy(value.copy())
    inside = parts(value)
    if inside is None or isinstance(value, torch.nn.Module):
        return value if isinstance(value, _PLAIN) else _class_name(value)
    return Opened(_class_name(value), {step: frozen(item) for step, item in inside})


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def detached_copy(tensor: torch.Tensor) -> Any:
    """The tensor's values now, with no tie to the tensor."""
    if isinstance(tensor, UninitializedTensorMixin):
        return _class_name(tensor)
    with torch.no_grad():
        return tensor.detach().clone()


def difference(first: Any, second: Any, path: str = "") -> str:
    """Where two structures made by `frozen` differ first; empty if they are equal to the bit."""
    if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
        return tensor_difference(first, second, path)
    if isinstance(first, Opened) and isinstance(second, Opened):
        if first.kind != second.kind:
            return f"{path or 'result'}: {first.kind} and {second.kind}"
        if list(first.inside) != list(second.inside):
            return f"{path or 'result'}: parts {list(first.inside)} and {list(second.inside)}"
        found = (
            difference(item, second.inside[step], path + step)
            for step, item in first.inside.items()
        )
        return next((text for text in found if text), "")
    same = type(first) is type(second) and (
        first == second or (first != first and second != second)
    )
    return "" if same else f"{path or 'result'}: {first!r} and {second!r}"


def tensor_difference(first: Any, second: Any, path: str) -> str:
    """Where two tensors differ (class, dtype, shape, layout, any bit of a value)."""
    for what in ("class", "dtype", "layout", "shape"):
        one, other = _trait(first, what), _trait(second, what)
        if one != other:
            return f"{path or 'result'}: {what} {one} and {other}"
    with torch.no_grad():
        for one, other in zip(_values(first), _values(second), strict=True):
            if not torch.equal(one, other):
                return f"{path or 'result'}: values differ, {_first_values(one, other)}"
    return ""


def _trait(value: Any, what: str) -> str:
    if what == "class":
        return type(value).__qualname__
    if what == "shape" and value.is_nested:
        return str([tuple(part.shape) for part in value.unbind()])
    return str(getattr(value, what))


def _values(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The numbers in a tensor of any layout, as plain tensors that compare equal on NaN."""
    if type(tensor) is not torch.Tensor and not tensor.is_nested:
        with torch._C.DisableTorchFunctionSubclass():
            tensor = tensor.as_subclass(torch.Tensor)
    if tensor.is_nested:
        return [value for part in tensor.unbind() for value in _values(part)]
    if tensor.layout == torch.sparse_coo:
        # An uncoalesced tensor's own indices and values, without coalescing it.
        return [*_values(tensor._indices()), *_values(tensor._values())]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        indices = [tensor.crow_indices(), tensor.col_indices()]
        return [*indices, *_values(tensor.values())]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        indices = [tensor.ccol_indices(), tensor.row_indices()]
        return [*indices, *_values(tensor.values())]
    if tensor.is_quantized:
        return [tensor.int_repr()]
    if tensor.device.type == "meta":
        return []
    plain = tensor.resolve_conj().resolve_neg().contiguous()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    if plain.is_floating_point():
        nan = plain.isnan()
        return [nan, plain.masked_fill(nan, 0.0)]
    return [plain]


def _first_values(one: torch.Tensor, other: torch.Tensor) -> str:
    return f"{one.flatten()[:3].tolist()} and {other.flatten()[:3].tolist()}"
