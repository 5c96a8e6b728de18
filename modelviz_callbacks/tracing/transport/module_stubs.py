"""A model as another process sees it: modules without code, parameters without values."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from modelviz_callbacks.tracing.capture.module_paths import modules_of
from modelviz_callbacks.tracing.capture.recording import forward_signature
from modelviz_callbacks.tracing.capture.state_names import StateNames, StateTensor
from modelviz_callbacks.tracing.capture.tape import Facts, TensorRecord
from modelviz_callbacks.tracing.capture.torch_internals import (
    buffers_of,
    children_of,
    fill_module,
    is_compiled,
    parameters_of,
)
from modelviz_callbacks.tracing.capture.wrappers import class_of, has_forward

# A model larger than this gets parameters without memory instead of zeros.
_MOST_ZEROS_BYTES = 8 * 2**30


class _TensorRow(NamedTuple):
    """What goes along of a parameter or buffer; no layout stands for the usual one."""

    facts: Facts
    layout: torch.layout | None
    is_parameter: bool
    values: bytes | None


class _ModuleRow(NamedTuple):
    """What goes along of a module; children and tensors by their numbers."""

    home: str
    qualname: str
    name: str
    signature: inspect.Signature | None
    training: bool
    children: tuple[tuple[str, int], ...]
    parameters: tuple[tuple[str, int], ...]
    buffers: tuple[tuple[str, int], ...]


# Module, qualified name and name of a class, and the signature of its forward.
_Class = tuple[str, str, str, inspect.Signature | None]


class Stubs:
    """The modules and the state of a recorded model, numbered.

    Attributes:
        modules: The modules; the model itself is the first.
        tensors: Parameters and buffers, also those that the forward has replaced.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        tensors: list[torch.Tensor],
        names: list[StateTensor],
        records: Sequence[TensorRecord] = (),
        with_values: bool = False,
    ) -> None:
        """Numbers them; the first tensors are those that have names."""
        self._with_values = with_values
        self.modules = modules
        self.tensors = tensors
        self._names = names
        self._records = records
        self._module_numbers = {id(module): index for index, module in enumerate(modules)}
        self._tensor_numbers = {id(tensor): index for index, tensor in enumerate(tensors)}
        self._facts: dict[Facts, Facts] = {}
        self._classes: dict[type[nn.Module], _Class] = {}

    @classmethod
    def of(
        cls,
        model: nn.Module,
        others: Iterable[nn.Module],
        state: StateNames,
        with_values: bool,
    ) -> Stubs:
        """The stubs of a model.

        Args:
            model: The model recorded.
            others: Modules that were called, its own among them.
            state: The names of its parameters and buffers.
            with_values: Whether the values of dense tensors go along.
        """
        modules = {id(module): module for module in modules_of(model)}
        for other in others:
            if id(other) not in modules:
                modules |= {id(module): module for module in modules_of(other)}
        named = state.all()
        tensors = {id(tensor): tensor for tensor, _ in named}
        for module in modules.values():
            for table in (parameters_of(module), buffers_of(module)):
                for tensor in table.values():
                    if tensor is not None:
                        tensors.setdefault(id(tensor), tensor)
        names = [known for _, known in named]
        return cls(list(modules.values()), list(tensors.values()), names, (), with_values)

    def module_number(self, module: nn.Module) -> int | None:
        """The number of a module; ``None`` for one that was neither called nor is part."""
        return self._module_numbers.get(id(module))

    def tensor_number(self, tensor: torch.Tensor | None) -> int | None:
        """The number of a parameter or buffer; ``None`` for any other tensor."""
        return self._tensor_numbers.get(id(tensor))

    def facts(self, record: TensorRecord) -> Facts:
        """The plain facts of a record; equal ones are one object, which pickle writes once."""
        try:
            known = self._facts.get(record.facts)
        except (TypeError, RuntimeError):  # a size that is a symbol
            return record.plain_facts()
        if known is None:
            known = self._facts[record.facts] = record.plain_facts()
        return known

    def reference(self, number: int | None) -> Callable[[], torch.Tensor | None]:
        """A weak reference to a tensor, dead if it is none of the model's."""
        return _dead if number is None else weakref.ref(self.tensors[number])

    def state(self) -> StateNames:
        """The names of the state, with what was known of the tensors in the training process."""
        named = zip(self.tensors, self._names, strict=False)
        facts = {
            id(tensor): record
            for tensor, record in zip(self.tensors, self._records or (), strict=False)
        }
        return StateNames.restored(self.modules[0], named, facts)

    def __reduce__(self) -> tuple[Any, ...]:
        # As bare tuples: pickle asks each object with a name what it is.
        modules = [self._module_row(module) for module in self.modules]
        tensors = [self._tensor_row(tensor) for tensor in self.tensors]
        names = [tuple(known) for known in self._names]
        return _restored, (modules, tensors, names)

    def _module_row(self, module: nn.Module) -> tuple[Any, ...]:
        """The fields of a `_ModuleRow`."""
        return (
            *self._class(module),
            module.training,
            _numbered(children_of(module), self._module_numbers),
            _numbered(parameters_of(module), self._tensor_numbers),
            _numbered(buffers_of(module), self._tensor_numbers),
        )

    def _class(self, module: nn.Module) -> _Class:
        """What the class of a module tells of it; looked up once for each."""
        if "forward" in vars(module) or is_compiled(module):
            return _class_of(module)  # its own
        known = self._classes.get(type(module))
        if known is None:
            known = self._classes[type(module)] = _class_of(module)
        return known

    def _tensor_row(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        """The fields of a `_TensorRow`."""
        record = TensorRecord(tensor, 0)
        values = bytes_of(tensor) if self._with_values else None
        layout = None if record.layout is torch.strided else record.layout
        return self.facts(record), layout, _is_parameter(tensor), values


def _is_parameter(tensor: torch.Tensor) -> bool:
    # Most others are plain tensors, and to ask that is quicker.
    return type(tensor) is not torch.Tensor and isinstance(tensor, nn.Parameter)


def _class_of(module: nn.Module) -> _Class:
    cls = class_of(module)
    signature = forward_signature(module) if has_forward(module) else None
    return cls.__module__, cls.__qualname__, cls.__name__, signature


def _numbered(table: Mapping[str, Any], numbers: Mapping[int, int]) -> tuple[tuple[str, int], ...]:
    """The names in one of a module's tables with the numbers of what they stand for."""
    if not table:  # as most are
        return ()
    return tuple([(name, numbers[id(one)]) for name, one in table.items() if one is not None])


def _dead() -> None:
    return None


def bytes_of(tensor: torch.Tensor) -> bytes | None:
    """The elements of a dense tensor in their order; ``None`` for any other tensor."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return None
    if tensor.is_nested or type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return None  # its elements may lie anywhere: to read its memory can end the process
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def tensor_of(
    values: bytes | None, shape: tuple[int, ...] | None, dtype: torch.dtype, device: str = "cpu"
) -> torch.Tensor:
    """A tensor from `bytes_of`; without values one of zeros, which take memory when read."""
    if values is None:
        # A quantised one as the integers it consists of.
        plain = torch.uint8 if str(dtype).startswith("torch.q") else dtype
        return torch.zeros(shape or (), dtype=plain, device=device)
    if not values:
        return torch.empty(shape or (), dtype=dtype)
    return torch.frombuffer(bytearray(values), dtype=dtype).reshape(shape or ())


# --- what the other process calls


def _restored(
    module_rows: list[tuple[Any, ...]],
    tensor_rows: list[tuple[Any, ...]],
    names: list[tuple[str, str, tuple[str, ...]]],
) -> Stubs:
    modules = [_ModuleRow._make(row) for row in module_rows]
    tensors = [_TensorRow._make(row) for row in tensor_rows]
    records = [
        TensorRecord.restored(_dead, 0, row.facts, 0, row.layout or torch.strided)
        for row in tensors
    ]
    size = sum(math.prod(row.facts[0] or ()) * row.facts[1].itemsize for row in tensors)
    device = "cpu" if size <= _MOST_ZEROS_BYTES else "meta"
    # Where values were asked for, zeros in place of those that cannot be read would be false.
    has_values = any(row.values is not None for row in tensors)
    without = "meta" if has_values else device
    made = [_tensor(row, device if row.values is not None else without) for row in tensors]
    stubs = [_stub_class(row.home, row.qualname, row.name, row.signature)() for row in modules]
    for stub, row in zip(stubs, modules, strict=True):
        stub.training = row.training
        fill_module(
            stub,
            {name: stubs[number] for name, number in row.children},
            {name: made[number] for name, number in row.parameters},
            {name: made[number] for name, number in row.buffers},
        )
    return Stubs(stubs, made, [StateTensor(*row) for row in names], records)


def _tensor(row: _TensorRow, device: str) -> torch.Tensor:
    shape, dtype, _, requires_grad, *_ = row.facts
    made = tensor_of(row.values, shape, dtype, device)
    can_train = requires_grad and (dtype.is_floating_point or dtype.is_complex)
    return nn.Parameter(made, can_train) if row.is_parameter else made


@cache
def _stub_class(
    home: str, qualname: str, name: str, signature: inspect.Signature | None
) -> type[nn.Module]:
    """A class with the name of a model's, and the signature of its forward."""
    members: dict[str, Any] = {"__module__": home, "__qualname__": qualname}
    if signature is not None:
        receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)

        def forward(_: nn.Module, *__: Any, **___: Any) -> Any:
            raise NotImplementedError

        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [receiver, *signature.parameters.values()]
        )
        members["forward"] = forward
    return type(name, (nn.Module,), members)
