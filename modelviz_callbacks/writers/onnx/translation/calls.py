"""One torch call without its tensors: what it is, what makes it equal to others, how to make it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from modelviz_callbacks.writers.onnx.exporter_internals import OpOverload, OpOverloadPacket
from modelviz_callbacks.writers.onnx.replacements.table import REPLACEMENTS

# Functions of these packages are what they are for the life of the process.
_LASTING = ("torch", "_operator", "builtins", "math", "modelviz_callbacks", "torch_geometric")

# Namespaces of operators that torch itself defines.
_TORCHS = ("aten", "prim", "prims")

# A function and the arguments of one call; `TensorPlace` stands for the tensors.
Target = Callable[..., Any] | str


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Stands for tensor number ``index`` among the arguments of a call."""

    index: int


@dataclass(frozen=True)
class Call:
    """One torch call without its tensors.

    Attributes:
        target: The function, or the name of a method.
        args: Its arguments, with `TensorPlace` for tensors.
        kwargs: Likewise.
        tensors: Shape, strides and dtype of each tensor.
        results: Which of the tensors in the result are wanted.
        written: Which of the argument tensors are wanted as the call leaves them.
        expected: dtype of each tensor wanted, as torch has it.
    """

    target: Target
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    results: tuple[int, ...]
    written: tuple[int, ...]
    expected: tuple[torch.dtype, ...]

    @property
    def function(self) -> Any:
        """What is called: the function object, also where a method stands by its name."""
        target = self.target
        if isinstance(target, str):
            return getattr(torch.Tensor, target, None)
        return target if isinstance(target, Hashable) else None

    @property
    def is_foreign(self) -> bool:
        """Whether it is an operator that somebody else than torch has registered."""
        target = self.target
        if isinstance(target, OpOverload):
            return target.namespace not in _TORCHS
        if isinstance(target, OpOverloadPacket):
            return str(target).partition(".")[0] not in _TORCHS
        return False

    def key(self) -> Any:
        """Equal for equal calls; ``None`` where nothing can be said."""
        target = self.target
        if not isinstance(target, str):
            module = getattr(target, "__module__", None) or type(target).__module__
            if module.partition(".")[0] not in _LASTING or "<locals>" in repr(target):
                return None
        try:
            arguments = (_key(self.args), _key(self.kwargs))
        except TypeError:
            return None
        return target, arguments, self.tensors, self.results, self.written, self.expected

    def body(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Makes the call on other tensors, writes to none of them."""
        given = list(tensors)
        for index in self.written:
            given[index] = given[index].clone()
        same = replace(self, target=REPLACEMENTS.get(self.function, self.target))
        result = same.run(given, torch.device("cpu"))
        found = list(tensors_in(result))
        return (*(found[i] for i in self.results), *(given[i] for i in self.written))

    def run(self, tensors: Sequence[torch.Tensor], device: torch.device) -> Any:
        """Makes the call; every device among the arguments is this one instead."""
        args = filled(self.args, tensors, device)
        kwargs = filled(self.kwargs, tensors, device)
        if isinstance(self.target, str):
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


def filled(value: Any, tensors: Sequence[torch.Tensor], device: torch.device) -> Any:
    """Arguments with the tensors in their slots, on one device."""
    if isinstance(value, TensorPlace):
        return tensors[value.index]
    if isinstance(value, torch.device):
        return device
    if type(value) in (tuple, list):
        return type(value)([filled(item, tensors, device) for item in value])
    if type(value) is dict:
        return {key: filled(item, tensors, device) for key, item in value.items()}
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice(*(filled(part, tensors, device) for part in parts))
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a result, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def _key(value: Any) -> Any:
    if value is None or isinstance(value, (TensorPlace, str)):
        return value
    if isinstance(value, (bool, int, float, complex)):
        # 1, 1.0 and True are equal, and so are 0.0 and -0.0.
        return type(value).__name__, repr(value)
    if isinstance(value, (tuple, list)):
        return type(value).__name__, tuple([_key(item) for item in value])
    if isinstance(value, dict):
        return "dict", tuple([(key, _key(item)) for key, item in value.items()])
    if isinstance(value, slice):
        return "slice", _key(value.start), _key(value.stop), _key(value.step)
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return str(value)
    if value is Ellipsis:
        return "..."
    raise TypeError(f"a {type(value).__name__} is like no other")
